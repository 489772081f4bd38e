"""Serve one GGUF model on loopback: `python -m langchain_tokenopt.demo.local_server FILE PORT`."""

import signal
import sys
from importlib.util import find_spec

from langchain_tokenopt.demo.local_model import LOCAL_MODEL

EXTRA_MISSING = 3


def main() -> None:
    """Serve until the process is told to end."""
    if find_spec("xllamacpp") is None:
        sys.exit(EXTRA_MISSING)
    import xllamacpp  # noqa: PLC0415 - only this process loads the engine

    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.model_alias = {LOCAL_MODEL}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(sys.argv[2])
    server = xllamacpp.Server(parameters)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
