"""The verifier of a semantic cache has the last word: for a limited time, off the event loop."""

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration

from langchain_tokenopt.caches import SemanticCache
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError

EMBEDDINGS = StaticEmbeddings()
ASKED = "How do I reset my password?"
LIKE = "How can I reset my password please?"


def prompt(text: str) -> str:
    return dumps([HumanMessage(text)])


def kept(verifier: Any, **options: Any) -> SemanticCache:
    cache = SemanticCache(EMBEDDINGS, verifier=verifier, threshold=0.8, audit_rate=1e-9, **options)
    cache.update(prompt(ASKED), "m", [ChatGeneration(message=AIMessage("Click here."))])
    return cache


def lookup(cache: SemanticCache) -> bool:
    return cache.lookup(prompt(LIKE), "m") is not None


async def alookup(cache: SemanticCache) -> bool:
    return await cache.alookup(prompt(LIKE), "m") is not None


@pytest.fixture
def hanging() -> Iterator[Any]:
    """A verifier that ends with the test."""
    ended = threading.Event()

    def verifier(asked: str, question: str, answer: str) -> bool:
        return ended.wait(30)

    yield verifier
    ended.set()


async def yes(asked: str, question: str, answer: str) -> bool:
    await asyncio.sleep(0)
    return (question, answer) == (ASKED, "Click here.")


async def no(asked: str, question: str, answer: str) -> bool:
    return False


async def fails(asked: str, question: str, answer: str) -> bool:
    raise RuntimeError("no connection")


class Object:
    async def __call__(self, asked: str, question: str, answer: str) -> bool:
        return await yes(asked, question, answer)


@pytest.mark.parametrize(
    ("verifier", "served"),
    [
        (yes, True),
        (no, False),
        (fails, False),
        (Object(), True),
        (functools.partial(yes), True),
        (lambda asked, question, answer: yes(asked, question, answer), True),  # noqa: PLW0108 - plain
        (lambda asked, question, answer: no(asked, question, answer), False),  # noqa: PLW0108
        (lambda *texts: True, True),
        (lambda *texts: 1 / 0, False),
    ],
    ids=[
        "yes", "no", "fails", "object", "partial", "returns a coroutine", "returns a no", "plain",
        "plain fails",
    ],
)  # fmt: skip
async def test_a_verifier_may_be_a_function_or_a_coroutine_function(
    verifier: Any, served: bool
) -> None:
    cache = kept(verifier)

    assert await alookup(cache) is served
    assert lookup(cache) is served  # on a thread that has a running event loop
    assert await asyncio.to_thread(lookup, cache) is served
    assert cache.stats().unconfirmed == (0 if served else 3)


async def test_a_verifier_that_takes_too_long_confirms_nothing(hanging: Any) -> None:
    async def ahanging(asked: str, question: str, answer: str) -> bool:
        await asyncio.sleep(30)
        return True

    for verifier in (hanging, ahanging):
        cache = kept(verifier, verifier_timeout_s=0.05)
        began = time.monotonic()
        assert not await alookup(cache)
        assert not lookup(cache)
        assert time.monotonic() - began < 5
        assert (cache.stats().unconfirmed, cache.stats().errors) == (2, 2)


async def test_the_event_loop_goes_on_while_a_plain_verifier_thinks(hanging: Any) -> None:
    cache = kept(hanging, verifier_timeout_s=0.3)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert not await alookup(cache)
    ticking.cancel()

    assert ticks > 10


def test_verifiers_that_never_end_are_bounded_in_number(hanging: Any) -> None:
    cache = kept(hanging, verifier_timeout_s=0.001)
    before = threading.active_count()

    for _ in range(80):
        assert not lookup(cache)

    assert threading.active_count() - before <= 64
    assert cache.stats().unconfirmed == 80


def test_a_verifier_sees_the_context_of_its_call() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    seen = []

    def verifier(asked: str, question: str, answer: str) -> bool:
        seen.append(who.get())
        return True

    who.set("ann")
    assert lookup(kept(verifier))
    assert seen == ["ann"]


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    ended = threading.Event()
    cache = kept(lambda *texts: ended.wait(10), verifier_timeout_s=10)

    async def run() -> None:
        asking = asyncio.create_task(alookup(cache))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(run())
    ended.set()  # the thread ends after its event loop: nobody hears of it
    assert lookup(cache)


def test_a_time_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="verifier_timeout_s"):
        kept(yes, verifier_timeout_s=0)
