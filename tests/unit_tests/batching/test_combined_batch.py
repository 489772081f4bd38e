"""Several prompts in one request: who gets which answer, and what goes wrong."""

import asyncio
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, BaseMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.accounting import Budget, BudgetedChatModel, BudgetGuard
from langchain_tokenopt.batching import CombinedBatch
from langchain_tokenopt.batching.combine_wire import items_of
from langchain_tokenopt.errors import BatchAnswerError, BudgetExceededError, ConfigurationError
from langchain_tokenopt.testing import LoopbackServer, Reply, ScriptedModel
from langchain_tokenopt.testing.wire import ChatRequest, Latency, RateLimited, ServerError

Change = Callable[[list[dict[str, Any]]], Any]


def shouted(text: str) -> str:
    return text.upper()


def listed(request: ChatRequest) -> list[dict[str, Any]] | None:
    """Return the items of a combined request, `None` for any other."""
    text = str(request.messages[-1]["content"])
    if not text.startswith('{"echo_words"'):
        return None
    return parsed(text)


def given_items(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    return parsed(str(messages[-1].text))


def parsed(text: str) -> list[dict[str, Any]]:
    """Return the items of a request, each with how many words it wants back."""
    given = json.loads(text)
    return [{**item, "words": given["echo_words"]} for item in given["items"]]


def entries(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": item["id"],
            "echo": " ".join(item["item"].split()[: item["words"]]),
            "answer": shouted(item["item"]),
        }
        for item in items
    ]


class Shop:
    """A loopback server that shouts items back, in a way that a test may change."""

    def __init__(self, change: Change | None = None) -> None:
        self.change = change
        self.sizes: list[int] = []
        self.latency: Latency | None = None
        self.interrupted = False
        self.server = LoopbackServer(self._answer)

    def _answer(self, request: ChatRequest) -> Any:
        items = listed(request)
        self.sizes.append(1 if items is None else len(items))
        if items is None:
            return Reply(text=shouted(request.text), latency=self.latency)
        made: Any = entries(items)
        if self.change is not None:
            made = self.change(made)
        if isinstance(made, list):
            made = json.dumps({"answers": made})
        return Reply(text=made, latency=self.latency) if isinstance(made, str) else made

    def batch(self, **options: Any) -> CombinedBatch[Any]:
        model = ChatOpenAI(
            model="gpt-5-mini", base_url=self.server.base_url, api_key="any", max_retries=0
        )
        return CombinedBatch(model, **{"instruction": "Repeat in capitals.", **options})


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    with made.server:
        yield made


ITEMS = [f"item number {n} of the list" for n in range(20)]


# --- together -------------------------------------------------------------------------------------


def test_a_list_goes_in_full_requests_and_comes_back_in_order(shop: Shop) -> None:
    assert shop.batch().batch(ITEMS) == list(map(shouted, ITEMS))
    assert sorted(shop.sizes) == [4, 8, 8]


async def test_the_async_form_does_the_same(shop: Shop) -> None:
    assert await shop.batch().abatch(ITEMS) == list(map(shouted, ITEMS))
    assert sorted(shop.sizes) == [4, 8, 8]


def test_threads_that_ask_at_about_the_same_time_share_a_request(shop: Shop) -> None:
    batch = shop.batch(max_wait_s=5, max_items=6)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(batch.invoke, ITEMS[:6]))

    assert answers == list(map(shouted, ITEMS[:6]))
    assert shop.sizes == [6]


async def test_tasks_that_ask_at_about_the_same_time_share_a_request(shop: Shop) -> None:
    batch = shop.batch(max_wait_s=5, max_items=6)

    answers = await asyncio.gather(*map(batch.ainvoke, ITEMS[:6]))

    assert answers == list(map(shouted, ITEMS[:6]))
    assert shop.sizes == [6]


def test_one_item_waits_no_longer_than_it_was_told(shop: Shop) -> None:
    assert shop.batch(max_wait_s=0.01).invoke("alone") == "ALONE"
    assert shop.sizes == [1]
    system = shop.server.requests[0].body["messages"][0]
    assert system["content"] == "Repeat in capitals."


def test_equal_items_are_asked_once(shop: Shop) -> None:
    assert shop.batch().batch(["a b", "c d", "a b"]) == ["A B", "C D", "A B"]
    assert shop.sizes == [2]


def test_a_request_holds_no_more_tokens_than_it_may(shop: Shop) -> None:
    large = "word " * 300
    batch = shop.batch(max_tokens=700)

    batch.batch([large + str(n) for n in range(5)] + ["small"])

    assert sorted(shop.sizes) == [2, 2, 2]


def test_what_waits_goes_by_priority_when_requests_are_few(shop: Shop) -> None:
    shop.latency = Latency(first_token_s=0.05)
    batch = shop.batch(max_requests=1, max_items=2, max_wait_s=0)
    with ThreadPoolExecutor(9) as pool:
        waiting = [pool.submit(batch.invoke, "first item")]
        _until(lambda: bool(shop.sizes))
        waiting += [pool.submit(batch.invoke, item) for item in ITEMS[:4]]
        waiting += [pool.submit(batch.invoke, f"urgent {n}", priority=1) for n in range(2)]
        for each in waiting:
            each.result()

    asked = [sorted(i["item"] for i in listed(r) or []) for r in shop.server.requests[1:]]
    assert ["urgent 0", "urgent 1"] in asked[:2]  # one pair may have been on its way


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


async def _auntil(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def test_items_are_in_another_order_where_that_was_asked_for(shop: Shop) -> None:
    shop.batch(shuffle=random.Random(3)).batch(ITEMS[:8])
    shop.batch().batch(ITEMS[:8])

    mixed, plain = (
        [item["item"] for item in listed(request) or []] for request in shop.server.requests
    )
    assert plain == ITEMS[:8]
    assert mixed != plain
    assert sorted(mixed) == sorted(plain)


# --- answers of a kind ----------------------------------------------------------------------------


class Mood(BaseModel):
    mood: Literal["good", "bad"]
    score: int


def test_answers_are_of_the_type_that_was_asked_for() -> None:
    def answer(request: ChatRequest) -> str:
        items = listed(request) or []
        made = entries(items)
        for entry in made:
            entry["answer"] = {"mood": "good", "score": 3}
        return json.dumps({"answers": made})

    with LoopbackServer(answer) as server:
        model = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
        batch = CombinedBatch(model, instruction="Judge the mood.", answer=Mood)

        assert batch.batch(ITEMS[:3]) == [Mood(mood="good", score=3)] * 3

    schema = json.dumps(server.requests[0].body["response_format"])
    assert '"good"' in schema


def test_an_answer_of_another_type_is_asked_again_alone() -> None:
    def answer(request: ChatRequest) -> str:
        items = listed(request)
        if items is None:
            return json.dumps({"answer": True})
        made = entries(items)
        for n, entry in enumerate(made):
            entry["answer"] = "perhaps" if n == 1 else False
        return json.dumps({"answers": made})

    with LoopbackServer(answer) as server:
        model = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
        batch = CombinedBatch(model, instruction="Is it a fruit?", answer=bool)

        assert batch.batch(ITEMS[:3]) == [False, True, False]
    assert (batch.stats.wrong, batch.stats.missing, batch.stats.singles) == (1, 1, 1)


def test_a_model_without_structured_output_is_asked_in_words() -> None:
    def answer(messages: list[BaseMessage]) -> str:
        items = given_items(messages)
        return f"Here you are:\n```json\n{json.dumps({'answers': entries(items)})}\n```"

    batch = CombinedBatch(Plain([answer]), instruction="Repeat in capitals.")

    assert batch.batch(["a b", "c d"]) == ["A B", "C D"]


def test_a_model_that_answers_by_a_tool_call_is_understood() -> None:
    def answer(messages: list[BaseMessage]) -> AIMessage:
        made = {"answers": entries(given_items(messages))}
        return AIMessage("", tool_calls=[{"name": "answers", "args": made, "id": "1"}])

    batch = CombinedBatch(ScriptedModel([answer]), instruction="Repeat in capitals.")

    assert batch.batch(["a b", "c d"]) == ["A B", "C D"]


class Plain(ScriptedModel):
    """A model without structured output."""

    def with_structured_output(self, *given: Any, **keywords: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "said", "expected"),
    [
        (bool, '{"answer": true}', True),
        (Mood, '{"mood": "good", "score": 3}', Mood(mood="good", score=3)),
        (list[int], "[1, 2]", [1, 2]),
    ],
)
def test_one_item_of_a_model_without_structured_output_is_asked_for_in_words(
    answer: Any, said: str, expected: Any
) -> None:
    model = Plain([f"Certainly: {said}"])

    assert CombinedBatch(model, instruction="Judge it.", answer=answer).invoke("lemon") == expected
    told = model.requests[0][0].text
    assert told.startswith("Judge it.\n\nAnswer with JSON of this schema alone: {")


def test_without_an_echo_ids_alone_say_whose_answer_it_is() -> None:
    def answer(messages: list[BaseMessage]) -> str:
        given = json.loads(messages[-1].text)
        assert set(given) == {"items"}
        made = [{"id": i["id"], "answer": shouted(i["item"])} for i in reversed(given["items"])]
        return json.dumps({"answers": made})

    model = Plain([answer])

    assert CombinedBatch(model, instruction="Shout.", echo_words=0).batch(["a", "b"]) == ["A", "B"]
    assert "echo" not in model.requests[0][0].text


def test_ids_of_different_items_differ() -> None:
    seen: dict[str, str] = {}
    for n in range(100_000):  # until the short hashes of two texts are one
        (item,) = items_of([f"item {n}"], numbered=False)
        other = seen.setdefault(item.id, item.text)
        if other != item.text:
            break

    first, second = items_of([other, item.text], numbered=False)

    assert (first.text, second.text) == (other, item.text)
    assert first.id == item.id != second.id


# --- malformed answers ----------------------------------------------------------------------------


def _swapped(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made[0]["answer"], made[1]["answer"] = made[1]["answer"], made[0]["answer"]
    made[0]["echo"], made[1]["echo"] = made[1]["echo"], made[0]["echo"]
    return made


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made[1:],
        lambda made: [],
        lambda made: [*made[:-1], {**made[-1], "id": "ffffff"}],
        lambda made: [*made, {**made[0], "answer": "SOMETHING ELSE"}],
        lambda made: [{**made[0], "echo": "another item altogether"}, *made[1:]],
        lambda made: [{**made[0], "answer": None}, *made[1:]],
        lambda made: ["nonsense", None, 3, *made[2:]],
        lambda made: [{"answer": each["answer"]} for each in made],
        _swapped,
        lambda made: "I cannot do that.",
        lambda made: json.dumps({"answers": made})[:-40],
        lambda made: json.dumps({"replies": made}),
        lambda made: "[" * 50_000,
        lambda made: Reply(text=json.dumps({"answers": made})[:90], finish_reason="length"),
        lambda made: ServerError(status=400, message="content filter"),
    ],
)
def test_nobody_gets_a_wrong_answer_and_nobody_goes_without(shop: Shop, change: Change) -> None:
    shop.change = change

    assert shop.batch().batch(ITEMS[:5]) == list(map(shouted, ITEMS[:5]))


def test_the_last_answer_before_a_limit_is_not_trusted_though_it_looks_whole() -> None:
    def answer(messages: list[BaseMessage]) -> AIMessage:
        if not str(messages[-1].text).startswith("{"):
            return AIMessage(shouted(str(messages[-1].text)))
        made = entries(given_items(messages))
        made[-1]["answer"] = made[-1]["answer"][:3]
        told = {"finish_reason": "length"}
        return AIMessage(json.dumps({"answers": made}), response_metadata=told)

    batch = CombinedBatch(Plain([answer], when_exhausted="repeat_last"), instruction="Shout.")

    assert batch.batch(ITEMS[:3]) == list(map(shouted, ITEMS[:3]))
    assert batch.stats.singles == 1


def test_no_job_of_many_is_lost_or_swapped_when_answers_are_malformed() -> None:
    rng = random.Random(1)

    def change(made: list[dict[str, Any]]) -> Any:
        kind = rng.random()
        rng.shuffle(made)
        if kind > 0.4:
            return made
        if kind < 0.1:
            return made[: rng.randrange(len(made))]
        if kind < 0.2:
            return _swapped(made)
        return json.dumps({"answers": made})[: rng.randrange(20, 400)]

    items = [f"{rng.randrange(10**6)} is item {n}" for n in range(400)]
    shop = Shop(change)
    with shop.server:
        assert shop.batch().batch(items) == list(map(shouted, items))


def test_an_item_that_gets_no_usable_answer_fails_alone() -> None:
    def answer(request: ChatRequest) -> str:
        items = listed(request)
        if items is None:
            return "no JSON"
        made = [entry for entry in entries(items) if "bad" not in entry["echo"]]
        for entry in made:
            entry["answer"] = 1
        return json.dumps({"answers": made})

    with LoopbackServer(answer) as server:
        model = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
        batch = CombinedBatch(model, instruction="Count.", answer=int)

        good, bad = batch.batch(["good one", "bad one"], return_exceptions=True)
        with pytest.raises(BatchAnswerError, match="'bad one' in 2 attempts"):
            batch.batch(["good one", "bad one"])

    assert good == 1
    assert isinstance(bad, BatchAnswerError)


# --- failures and cancellation --------------------------------------------------------------------


def test_the_item_that_the_provider_refuses_fails_by_itself() -> None:
    def answer(request: ChatRequest) -> Any:
        if "forbidden" in str(request.body):
            return ServerError(status=400, message="content filter")
        items = listed(request)
        return shouted(request.text) if items is None else json.dumps({"answers": entries(items)})

    with LoopbackServer(answer) as server:
        model = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
        batch = CombinedBatch(model, instruction="Repeat in capitals.")
        results = batch.batch([*ITEMS[:7], "forbidden"], return_exceptions=True)

    assert results[:7] == list(map(shouted, ITEMS[:7]))
    assert "content filter" in str(results[7])
    assert batch.stats.split == 3


@pytest.mark.parametrize("fault", [RateLimited(), ServerError(status=503)])
def test_a_server_that_is_busy_is_not_asked_for_each_item(shop: Shop, fault: Any) -> None:
    shop.change = lambda _: fault

    results = shop.batch().batch(ITEMS[:8], return_exceptions=True)

    assert all(isinstance(each, Exception) for each in results)
    assert len(shop.sizes) == 1


def test_a_budget_that_is_used_up_refuses_all_at_once() -> None:
    guard = BudgetGuard([Budget("all", calls=1)])
    model = BudgetedChatModel(ScriptedModel(["no answers at all"]), guard=guard)

    results = CombinedBatch(model, instruction="Repeat.").batch(ITEMS[:4], return_exceptions=True)

    assert all(isinstance(each, BudgetExceededError) for each in results)


def test_a_budget_that_allows_nothing_is_not_asked_for_each_half() -> None:
    guard = BudgetGuard([Budget("none", calls=0)])
    model = BudgetedChatModel(ScriptedModel(["never"]), guard=guard)

    results = CombinedBatch(model, instruction="Repeat.").batch(ITEMS[:4], return_exceptions=True)

    assert all(isinstance(each, BudgetExceededError) for each in results)
    assert [status.refused for status in guard.statuses()] == [1]


class _Interrupted(BaseException):
    """As `KeyboardInterrupt` is one."""


def test_a_caller_that_is_interrupted_sends_nothing_more(shop: Shop) -> None:
    main = threading.main_thread()

    def interrupt(made: list[dict[str, Any]]) -> Any:
        signal.pthread_kill(main.ident or 0, signal.SIGUSR2)
        _until(lambda: shop.interrupted)
        return []  # no answer: who still waited would be asked again alone

    def raised(*_: Any) -> None:
        raise _Interrupted

    shop.change = interrupt
    batch = shop.batch(max_items=2, max_requests=1)
    before = signal.signal(signal.SIGUSR2, raised)
    try:
        with pytest.raises(_Interrupted):
            batch.batch(ITEMS[:6])
    finally:
        signal.signal(signal.SIGUSR2, before)
        shop.interrupted = True
    _until(lambda: not [t for t in threading.enumerate() if t.name.startswith("combined")])

    assert shop.sizes == [2]


async def test_nobody_waits_for_ever_when_the_collecting_is_cancelled(shop: Shop) -> None:
    batch = shop.batch(max_wait_s=60)
    mine = asyncio.create_task(batch.ainvoke("never sent"))
    await asyncio.sleep(0.01)

    for task in asyncio.all_tasks() - {mine, asyncio.current_task()}:
        task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(mine, 30)
    assert shop.sizes == []


def test_what_waits_when_its_event_loop_ends_is_cancelled_and_not_sent(shop: Shop) -> None:
    batch = shop.batch(max_wait_s=60)

    async def leave() -> "asyncio.Task[str]":
        task = asyncio.create_task(batch.ainvoke("never sent"))
        await asyncio.sleep(0.01)
        return task

    task = asyncio.run(leave())

    assert task.cancelled()
    assert shop.sizes == []


async def test_a_cancelled_task_leaves_its_neighbours_alone(shop: Shop) -> None:
    shop.latency = Latency(first_token_s=0.2)
    batch = shop.batch(max_items=3, max_wait_s=5)
    tasks = [asyncio.create_task(batch.ainvoke(item)) for item in ITEMS[:3]]
    await _auntil(lambda: bool(shop.sizes))

    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == list(map(shouted, ITEMS[1:3]))


async def test_a_task_that_is_cancelled_while_it_waits_is_not_sent(shop: Shop) -> None:
    batch = shop.batch(max_items=3, max_wait_s=5)
    gone = asyncio.create_task(batch.ainvoke("gone by then"))
    await asyncio.sleep(0.01)
    gone.cancel()

    answers = await asyncio.gather(*map(batch.ainvoke, ITEMS[:3]))

    assert answers == list(map(shouted, ITEMS[:3]))
    assert "gone" not in str([request.body for request in shop.server.requests])


async def test_when_all_are_cancelled_the_request_is_and_no_task_stays(shop: Shop) -> None:
    shop.latency = Latency(first_token_s=5)
    batch = shop.batch()
    whole = asyncio.create_task(batch.abatch(ITEMS[:5]))
    await _auntil(lambda: bool(shop.sizes))

    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    await _auntil(lambda: len(asyncio.all_tasks()) == 1)


def test_one_batch_serves_threads_and_several_event_loops_at_once() -> None:
    def answer(messages: list[BaseMessage]) -> str:
        items = given_items(messages) if "JSON" in str(messages[0].text) else None
        return shouted(str(messages[-1].text)) if items is None else json.dumps(entries(items))

    model = ScriptedModel([answer], when_exhausted="repeat_last", latency_s=0.01)
    batch: CombinedBatch[str] = CombinedBatch(model, instruction="Repeat in capitals.")

    def in_loop(part: list[str]) -> list[Any]:
        async def ask() -> list[Any]:
            return list(await asyncio.gather(*map(batch.ainvoke, part)))

        return asyncio.run(ask())

    parts = [[f"{n} in loop {k}" for n in range(10)] for k in range(3)]
    with ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(in_loop, part) for part in parts]
        direct = pool.submit(batch.batch, ITEMS)
        assert [each.result() for each in loops] == [list(map(shouted, part)) for part in parts]
        assert direct.result() == list(map(shouted, ITEMS))
    _until(lambda: not [t for t in threading.enumerate() if t.name.startswith("combined")])


# --- whose request it is --------------------------------------------------------------------------


def test_items_of_different_tenants_never_share_a_request(shop: Shop) -> None:
    tenants: list[Any] = [{"metadata": {"tenant": f"t{n % 2}"}} for n in range(8)]

    shop.batch().batch(ITEMS[:8], tenants)

    for request in shop.server.requests:
        numbers = {int(item["item"].split()[2]) % 2 for item in listed(request) or []}
        assert len(numbers) == 1
    assert sorted(shop.sizes) == [4, 4]


def test_calls_that_are_traced_share_requests_too(shop: Shop) -> None:
    from langchain_core.tracers import BaseTracer

    class Tracer(BaseTracer):
        def _persist_run(self, run: Any) -> None:
            pass

    configs: list[Any] = [{"callbacks": [Tracer()]} for _ in range(8)]
    shop.batch().batch(ITEMS[:8], configs)

    assert shop.sizes == [8]


def test_a_shared_request_is_booked_once_with_its_feature(shop: Shop) -> None:
    ledger = UsageLedger()
    config: Any = {"callbacks": [ledger], "metadata": {"feature": "moods"}}

    shop.batch().batch(ITEMS[:8], config)
    shop.batch().invoke("one more", config)

    assert [record.feature for record in ledger.records()] == ["moods"] * 2
    assert ledger.totals().usage.input_tokens == sum(
        usage["prompt_tokens"] for usage in shop.server.billed
    )


# --- input ----------------------------------------------------------------------------------------


def test_items_that_are_no_texts_become_json_or_what_render_makes_of_them(shop: Shop) -> None:
    shop.batch().batch([{"b": 1, "a": 2}, {"b": 3, "a": 4}])
    shop.batch(render=lambda n: f"the number {n}").batch([1, 2])

    first, second = (listed(request) or [] for request in shop.server.requests)
    assert first[0]["item"] == '{"a": 2, "b": 1}'
    assert second[1]["item"] == "the number 2"


def test_an_item_without_text_fails_alone_or_before_anything_is_sent(shop: Shop) -> None:
    results = shop.batch().batch(["good item", "  ", object()], return_exceptions=True)
    assert results[0] == "GOOD ITEM"
    assert [type(each) for each in results[1:]] == [ConfigurationError] * 2

    with pytest.raises(ConfigurationError, match="item with text"):
        shop.batch().batch(["good item", "  "])
    assert len(shop.sizes) == 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"instruction": " "}, "instruction"),
        ({"max_items": 0}, "max_items"),
        ({"max_wait_s": -1}, "max_wait_s"),
        ({"answer": object()}, "pydantic"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], named: str) -> None:
    given: Any = {"instruction": "Repeat.", **wrong}
    with pytest.raises(ConfigurationError, match=named):
        CombinedBatch(ScriptedModel(["a"]), **given)


def test_a_bound_model_is_refused_with_advice() -> None:
    bound: Any = ScriptedModel(["a"]).bind(stop=["x"])
    with pytest.raises(ConfigurationError, match="answer="):
        CombinedBatch(bound, instruction="Repeat.")


def test_anthropic_is_asked_by_a_tool() -> None:
    model = ChatAnthropic(model_name="claude-haiku-4-5", api_key="any")  # type: ignore[call-arg, arg-type]  # aliases
    assert CombinedBatch(model, instruction="Repeat.").stats.requests == 0
