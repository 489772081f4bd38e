"""Fixtures that more than one part's tests need."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from langchain_tokenopt.testing import LoopbackServer

# How long an example takes says nothing on a busy machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def recorded_data() -> Path:
    """The folder of recorded traffic: `TOKENOPT_DATA`, or `../shared/data` beside the project."""
    folder = Path(os.environ.get("TOKENOPT_DATA") or SHARED)
    if not folder.is_dir():
        pytest.skip(f"no recorded data in {folder}; point TOKENOPT_DATA at it")
    return folder


@pytest.fixture
def echo_server() -> Iterator[LoopbackServer]:
    """A loopback server that repeats the last user message."""
    with LoopbackServer(lambda request: f"You said: {request.text}") as server:
        yield server
