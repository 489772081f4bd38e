"""Serve the page from this machine: no telemetry, no network, no watching of files."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

_APP = Path(__file__).with_name("script") / "tokenopt_app.py"
_OPTIONS = {
    "server.headless": "true",
    "browser.gatherUsageStats": "false",
    "server.fileWatcherType": "none",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "theme.base": "light",
    "theme.primaryColor": "#2f6fed",
}


def command_of(
    ledger: str | Path, *, host: str, port: int, prices: str | Path | None = None
) -> list[str]:
    """Return the command that serves the page."""
    options = {**_OPTIONS, "server.address": host, "server.port": str(port)}
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    files = [str(Path(file).resolve()) for file in (ledger, prices) if file is not None]
    return [sys.executable, "-P", "-m", "streamlit", "run", str(_APP), *flags, "--", *files]


@contextmanager
def served(
    ledger: str | Path,
    *,
    host: str = "localhost",
    port: int = 8501,
    prices: str | Path | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve the page in a process of its own for the length of the block.

    Raises:
        MissingExtraError: Streamlit is not installed.
        ConfigurationError: The port is taken.
    """
    if find_spec("streamlit") is None:
        raise MissingExtraError(package="streamlit", extra="dashboard")
    _check_free(host, port)
    process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
        command_of(ledger, host=host, port=port, prices=prices)
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _check_free(host: str, port: int) -> None:
    try:
        addresses: Sequence[tuple[int, int, int, str, tuple[str, int]]] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )  # type: ignore[assignment]  # IPv6 addresses have four parts, passed on as they are
        family, kind, protocol, _, address = addresses[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        message = (
            f"expected a free port, got {host}:{port}, which cannot be served on: {error}; choose "
            "another with --port"
        )
        raise ConfigurationError(message) from error
