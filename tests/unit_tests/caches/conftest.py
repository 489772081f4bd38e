"""Fixtures for tests of callers that wait for each other."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, as long as fifteen seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        for _ in range(3_000):
            if condition():
                return
            time.sleep(0.005)
        pytest.fail("waited in vain")

    return wait


@pytest.fixture
def auntil() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """The same for an event loop, which goes on meanwhile."""

    async def wait(condition: Callable[[], bool]) -> None:
        for _ in range(3_000):
            if condition():
                return
            await asyncio.sleep(0.005)
        pytest.fail("waited in vain")

    return wait
