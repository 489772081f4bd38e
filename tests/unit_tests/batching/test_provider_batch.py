"""Batches of OpenAI and Anthropic over real HTTP: what is sent, kept, asked again and booked."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.batching import BatchHandle, ProviderBatch
from langchain_tokenopt.batching.provider_wire import wire_for
from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.testing import (
    BatchRules,
    Dropped,
    LoopbackServer,
    RateLimited,
    Reply,
    ScriptedModel,
    ServerError,
)
from langchain_tokenopt.testing.wire import ChatRequest

PROMPTS = [f"number {n}?" for n in range(7)]


def shout(request: ChatRequest) -> Any:
    return request.text.upper()


class Setting:
    """A server, a file and a clock."""

    def __init__(self, folder: Path, provider: str, answers: Any = shout, **rules: Any) -> None:
        self.path = folder / "batches.sqlite"
        self.provider = provider
        self.server = LoopbackServer(answers, batches=BatchRules(**rules))
        self.now = 1_794_000_000.0
        self.slept: list[float] = []

    def model(self) -> Any:
        if self.provider == "openai":
            return ChatOpenAI(
                model="gpt-5-mini", base_url=self.server.base_url, api_key="any", max_retries=0
            )
        return ChatAnthropic(  # type: ignore[call-arg]  # aliases
            model="claude-haiku-4-5",
            base_url=self.server.base_url.removesuffix("/v1"),
            api_key="any",  # type: ignore[arg-type]  # pydantic makes a secret of it
            max_retries=0,
        )

    def batch(self, model: Any = None, **options: Any) -> ProviderBatch:
        return ProviderBatch(
            model or self.model(),
            path=self.path,
            clock=lambda: self.now,
            sleep=self._sleep,
            **options,
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(params=["openai", "anthropic"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    opened: list[Setting] = []

    def new(answers: Any = shout, **rules: Any) -> Setting:
        setting = Setting(tmp_path, request.param, answers, **rules)
        setting.server.__enter__()
        opened.append(setting)
        return setting

    yield new
    for setting in opened:
        setting.server.__exit__(None, None, None)


def texts(handle: BatchHandle) -> list[str | None]:
    return [None if r.message is None else str(r.message.text) for r in handle.results()]


# --- the way of a prompt ------------------------------------------------------------------------


def test_answers_come_back_in_the_order_of_the_prompts(make: Any) -> None:
    setting = make(polls=3, shuffle=random.Random(1))
    handle = setting.batch().submit(PROMPTS)
    assert handle.status.sent == 7
    assert texts(handle) == [None] * 7

    status = handle.wait(every_s=10)

    assert (status.answered, status.done) == (7, True)
    assert texts(handle) == [prompt.upper() for prompt in PROMPTS]
    assert setting.slept == [10, 15]
    assert setting.server.batches.created == 1


async def test_the_async_form_does_the_same(make: Any) -> None:
    setting = make(polls=2)

    async def no_sleep(seconds: float) -> None:
        setting.now += seconds

    handle = await setting.batch(async_sleep=no_sleep).asubmit(PROMPTS)
    assert (await handle.async_wait()).answered == 7
    assert [r.position async for r in handle.acompleted()] == list(range(7))
    assert texts(handle) == [prompt.upper() for prompt in PROMPTS]


def test_equal_prompts_are_asked_once(make: Any) -> None:
    setting = make()
    handle = setting.batch().submit(["a", "b", "a", "a"])
    handle.wait()

    assert texts(handle) == ["A", "B", "A", "A"]
    assert len(setting.server.requests) == 2


def test_messages_tools_and_options_are_sent_as_the_model_sends_them(make: Any) -> None:
    @tool
    def look_up(town: str) -> str:
        """Look a town up."""
        return town

    def answer(request: ChatRequest) -> Reply:
        return Reply(tool_calls=[{"name": "look_up", "args": {"town": "Ulm"}, "id": "call_1"}])

    setting = make(answer)
    bound = setting.model().bind_tools([look_up]).bind(stop=["END"])
    handle = setting.batch(bound).submit([[SystemMessage("Be brief."), HumanMessage("Ulm?")]])
    handle.wait()

    (request,) = setting.server.requests
    assert request.messages[0]["role"] == "system"
    assert "look_up" in str(request.body["tools"])
    assert request.body.get("stop", request.body.get("stop_sequences")) == ["END"]
    (message,) = (result.message for result in handle.results())
    assert message is not None
    assert message.tool_calls[0]["args"] == {"town": "Ulm"}


def test_prompts_of_a_template_are_taken(make: Any) -> None:
    setting = make()
    template = ChatPromptTemplate([("system", "Be brief."), ("human", "{town}?")])

    handle = setting.batch().submit([template.invoke({"town": town}) for town in ("Ulm", "Bonn")])
    handle.wait()

    assert texts(handle) == ["ULM?", "BONN?"]
    assert [request.messages[0]["role"] for request in setting.server.requests] == ["system"] * 2


class Town(BaseModel):
    """A town."""

    name: str
    people: int


def test_structured_output_is_parsed(tmp_path: Path) -> None:
    def answer(request: ChatRequest) -> str:
        good = {"name": "Ulm", "people": 126_000}
        return json.dumps(good) if "Ulm" in request.text else "no JSON"

    setting = Setting(tmp_path, "openai", answer)
    with setting.server:
        model = setting.model().with_structured_output(Town)
        handle = setting.batch(model).submit(["Ulm?", "Neither?"])
        handle.wait()
        good, bad = handle.results()

    assert good.value == Town(name="Ulm", people=126_000)
    assert bad.value is None
    assert bad.error
    assert "json_schema" in str(setting.server.requests[0].body["response_format"])


def test_a_batch_holds_no_more_than_the_provider_takes(make: Any, monkeypatch: Any) -> None:
    setting = make()
    batch = setting.batch()
    monkeypatch.setattr(type(batch._wire), "most_rows", 3)
    handle = batch.submit(PROMPTS)
    handle.wait()

    assert setting.server.batches.created == 3
    assert texts(handle) == [prompt.upper() for prompt in PROMPTS]


def test_results_are_given_as_they_come(make: Any, monkeypatch: Any) -> None:
    setting = make(polls=2)
    batch = setting.batch()
    monkeypatch.setattr(type(batch._wire), "most_rows", 4)

    given = [result.position for result in batch.submit(PROMPTS).completed()]

    assert sorted(given) == list(range(7))


# --- what goes wrong at the provider ------------------------------------------------------------


def test_a_refused_request_fails_alone_with_its_reason(make: Any) -> None:
    def answer(request: ChatRequest) -> Any:
        bad = request.text == PROMPTS[3]
        return ServerError(status=400, message="content filter") if bad else shout(request)

    setting = make(answer)
    handle = setting.batch().submit(PROMPTS)
    status = handle.wait()

    assert (status.answered, status.failed) == (6, 1)
    assert "content filter" in str(handle.results()[3].error)
    assert setting.server.batches.created == 1


@pytest.mark.parametrize("fault", [Dropped(), RateLimited(), ServerError(status=500)])
def test_what_expired_or_failed_for_a_while_is_handed_in_again(make: Any, fault: Any) -> None:
    seen: list[str] = []

    def answer(request: ChatRequest) -> Any:
        seen.append(request.text)
        first = seen.count(request.text) == 1
        return fault if first and request.text in PROMPTS[:3] else shout(request)

    setting = make(answer)
    handle = setting.batch().submit(PROMPTS)
    handle.wait()

    assert texts(handle) == [prompt.upper() for prompt in PROMPTS]
    assert setting.server.batches.created == 2
    assert [r.attempts for r in handle.results()] == [2, 2, 2, 1, 1, 1, 1]


def test_what_never_succeeds_fails_after_as_many_attempts(make: Any) -> None:
    setting = make(lambda _: Dropped())
    handle = setting.batch(attempts=2).submit(PROMPTS[:2])
    status = handle.wait()

    assert status.failed == 2
    assert "handed in 2 times" in str(handle.results()[0].error)
    assert setting.server.batches.created == 2


def test_what_expired_too_often_is_asked_in_an_ordinary_call(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(request: ChatRequest) -> Any:
        seen.append(request.text)
        return Dropped() if seen.count(request.text) < 2 else shout(request)

    setting, ledger = Setting(tmp_path, "openai", answer), UsageLedger()
    with setting.server:
        batch = setting.batch(attempts=1, then="ask", callbacks=[ledger])
        handle = batch.submit(PROMPTS[:2], {"metadata": {"feature": "night"}})
        handle.wait()

    assert texts(handle) == [prompt.upper() for prompt in PROMPTS[:2]]
    assert [(r.kind, r.feature) for r in ledger.records()] == [("live", "night")] * 2


def test_what_expired_is_handed_in_as_often_as_it_may_before_it_is_asked(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(request: ChatRequest) -> Any:
        seen.append(request.text)
        return Dropped() if len(seen) < 3 else shout(request)

    setting = Setting(tmp_path, "openai", answer)
    with setting.server:
        handle = setting.batch(attempts=2, then="ask").submit(["again?"])
        handle.wait()

    assert texts(handle) == ["AGAIN?"]
    assert setting.server.batches.created == 2


def test_a_batch_that_expires_as_a_whole_is_handed_in_again(make: Any) -> None:
    setting = make(expires=True)
    handle = setting.batch(attempts=3).submit(PROMPTS[:2])
    handle.wait()

    assert handle.status.failed == 2
    assert setting.server.batches.created == 3


def test_a_batch_that_the_provider_refuses_says_why(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "openai", shout, refuse="enqueued token limit reached")
    with setting.server:
        handle = setting.batch().submit(PROMPTS[:2])
        handle.wait()

    assert "enqueued token limit reached" in str(handle.results()[1].error)


def test_a_request_that_is_refused_at_once_raises_and_can_be_sent_later(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "anthropic", shout, refuse="billing")
    with setting.server:
        batch = setting.batch()
        with pytest.raises(Exception, match="billing"):
            batch.submit(PROMPTS, key="tonight")
        setting.server.batches.rules = BatchRules()
        handle = batch.submit(PROMPTS, key="tonight")
        handle.wait()

    assert texts(handle) == [prompt.upper() for prompt in PROMPTS]


def test_a_cancelled_handle_keeps_what_came_and_sends_nothing_more(make: Any) -> None:
    setting = make(polls=100)
    handle = setting.batch().submit(PROMPTS)

    status = handle.cancel()

    assert status.done
    assert status.failed == 7
    assert setting.server.batches.created == 1


def test_waiting_ends_when_its_time_is_over(make: Any) -> None:
    setting = make(polls=100)
    handle = setting.batch().submit(PROMPTS)

    status = handle.wait(timeout_s=25, every_s=10)

    assert (status.sent, status.done) == (7, False)
    assert setting.slept == [10, 15, 0]
    assert list(handle.completed(timeout_s=25, every_s=10)) == []
    assert setting.slept == [10, 15, 0] * 2


async def test_waiting_asynchronously_ends_when_its_time_is_over(make: Any) -> None:
    setting = make(polls=100)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        setting.now += seconds

    handle = await setting.batch(async_sleep=sleep).asubmit(PROMPTS)

    assert not (await handle.async_wait(timeout_s=25, every_s=10)).done
    assert [result async for result in handle.acompleted(timeout_s=25, every_s=10)] == []
    assert slept == [10, 15, 0] * 2


async def test_results_are_given_asynchronously_once_they_are_there(make: Any) -> None:
    setting = make(polls=2)

    async def sleep(seconds: float) -> None:
        setting.now += seconds

    handle = await setting.batch(async_sleep=sleep).asubmit(PROMPTS)

    assert [result.position async for result in handle.acompleted()] == list(range(7))


@pytest.mark.parametrize("arrived", [False, True])
def test_what_was_cancelled_before_it_was_known_to_have_arrived_is_not_paid(
    make: Any, monkeypatch: Any, arrived: bool
) -> None:
    setting = make(polls=100)
    batch = setting.batch()
    create = batch._wire.create

    def cut_off(tag: str, rows: Any) -> str:
        if arrived:
            create(tag, rows)
        raise ConnectionError("cut off")

    monkeypatch.setattr(batch._wire, "create", cut_off)
    with pytest.raises(ConnectionError):
        batch.submit(PROMPTS, key="tonight")
    with sqlite3.connect(setting.path) as connection:
        (name,) = connection.execute("SELECT id FROM jobs").fetchone()
    handle = setting.batch().open(name)

    handle.cancel()
    setting.now += 1_000
    handle.poll()  # looks for the batch, and ends it
    status = handle.poll()

    assert (status.failed, status.done) == (7, True)
    assert setting.server.batches.created == int(arrived)
    assert setting.server.requests == []


# --- restarts -----------------------------------------------------------------------------------


def test_a_handle_is_opened_again_by_its_id(make: Any) -> None:
    setting = make(polls=2)
    name = setting.batch().submit(PROMPTS).id

    again = setting.batch().open(name)
    again.wait()

    assert texts(again) == [prompt.upper() for prompt in PROMPTS]
    with pytest.raises(ConfigurationError, match="found none for 'other'"):
        setting.batch().open("other")


def test_what_was_submitted_under_a_key_is_not_paid_twice(make: Any) -> None:
    setting = make()
    first = setting.batch().submit(PROMPTS, key="tonight")
    second = setting.batch().submit(PROMPTS, key="tonight")

    assert second.id == first.id
    assert setting.server.batches.created == 1
    with pytest.raises(ConfigurationError, match="'tonight' is of 7 other prompts"):
        setting.batch().submit(PROMPTS[:3], key="tonight")


_CRASH = """
import os, sys, signal
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.unit_tests.batching.test_provider_batch import Setting, PROMPTS, ProviderBatch
from langchain_tokenopt.batching import provider_store
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
provider_store.BatchFile.accepted = die
setting = Setting(Path(sys.argv[1]), sys.argv[2])
class Fixed: base_url = sys.argv[4]
setting.server = Fixed()
setting.batch().submit(PROMPTS, key="tonight")
"""


def test_a_process_killed_after_sending_and_before_noting_it_pays_once(make: Any) -> None:
    setting = make()
    root = Path(__file__).parents[3]
    crashed = subprocess.run(
        [
            sys.executable, "-c", _CRASH, str(setting.path.parent), setting.provider, str(root),
            setting.server.base_url,
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr.decode()
    assert setting.server.batches.created == 1

    handle = setting.batch().submit(PROMPTS, key="tonight")
    assert handle.poll().sent == 7  # the sender may still be at it
    setting.now += 1_000
    handle.wait()

    assert texts(handle) == [prompt.upper() for prompt in PROMPTS]
    assert setting.server.batches.created == 1


def test_a_batch_that_never_arrived_is_sent_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "openai")
    with setting.server:
        model = setting.model()
        batch = setting.batch(model)
        good = model.root_client
        model.root_client = openai.OpenAI(
            base_url="http://127.0.0.1:9/v1", api_key="a", max_retries=0
        )
        with pytest.raises(openai.APIConnectionError):
            batch.submit(PROMPTS, key="tonight")
        model.root_client = good
        handle = batch.submit(PROMPTS, key="tonight")
        setting.now += 1_000
        handle.wait()

        assert texts(handle) == [prompt.upper() for prompt in PROMPTS]
        assert setting.server.batches.created == 1


def test_a_network_that_is_away_at_a_poll_loses_nothing(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "openai")
    with setting.server:
        model = setting.model()
        handle = setting.batch(model).submit(PROMPTS)
        good = model.root_client
        model.root_client = openai.OpenAI(
            base_url="http://127.0.0.1:9/v1", api_key="a", max_retries=0
        )
        with pytest.raises(openai.APIConnectionError):
            handle.poll()
        model.root_client = good
        handle.wait()

    assert texts(handle) == [prompt.upper() for prompt in PROMPTS]


def test_a_batch_is_found_by_its_tag_among_those_of_others(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "openai")
    with setting.server:
        wire = wire_for(setting.model())
        rows = [("a", wire.body([HumanMessage("a?")], {}))]
        mine = wire.create("mine", rows)
        wire.create("another", rows)
        now = datetime.now(UTC)

        def find(tag: str, since: datetime = now) -> str | None:
            return wire.find(tag, rows=1, since=since, known=frozenset())

        assert find("mine") == mine
        assert find("never") is None
        # Lists are newest first: what is older than the batch can be is not looked at.
        assert find("mine", now + timedelta(hours=2)) is None


def test_a_batch_without_a_tag_is_found_by_its_size_and_time(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "anthropic")
    with setting.server:
        wire = wire_for(setting.model())
        body = wire.body([HumanMessage("a?")], {})
        large = wire.create("", [("a", body), ("b", body)])
        first, second = (wire.create("", [("a", body)]) for _ in range(2))
        now = datetime.now(UTC)

        def find(rows: int, *known: str, since: datetime = now) -> str | None:
            return wire.find("", rows=rows, since=since, known=frozenset(known))

        assert find(1) == second
        assert find(1, second) == first
        assert find(2, second) == large
        assert find(2, large) is None
        assert find(1, since=now + timedelta(minutes=2)) is None


def test_a_batch_of_somebody_else_is_not_taken_for_ones_own_answers(
    tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting(tmp_path, "anthropic")
    with setting.server:
        batch = setting.batch()
        with monkeypatch.context() as cut_off:
            cut_off.setattr(batch._wire, "create", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                batch.submit(PROMPTS[:2], key="tonight")
        body = batch._wire.body([HumanMessage("theirs?")], {})
        batch._wire.create("", [("their-1", body), ("their-2", body)])
        handle = batch.submit(PROMPTS[:2], key="tonight")
        setting.now += 1_000
        handle.wait()

    assert texts(handle) == [prompt.upper() for prompt in PROMPTS[:2]]
    assert "holds 2 answers to requests not of here" in caplog.text


def test_processes_that_poll_the_same_handle_neither_lose_nor_double(make: Any) -> None:
    def answer(request: ChatRequest) -> Any:
        return Dropped() if request.text.endswith("3?") and len(made) < 1 else shout(request)

    made: list[int] = []
    setting = make(answer)
    prompts = [f"item {n}?" for n in range(60)]
    handle = setting.batch().submit(prompts)
    handles = [setting.batch().open(handle.id) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: each.poll(), handles))
        made.append(1)
        for _ in range(4):
            list(pool.map(lambda each: each.poll(), handles))

    assert texts(handle) == [prompt.upper() for prompt in prompts]
    assert len(setting.server.requests) == len(prompts) + sum(p.endswith("3?") for p in prompts)


def test_a_handle_that_is_done_can_be_forgotten(make: Any) -> None:
    setting = make(polls=2)
    handle = setting.batch().submit(PROMPTS)
    with pytest.raises(ConfigurationError, match="outstanding"):
        handle.forget()
    handle.wait()
    handle.forget()

    with pytest.raises(ConfigurationError, match="found none"):
        setting.batch().open(handle.id)
    with sqlite3.connect(setting.path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM requests").fetchone() == (0,)


# --- booking ------------------------------------------------------------------------------------


def test_answers_are_booked_once_at_half_the_price_after_a_restart_too(
    make: Any, tmp_path: Path
) -> None:
    setting = make()
    ledger = UsageLedger(tmp_path / "ledger.sqlite")
    config: Any = {"metadata": {"feature": "night", "tenant": "acme"}, "tags": ["t"]}
    name = setting.batch(callbacks=[ledger]).submit(PROMPTS, config).id
    for _ in range(2):
        setting.batch(callbacks=[ledger]).open(name).poll()
    with sqlite3.connect(setting.path) as connection:  # as if it had ended before noting it
        connection.execute("UPDATE requests SET booked = 0")
    setting.batch(callbacks=[ledger]).open(name).poll()

    records = list(ledger.records())
    assert len(records) == 7
    assert {(r.kind, r.tier, r.feature, r.tenant) for r in records} == {
        ("batch", "batch", "night", "acme")
    }
    usage = ledger.totals().usage
    billed = setting.server.billed
    assert usage.input_tokens == sum(each["prompt_tokens"] for each in billed)
    if setting.provider == "openai":
        dollars = Decimal("0.25") * usage.input_tokens + 2 * Decimal(usage.output)
        assert ledger.totals().cost == dollars / 2 / 1_000_000


def test_an_answer_that_cannot_be_read_hides_no_other(make: Any, tmp_path: Path) -> None:
    setting, ledger = make(), UsageLedger()
    name = setting.batch().submit(PROMPTS[:3]).id
    setting.batch().open(name).poll()
    with sqlite3.connect(setting.path) as connection:
        connection.execute("UPDATE requests SET booked = 0")
        connection.execute("UPDATE requests SET answer = '[1]' WHERE number = 1")

    handle = setting.batch(callbacks=[ledger]).open(name)
    handle.poll()

    assert [result.error for result in handle.results()] == [
        None,
        "the provider's answer cannot be read",
        None,
    ]
    assert texts(handle) == ["NUMBER 0?", None, "NUMBER 2?"]
    assert ledger.totals().calls == 2


# --- wrong input --------------------------------------------------------------------------------


def test_a_full_disk_sends_nothing(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "openai")
    with setting.server:
        batch = setting.batch()
        batch.submit(["first"]).wait()
        with batch._file._reading() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="full"):
            batch.submit([f"{n} " * 2_000 for n in range(50)])

        assert setting.server.batches.created == 1


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (ScriptedModel(["a"]), "ChatOpenAI or ChatAnthropic"),
        (HumanMessage, "got ModelMetaclass"),
    ],
)
def test_a_model_without_a_batch_api_is_refused(tmp_path: Path, model: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        ProviderBatch(model, path=tmp_path / "batches.sqlite")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "openai")
    with setting.server:
        with pytest.raises(ConfigurationError, match="attempts"):
            setting.batch(attempts=0)
        with pytest.raises(ConfigurationError, match="at least one prompt"):
            setting.batch().submit([])
        handle = setting.batch().submit(["a"])
        with pytest.raises(ConfigurationError, match="every_s"):
            handle.wait(every_s=0)
        other = ChatOpenAI(model="gpt-5", base_url=setting.server.base_url, api_key="any")
        with pytest.raises(ConfigurationError, match="is of ChatOpenAI/gpt-5-mini"):
            setting.batch(other).open(handle.id)


def test_an_answer_of_the_responses_api_is_read() -> None:
    model = ChatOpenAI(model="gpt-5-mini", api_key="any", use_responses_api=True)  # type: ignore[arg-type]  # pydantic makes a secret of it
    wire = wire_for(model)
    body = wire.body([HumanMessage("2 + 2?")], {})
    answer = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini",
        "status": "completed", "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "output": [{
            "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "four", "annotations": []}],
        }],
        "usage": {
            "input_tokens": 10, "output_tokens": 2, "total_tokens": 12,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip

    message = wire.message(answer, body)

    assert "input" in body
    assert isinstance(message, AIMessage)
    assert message.text == "four"
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 10
