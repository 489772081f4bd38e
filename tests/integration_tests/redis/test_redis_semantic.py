"""Semantic entries that several processes and hosts share through a real Redis."""

import asyncio
import json
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration

from langchain_tokenopt.caches import (
    CachedChatModel,
    SemanticCache,
    cache_control,
    semantic_redis,
    semantic_vectors,
)
from langchain_tokenopt.caches.decision import PRIOR
from langchain_tokenopt.caches.index import VectorIndex
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_redis import RedisQuestions
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel

Server = Any
EMBEDDINGS = StaticEmbeddings()
ASKED = "How do I reset my password?"
LIKE = "How can I reset my password please?"
# Loads FAISS, which may take as long as a look-up waits for another that reads.
VectorIndex().add(b"", 1, [1.0])
SEARCHES = ("server", "local")


def prompt(text: str) -> str:
    return dumps([HumanMessage(text)])


def keep(cache: SemanticCache, text: str = ASKED, said: str = "Click here.") -> None:
    cache.update(prompt(text), "m", [ChatGeneration(message=AIMessage(said))])


def served(cache: SemanticCache, text: str = LIKE) -> str | None:
    found: Any = cache.lookup(prompt(text), "m")
    return None if found is None else str(found[0].text)


async def aserved(cache: SemanticCache, text: str = LIKE) -> str | None:
    found: Any = await cache.alookup(prompt(text), "m")
    return None if found is None else str(found[0].text)


class Hours:
    """A clock that tests set forward."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped


class Hosts:
    """Makes caches that share a Redis, each with connections of its own."""

    def __init__(self, url: str, namespace: str, search: Any) -> None:
        self.url, self.namespace, self.search = url, namespace, search
        self.hours = Hours()
        self.made: list[SemanticCache] = []

    def questions(self, **options: Any) -> RedisQuestions:
        known = {"namespace": self.namespace, "search": self.search, "monotonic": self.hours}
        return RedisQuestions(self.url, **{**known, **options})

    def cache(self, questions: RedisQuestions | None = None, **options: Any) -> SemanticCache:
        known = {"threshold": 0.8, "audit_rate": 1e-9}
        kept = self.questions() if questions is None else questions
        cache = SemanticCache(EMBEDDINGS, questions=kept, **{**known, **options})
        self.made.append(cache)
        return cache

    def names(self, pattern: str = "*") -> list[bytes]:
        with redis.Redis.from_url(self.url) as client:
            found: Any = list(client.scan_iter(f"{{{self.namespace}:semantic}}:1:{pattern}"))
            return sorted(found)

    def close(self) -> None:
        for cache in self.made:
            cache.close()


@pytest.fixture(params=SEARCHES)
def hosts(request: Any, redis_server: Server, namespace: str) -> Iterator[Hosts]:
    made = Hosts(redis_server.url, namespace, request.param)
    yield made
    made.close()


@pytest.fixture(params=SEARCHES)
def own_hosts(request: Any, own_server: Server, namespace: str) -> Iterator[Hosts]:
    """Hosts of a server that one test may kill."""
    made = Hosts(own_server.url, namespace, request.param)
    yield made
    made.close()


# --- what is shared -----------------------------------------------------------------------------


def test_one_host_serves_what_another_kept(hosts: Hosts) -> None:
    one, other = hosts.cache(), hosts.cache()
    assert served(other) is None

    keep(one)

    assert served(one) == "Click here."
    assert_soon(lambda: served(other) == "Click here.")
    assert one.stats().entries == other.stats().entries == 1


def assert_soon(condition: Callable[[], bool], *, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.01)


async def test_it_works_from_the_event_loop(hosts: Hosts) -> None:
    one, other = hosts.cache(), hosts.cache()
    with cache_control(tags=["help"]):
        await one.aupdate(prompt(ASKED), "m", [ChatGeneration(message=AIMessage("Click."))])

    assert await aserved(other) == "Click."
    assert await other.ainvalidate(["help"]) == 1
    assert await aserved(other) is None

    await one.aupdate(prompt(ASKED), "m", [ChatGeneration(message=AIMessage("Click."))])
    await one.aclear()
    assert await aserved(one) is None


async def test_a_model_of_one_host_answers_with_what_another_host_asked(hosts: Hosts) -> None:
    first = CachedChatModel(ScriptedModel(["Click here."]), cache=hosts.cache())
    unasked = ScriptedModel(["Never said."])
    second = CachedChatModel(unasked, cache=hosts.cache())
    await first.ainvoke(ASKED)

    assert (await second.ainvoke(LIKE)).text == "Click here."
    assert "".join(chunk.text for chunk in second.stream(LIKE)) == "Click here."
    assert unasked.calls == 0


def test_a_host_that_comes_later_finds_all(hosts: Hosts) -> None:
    one = hosts.cache()
    for topic in ("password", "card", "address", "phone"):
        keep(one, f"How do I change my {topic}?", topic)

    later = hosts.cache()

    assert served(later, "How can I change my card please?") == "card"
    assert later.stats().entries == 4


def test_tenants_never_mix(hosts: Hosts) -> None:
    ann, bob = hosts.cache(tenant="ann"), hosts.cache(tenant="bob")
    keep(ann, said="of ann")

    assert served(bob) is None
    keep(bob, said="of bob")
    assert (served(ann), served(bob)) == ("of ann", "of bob")


def test_invalidation_by_tag_is_seen_by_the_others(hosts: Hosts) -> None:
    one, other = hosts.cache(), hosts.cache()
    with cache_control(tags=["prices", "eu"]):
        keep(one)
    keep(one, "Where is my parcel?", "On its way.")
    assert_soon(lambda: served(other) is not None)

    assert one.invalidate(["prices", "unknown"]) == 1

    assert served(one) is None
    assert_soon(lambda: served(other) is None)
    assert served(other, "Where is my parcel?") == "On its way."


def test_an_answer_that_was_corrected_is_served_by_no_host(hosts: Hosts) -> None:
    one, other = hosts.cache(), hosts.cache()
    keep(one)
    assert_soon(lambda: served(other) is not None)
    found: Any = other.lookup(prompt(LIKE), "m")

    # A third host, which served something else, is told of it.
    third = hosts.cache()
    keep(third, "Where is my parcel?", "On its way.")
    assert served(third, "Where is my parcel?") is not None
    assert third.correct(found[0].message)

    assert third._model.learned == 0
    assert_soon(lambda: served(one) is None and served(other) is None)
    assert not one.correct(found[0].message)


def test_clear_is_seen_and_leaves_other_namespaces_alone(hosts: Hosts) -> None:
    one, other = hosts.cache(), hosts.cache()
    apart = hosts.cache(hosts.questions(namespace=f"{hosts.namespace}2"))
    for cache in (one, apart):
        keep(cache)
    assert_soon(lambda: served(other) is not None)

    one.clear()

    assert_soon(lambda: served(other) is None)
    assert served(apart) == "Click here."
    assert len(hosts.names()) <= 2  # its new name, and what was learned
    keep(one, said="Anew.")
    assert_soon(lambda: served(other) == "Anew.")


def test_entries_end_when_their_life_does(hosts: Hosts) -> None:
    one = hosts.cache(ttl_s=0.2)
    other = hosts.cache()
    keep(one)
    assert served(other) == "Click here."

    assert_soon(lambda: served(other) is None)
    keep(one, "Where is my parcel?", "On its way.")
    assert len(hosts.names("*:e:*")) == 1
    assert other.stats().entries == 1 or hosts.search == "local"


def test_the_longest_unused_make_room_over_all_hosts(hosts: Hosts) -> None:
    one = hosts.cache(hosts.questions(max_entries=2))
    other = hosts.cache(hosts.questions(max_entries=2))
    keep(one, "Where is my parcel?", "parcel")
    keep(other, "How do I reset my password?", "password")
    assert served(one, "Where is my parcel?") == "parcel"

    keep(one, "Why was my card declined?", "card")

    assert_soon(lambda: served(other, "Why was my card declined?") == "card")
    assert served(other, "Where is my parcel?") == "parcel"
    assert served(other, "How do I reset my password?") is None
    assert len(hosts.names("*:e:*")) == 2


def test_of_very_many_uses_the_latest_are_told_to_redis(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic_redis, "_MOST_USED", 2)
    cache = hosts.cache(hosts.questions(max_entries=4))
    topics = ["Where is my parcel?", ASKED, "Why was my card declined?", "Do you ship to Norway?"]
    for n, topic in enumerate(topics):
        keep(cache, topic, str(n))
    for n, topic in enumerate(topics[:3]):
        assert served(cache, topic) == str(n)

    keep(cache, "How tall is the tower in the middle of the town?", "tall")

    # The use of the first was forgotten, those of the second and the third were not.
    assert [served(cache, topic) for topic in topics] == [None, "1", "2", "3"]


def test_what_is_remembered_of_entries_and_words_is_bounded_and_read_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic_vectors, "_MOST_DECODED", 1)
    monkeypatch.setattr(semantic_vectors, "_MOST_WORDS", 3)
    one, other = hosts.cache(), hosts.cache()
    topics = ["Where is my parcel?", ASKED, "Why was my card declined?"]
    for topic in topics:
        keep(one, topic, topic)

    assert_soon(lambda: served(other, topics[-1]) == topics[-1])
    for _ in range(2):
        assert [served(other, topic) for topic in topics] == topics


def test_nothing_is_left_of_what_was_forgotten(hosts: Hosts) -> None:
    cache = hosts.cache()
    with cache_control(tags=["t"]):
        keep(cache)
    cache.invalidate(["t"])

    left = {key.rsplit(b":", 1)[-1] for key in hosts.names()}
    assert left <= {b"gen", b"log", b"seq", b"words", b"learned"}


def test_what_was_learned_is_read_by_the_next_host(hosts: Hosts) -> None:
    one = hosts.questions()
    coefficients = [value + 1 for value in PRIOR]
    one.save(coefficients)

    assert hosts.questions().learned() == pytest.approx(coefficients)
    cache = hosts.cache(threshold=None)
    served(cache)
    assert cache._model.coefficients == pytest.approx(coefficients)


def test_both_ways_to_search_decide_alike(redis_server: Server, namespace: str) -> None:
    chance = random.Random(5)
    verbs = ("reset", "change", "find", "lose", "see", "share", "print", "check", "keep", "explain")
    things = ("password", "card", "address", "invoice", "order", "account", "limit", "plan", "fee")
    forms = ("How do I {} my {}?", "How can I {} the {} please?", "I want to {} my {}, how?")
    asked = [
        chance.choice(forms).format(chance.choice(verbs), chance.choice(things)) for _ in range(400)
    ]

    def run(search: str) -> list[tuple[str | None, float]]:
        made = Hosts(redis_server.url, f"{namespace}-{search}", search)
        cache = made.cache(threshold=None, seed=1, audit_rate=0.03, max_error_rate=0.1)
        said = []
        for text in asked:
            found: Any = cache.lookup(prompt(text), "m")
            if found is None:
                words = text.replace("?", "").split()
                keep(
                    cache, text, " ".join(sorted({*verbs, *things} & {w.strip(",") for w in words}))
                )
                said.append((None, 0.0))
            else:
                mark = found[0].message.response_metadata["tokenopt_cache"]
                said.append((mark["question"], round(mark["similarity"], 3)))
        assert made.made[0]._kept.search == search  # type: ignore[attr-defined]  # of Redis
        made.close()
        return said

    by_server, by_copy = run("server"), run("local")

    assert sum(hit is not None for hit, _ in by_server) > 50
    assert by_server == by_copy


def test_auto_asks_the_server_where_it_can(redis_server: Server, namespace: str) -> None:
    hosts = Hosts(redis_server.url, namespace, "auto")
    questions = hosts.questions()
    assert questions.search is None

    keep(hosts.cache(questions))

    assert questions.search == "server"
    hosts.close()


def test_auto_searches_here_where_the_server_refuses(own_server: Server, namespace: str) -> None:
    refused = ("-vcard", "-vadd", "-vsim", "-vrem")
    own_server.admin.execute_command("ACL", "SETUSER", "default", *refused)
    hosts = Hosts(own_server.url, namespace, "auto")
    questions = hosts.questions()
    one, other = hosts.cache(questions), hosts.cache()

    keep(one)

    assert served(other) == "Click here."
    assert questions.search == "local"
    assert questions.failures == 0
    hosts.close()


CHILD = """
    import sys
    sys.path.insert(0, {here!r})
    from test_redis_semantic import Hosts, keep, served
    from langchain_tokenopt.caches import cache_control
    hosts = Hosts({url!r}, {namespace!r}, {search!r})
    cache = hosts.cache()
    for line in sys.stdin:
        what, _, text = line.strip().partition(" ")
        if what == "keep":
            with cache_control(tags=["child"]):
                keep(cache, text, "of the child")
            print("kept", flush=True)
        elif what == "served":
            print(served(cache, text), flush=True)
        elif what == "invalidate":
            print(cache.invalidate([text]), flush=True)
"""


def test_two_processes_share_and_hear_of_each_other(hosts: Hosts) -> None:
    here = str(Path(__file__).parent)
    code = textwrap.dedent(CHILD).format(
        here=here, url=hosts.url, namespace=hosts.namespace, search=hosts.search
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def tell(line: str) -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(line + "\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    cache = hosts.cache()
    try:
        assert tell(f"keep {ASKED}") == "kept"
        assert served(cache) == "of the child"
        with cache_control(tags=["mine"]):
            keep(cache, "Where is my parcel?", "On its way.")
        assert_soon(lambda: tell("served Where is my parcel?") == "On its way.")
        cache.invalidate(["mine"])
        assert_soon(lambda: tell("served Where is my parcel?") == "None")
        assert tell("invalidate child") == "1"
        assert_soon(lambda: served(cache) is None)
    finally:
        child.communicate(timeout=20)


# --- what others may have written ---------------------------------------------------------------


@pytest.mark.parametrize("signing_key", [None, b"secret"], ids=["unsigned", "signed"])
def test_hostile_bytes_are_passed_over(hosts: Hosts, signing_key: bytes | None) -> None:
    cache = hosts.cache(hosts.questions(signing_key=signing_key))
    keep(cache)
    (name,) = hosts.names("*:e:*")
    with redis.Redis.from_url(hosts.url) as client:
        good: Any = client.get(name)
        chance = random.Random(1)
        hostile = [b"", b"TOQ1", b"cos\nsystem\n(S'exit'\ntR.", good[:-1], good + b"x", good * 2]
        hostile += [chance.randbytes(n) for n in (20, 60, 200)]
        for _ in range(30):
            place = chance.randrange(len(good))
            changed = good[place] ^ 1 << chance.randrange(8)
            hostile.append(good[:place] + bytes([changed]) + good[place + 1 :])
        for data in hostile:
            client.set(name, data)
            other = hosts.questions(signing_key=signing_key)
            assert served(hosts.cache(other)) is None
            assert (other.unreadable, other.failures) == (1, 0)
        client.set(name, good)
    assert served(hosts.cache(hosts.questions(signing_key=signing_key))) == "Click here."


def test_an_entry_of_another_key_or_without_one_is_passed_over(hosts: Hosts) -> None:
    keep(hosts.cache(hosts.questions(signing_key=None)))
    for key in (b"one", b"two"):
        assert served(hosts.cache(hosts.questions(signing_key=key))) is None
        keep(hosts.cache(hosts.questions(signing_key=key)), said=key.decode())
    assert served(hosts.cache(hosts.questions(signing_key=b"one"))) == "one"


def test_a_signed_entry_is_worth_nothing_for_another_tenant_or_id(hosts: Hosts) -> None:
    ann = hosts.cache(hosts.questions(signing_key=b"s"), tenant="ann")
    bob = hosts.cache(hosts.questions(signing_key=b"s"), tenant="bob")
    keep(ann, said="of ann")
    (of_ann,) = hosts.names("*:e:*")
    keep(bob, said="of bob")
    (of_bob,) = set(hosts.names("*:e:*")) - {of_ann}
    with redis.Redis.from_url(hosts.url) as client:
        client.copy(of_ann, of_bob, replace=True)

    later = hosts.questions(signing_key=b"s")
    assert served(hosts.cache(later, tenant="bob")) is None
    assert later.unreadable == 1


@pytest.mark.parametrize("data", [b"[1e999]", b"[]", b'{"a": 1}', b"\x80\x04.", b"[" * 100_000])
def test_hostile_coefficients_are_not_learned(hosts: Hosts, data: bytes) -> None:
    for signing_key in (None, b"secret"):
        with redis.Redis.from_url(hosts.url) as client:
            client.set(f"{{{hosts.namespace}:semantic}}:1:learned", data)
        questions = hosts.questions(signing_key=signing_key)

        assert questions.learned() is None
        assert questions.unreadable == 1


@pytest.mark.parametrize("what", ["gen", "live", "log", "seq", "about", "words", "v", "expires"])
def test_keys_of_another_kind_break_no_call(hosts: Hosts, what: str) -> None:
    cache = hosts.cache()
    keep(cache)
    with redis.Redis.from_url(hosts.url) as client:
        for name in hosts.names():
            if f":{what}" in name.decode():
                client.delete(name)
                client.rpush(name, b"\xff", "x")
        for asking in (cache, hosts.cache()):
            served(asking)
            keep(asking, "Where is my parcel?", "On its way.")
            asking.invalidate(["x"])
        hosts.hours.skipped += 10
        client.delete(*hosts.names())
        keep(cache, said="Anew.")
        assert served(cache) == "Anew."


def test_entries_of_other_embeddings_are_passed_over(hosts: Hosts) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    small = SemanticCache(
        DeterministicFakeEmbedding(size=8), questions=hosts.questions(), threshold=0.8
    )
    keep(small, said="of the small")
    keep(hosts.cache(), said="of the large")

    assert served(hosts.cache()) == "of the large"
    small.close()


# --- when Redis is not well ---------------------------------------------------------------------


def test_a_flush_forgets_everything_at_once(own_hosts: Hosts, own_server: Server) -> None:
    one, other = own_hosts.cache(), own_hosts.cache()
    keep(one)
    assert_soon(lambda: served(other) is not None)

    own_server.admin.flushall()

    assert_soon(lambda: served(one) is None and served(other) is None)
    keep(one, said="Anew.")
    assert_soon(lambda: served(other) == "Anew.")


def test_calls_go_on_while_redis_is_killed_and_it_is_used_again(
    own_hosts: Hosts, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    questions = own_hosts.questions()
    cache = own_hosts.cache(questions)
    keep(cache)
    own_server.kill()

    assert served(cache) is None
    keep(cache, said="Lost.")
    assert served(cache) is None
    assert (questions.failures, questions.skipped > 1) == (1, True)
    own_hosts.hours.skipped += 10
    assert served(cache) is None
    assert questions.failures == 2
    assert sum("semantic entries in Redis" in record.message for record in caplog.records) == 1

    own_server.start()
    own_hosts.hours.skipped += 10
    assert served(cache) is None  # it came back empty
    keep(cache, said="Anew.")
    assert served(cache) == "Anew."


def test_a_redis_that_is_full_still_serves_what_it_has(
    own_hosts: Hosts, own_server: Server
) -> None:
    one, other = own_hosts.cache(), own_hosts.cache()
    with cache_control(tags=["old"]):
        keep(one)
    own_server.admin.config_set("maxmemory", 1)

    keep(one, "Where is my parcel?", "On its way.")

    assert served(one) == served(other) == "Click here."
    assert one.stats().errors == 1
    assert one.invalidate(["old"]) == 1
    assert_soon(lambda: served(other) is None)


def test_what_was_invalidated_in_an_outage_is_not_served_after_it(
    own_hosts: Hosts, own_server: Server
) -> None:
    one, other = own_hosts.cache(), own_hosts.cache()
    with cache_control(tags=["old"]):
        keep(one)
    assert_soon(lambda: served(other) is not None)
    own_server.pause()
    assert one.invalidate(["old"]) == 0
    own_server.resume()
    assert served(one) is None  # Redis is left alone for a moment

    own_hosts.hours.skipped += 10

    assert served(one) is None
    assert_soon(lambda: served(other) is None)
    assert own_hosts.names("*:e:*") == []


def test_a_copy_that_missed_changes_is_read_again(own_server: Server, namespace: str) -> None:
    hosts = Hosts(own_server.url, namespace, "local")
    one, other = hosts.cache(), hosts.cache()
    with cache_control(tags=["old"]):
        keep(one)
    assert served(other) == "Click here."
    one.invalidate(["old"])
    keep(one, "Where is my parcel?", "On its way.")
    (log,) = hosts.names("*:log")
    own_server.admin.xtrim(log, maxlen=0, approximate=False)

    assert_soon(lambda: served(other) is None)
    assert served(other, "Where is my parcel?") == "On its way."
    hosts.close()


def test_a_copy_follows_a_redis_that_lost_its_last_changes(
    own_server: Server, namespace: str
) -> None:
    hosts = Hosts(own_server.url, namespace, "local")
    one, other = hosts.cache(), hosts.cache()
    keep(one, "Where is my parcel?", "On its way.")
    before = {name: own_server.admin.dump(name) for name in hosts.names()}
    keep(one)
    assert_soon(lambda: served(other) is not None)

    # As after a start from an older file, or a replica that took over.
    own_server.admin.flushall()
    for name, dump in before.items():
        own_server.admin.restore(name, 0, dump)

    assert_soon(lambda: served(other) is None)
    assert served(other, "Where is my parcel?") == "On its way."
    hosts.close()


def test_a_thousand_changes_are_read_and_invalidated(hosts: Hosts) -> None:
    one, other = hosts.questions(), hosts.questions()
    asked = Question(text="How?", partition=b"p" * 32, temperature=None)
    chance = random.Random(3)

    def near() -> int:
        return len(other.near(asked, [1.0] * 8, most=8)[0])

    def add(tags: frozenset[str]) -> None:
        vector = [chance.gauss(0, 1) for _ in range(8)]
        said = ChatGeneration(message=AIMessage("So."))
        one.add(asked, vector, answer=said, group=None, ttl_s=60, tags=tags)

    add(frozenset({"few"}))
    assert_soon(lambda: near() == 1)
    for _ in range(1_200):
        add(frozenset({"many"}))

    assert_soon(lambda: near() == 8 and len(other) == 1_201)
    assert one.invalidate(["many"]) == 1_200
    assert_soon(lambda: near() == 1 and len(other) == 1)


async def test_it_works_on_a_cluster(make_server: Callable[..., Server], namespace: str) -> None:
    server = make_server("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    server.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    assert_soon(lambda: b"cluster_state:ok" in server.admin.execute_command("CLUSTER", "INFO"))
    for search in SEARCHES:
        url = f"redis+cluster://127.0.0.1:{server.port}"
        hosts = Hosts(url, f"{namespace}-{search}", search)
        one, other = hosts.cache(), hosts.cache()
        with cache_control(tags=["old"]):
            keep(one)
        assert await aserved(other) == "Click here."
        assert await one.ainvalidate(["old"]) == 1
        keep(one, said="Anew.")
        assert_soon(lambda cache=other: served(cache) == "Anew.")
        await one.aclear()
        assert_soon(lambda cache=other: served(cache) is None)
        assert [cache.stats().errors for cache in (one, other)] == [0, 0]
        hosts.close()


async def test_the_event_loop_goes_on_while_redis_hangs(
    own_hosts: Hosts, own_server: Server
) -> None:
    caches = [own_hosts.cache() for _ in range(4)]
    for cache in caches:
        await aserved(cache)
    longest, last = 0.0, time.monotonic()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    ticking = asyncio.create_task(tick())
    own_server.pause()
    try:
        began = time.monotonic()
        assert await asyncio.gather(*(aserved(cache) for cache in caches)) == [None] * 4
        for cache in caches[:2]:
            await cache.aupdate(prompt(ASKED), "m", [ChatGeneration(message=AIMessage("x"))])
            await cache.ainvalidate(["x"])
        took_s = time.monotonic() - began
    finally:
        own_server.resume()
        ticking.cancel()

    assert longest < 0.4
    assert took_s < 5


def test_many_threads_of_two_tenants_through_kills_and_flushes(
    own_hosts: Hosts, own_server: Server
) -> None:
    stop = threading.Event()
    wrong: list[str] = []
    failed: list[BaseException] = []
    hits = {"before": 0, "after": 0}
    phase = ["before"]

    def ask(tenant: str, seed: int) -> None:
        chance = random.Random(seed)
        cache = own_hosts.cache(tenant=tenant)
        try:
            while not stop.is_set():
                topic = chance.choice(("password", "card", "parcel", "invoice"))
                text = f"Where do I find my {topic}?"
                found = served(cache, text)
                if found is None:
                    with cache_control(tags=[topic]):
                        keep(cache, text, f"{tenant} {topic}")
                elif found == f"{tenant} {topic}":
                    hits[phase[0]] += 1
                else:
                    wrong.append(f"{tenant} {topic}: {found}")
                if chance.random() < 0.02:
                    cache.invalidate([topic])
        except BaseException as error:  # noqa: BLE001 - what a thread raises is lost otherwise
            failed.append(error)

    threads = [
        threading.Thread(target=ask, args=(tenant, seed))
        for seed, tenant in enumerate(("ann", "bob") * 2)
    ]
    for thread in threads:
        thread.start()
    try:
        assert_soon(lambda: hits["before"] > 50, within_s=20)
        own_server.admin.flushall()
        own_server.restart()
        own_server.pause()
        time.sleep(0.7)  # longer than a call waits
        own_server.resume()
        own_hosts.hours.skipped += 10
        phase[0] = "after"
        assert_soon(lambda: hits["after"] > 50, within_s=20)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)

    assert (wrong, failed) == ([], [])


@pytest.mark.parametrize(
    "options",
    [{"search": "both"}, {"max_entries": 0}, {"namespace": "a b"}, {"timeout_s": 0}],
    ids=lambda options: next(iter(options)),
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RedisQuestions("redis://localhost:1", **options)


def test_a_file_and_a_redis_at_once_are_refused(hosts: Hosts, tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="path and questions"):
        hosts.cache(path=tmp_path / "file")


def test_a_mark_that_was_stored_as_json_still_names_its_entry(hosts: Hosts) -> None:
    cache = hosts.cache()
    keep(cache)
    found: Any = cache.lookup(prompt(LIKE), "m")
    metadata = json.loads(json.dumps(found[0].message.response_metadata))

    assert cache.correct(AIMessage("Click here.", response_metadata=metadata))
    assert served(cache) is None
