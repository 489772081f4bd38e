"""Shortening conversations: what stays, what it costs, and what goes wrong."""

import asyncio
import json
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import InMemoryByteStore
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests.base_store import BaseStoreSyncTests
from langgraph.graph import START, MessagesState, StateGraph

from langchain_tokenopt import UsageLedger, counter_for
from langchain_tokenopt.errors import ConfigurationError, ContextOverflowError, StoreError
from langchain_tokenopt.prompts import (
    ContextReport,
    ContextWindow,
    Importance,
    Recall,
    SqliteContextStore,
    Summarizer,
    pinned,
    weighted,
)
from langchain_tokenopt.testing import LoopbackServer, ScriptedModel

COUNTER = counter_for("gpt-5-mini")
SYSTEM = SystemMessage("You answer for a bookshop.")


def talk(turns: int, *, start: int = 0) -> list[BaseMessage]:
    """Return a conversation of short turns of about forty tokens."""
    said: list[BaseMessage] = []
    for n in range(start, start + turns):
        said.append(HumanMessage(f"Question {n}: what do you know about the town number {n}?"))
        said.append(AIMessage(f"Town {n} lies on a river, and it has {n * 37 + 11} houses."))
    return said


def asking(text: str = "And now?", turns: int = 30) -> list[BaseMessage]:
    return [SYSTEM, *talk(turns), HumanMessage(text)]


def looked_up(n: int, result: str = "ok " * 100) -> list[BaseMessage]:
    call = {"name": "look_up", "args": {"n": n}, "id": f"call_{n}"}
    return [AIMessage("", tool_calls=[call]), ToolMessage(result, tool_call_id=f"call_{n}")]


def window(**options: Any) -> ContextWindow:
    return ContextWindow("gpt-5-mini", **{"max_tokens": 600, "recall": None, **options})


def texts(messages: Any) -> list[str]:
    return [str(message.text) for message in messages]


# --- what stays ---------------------------------------------------------------------------------


def test_a_conversation_that_fits_is_sent_as_it_is() -> None:
    messages = [SYSTEM, *talk(3), HumanMessage("And now?")]

    fitted = window().fit(messages)

    assert list(fitted.messages) == messages
    assert not fitted.report.edited
    assert fitted.report.tokens == COUNTER.count_messages(messages)


def test_what_is_sent_is_counted_as_the_provider_counts_it_tools_included() -> None:
    @tool
    def look_up(town: str) -> str:
        """Look a town up in the register of all towns."""
        return town

    fitted = window(tools=[look_up]).fit(asking())

    assert fitted.report.edited
    assert fitted.report.tokens == COUNTER.count_messages(fitted.messages, tools=[look_up])
    assert fitted.report.tokens <= 300
    assert fitted.report.tokens_given == COUNTER.count_messages(asking(), tools=[look_up])


def test_recent_keeps_the_end_without_gaps() -> None:
    messages = asking()

    sent = window(strategy="recent").fit(messages).messages

    assert sent[0] == SYSTEM
    assert texts(sent)[1].startswith("[")
    kept = list(sent[2:])
    assert kept == messages[-len(kept) :]
    assert len(kept) > 5


def test_importance_keeps_what_is_relevant_and_specific_over_chat() -> None:
    chat = [HumanMessage("Nice weather today, is it not?"), AIMessage("It is, very nice indeed.")]
    fact = [HumanMessage("My order is A-1734, for Ada King."), AIMessage("Noted: A-1734.")]
    messages = [SYSTEM, *fact, *(chat * 25), HumanMessage("What is the number of my order?")]

    sent = window(max_tokens=400).fit(messages).messages

    assert fact[0] in sent
    assert fact[0] not in window(max_tokens=400, strategy="recent").fit(messages).messages


def test_pinned_and_system_messages_and_the_last_human_turn_always_stay() -> None:
    late = SystemMessage("From now on answer in French.")
    kept = pinned(HumanMessage("I am allergic to nuts."))
    messages = [SYSTEM, kept, AIMessage("Noted."), *talk(20), late, *talk(10), HumanMessage("So?")]

    sent = window(strategy="recent").fit(messages).messages

    assert {id(m) for m in (SYSTEM, kept, late, messages[-1])} <= {id(m) for m in sent}


def test_a_weight_of_the_user_decides_over_the_sum() -> None:
    messages = asking()
    messages[1] = weighted(messages[1], importance=1.0)
    messages[-3] = weighted(messages[-3], importance=0.0)

    sent = window().fit(messages).messages

    assert messages[1] in sent
    assert messages[-3] not in sent


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["human", "answer", "tools", "two tools"]), min_size=1, max_size=40),
    st.sampled_from(["recent", "importance"]),
    st.integers(120, 900),
)
def test_calls_and_results_stay_together_and_the_last_human_turn_stays(
    kinds: list[str], strategy: Any, most: int
) -> None:
    messages: list[BaseMessage] = [SYSTEM]
    for n, kind in enumerate(kinds):
        if kind == "human":
            messages.append(HumanMessage(f"Question {n} about something or other"))
        elif kind == "answer":
            messages.append(AIMessage(f"Answer {n} about something or other"))
        elif kind == "tools":
            messages += looked_up(n)
        else:
            calls = [{"name": "f", "args": {}, "id": f"{n}-{k}"} for k in "ab"]
            messages.append(AIMessage("", tool_calls=calls))
            messages += [ToolMessage("result " * 30, tool_call_id=f"{n}-{k}") for k in "ab"]

    fitted = window(strategy=strategy, max_tokens=most, when_too_large="send").fit(messages)

    sent = list(fitted.messages)
    asked = {call["id"] for m in sent if isinstance(m, AIMessage) for call in m.tool_calls}
    answered = {m.tool_call_id for m in sent if isinstance(m, ToolMessage)}
    assert asked == answered
    humans = [m for m in messages if isinstance(m, HumanMessage)]
    assert not humans or humans[-1] in sent
    assert fitted.report.tokens <= most or fitted.report.problems
    assert fitted.report.tokens == COUNTER.count_messages(sent)


# --- the cached prefix ----------------------------------------------------------------------------


def test_between_edits_every_request_begins_with_the_one_before() -> None:
    made, whole = window(recall=Recall()), [SYSTEM]
    edits, broken, before = 0, 0, []
    for n in range(120):
        whole = [*whole, *talk(1, start=n)]
        fitted = made.fit([*whole, HumanMessage("Next?")])
        sent = texts(fitted.messages)[:-1]
        edits += fitted.report.edited
        broken += sent[: len(before)] != before
        before = sent

    assert broken == edits
    assert 5 < edits < 30


def test_a_report_puts_the_price_of_the_broken_prefix_beside_the_saving() -> None:
    told: list[ContextReport] = []
    made = window(max_tokens=6_000, listeners=[told.append])

    report = made.fit(asking(turns=200)).report

    assert told == [report]
    # gpt-5-mini reads at a tenth of the price, in steps of 128 tokens from 1,024 on.
    resent = report.tokens // 128 * 128
    assert report.kept_prefix_tokens < 1_024 < report.tokens
    assert float(report.break_cost) == pytest.approx(0.9 * resent)
    before, after = (0.1 * (n // 128 * 128) + n % 128 for n in (report.tokens_given, report.tokens))
    assert float(report.saving_per_call) == pytest.approx(before - after)
    assert report.pays_after_calls is not None
    assert report.pays_after_calls * report.saving_per_call >= report.break_cost
    assert "cached prefix" in str(report)
    assert sum(each.tokens for each in report.dropped) > report.saved_tokens


def test_an_edit_that_makes_the_prefix_too_short_for_the_cache_never_pays() -> None:
    messages = asking(turns=30)
    report = window(max_tokens=900).fit(messages).report

    assert report.tokens < 1_024 < report.tokens_given
    assert report.saving_per_call < 0
    assert report.pays_after_calls is None
    assert "more a call: what is left is too short for the provider's cache" in str(report)
    assert "pays after" not in str(report)


def test_a_report_of_a_request_that_fits_tells_what_tables_saved() -> None:
    rows = json.dumps([{"number": n, "colour": "red", "size": "large"} for n in range(20)])
    messages = [SYSTEM, HumanMessage("Go."), *looked_up(1, rows)]

    plain, written = (
        window(max_tokens=2_000, tables=t).fit(messages).report for t in ("leave", "write")
    )

    assert str(plain) == f"{plain.tokens:,} of {plain.tokens:,} tokens sent"
    saved = written.tokens_given - written.tokens
    assert str(written).endswith(f"tokens sent; {saved:,} saved by writing JSON as tables")


def test_listeners_that_fail_break_no_request_and_are_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[ContextReport] = []

    def failing(report: ContextReport) -> None:
        raise RuntimeError("no listener today")

    made = window(listeners=[failing, failing, told.append])
    with caplog.at_level(logging.WARNING):
        made.fit(asking())
        made.fit(asking())  # nothing new is edited

    assert (len(told), made.listener_failures) == (1, 2)
    assert len([r for r in caplog.records if "the request is made all the same" in r.message]) == 1


def test_below_the_providers_minimum_there_is_no_prefix_to_break() -> None:
    report = window().fit(asking(turns=20)).report

    assert report.edited
    assert report.break_cost == 0
    assert report.saving_per_call == report.tokens_given - report.tokens


def test_a_model_without_a_known_cache_has_no_prefix_to_break() -> None:
    report = ContextWindow("some-model", max_tokens=600, recall=None).fit(asking()).report

    assert report.edited
    assert report.break_cost == 0
    assert report.saving_per_call == report.tokens_given - report.tokens


def test_what_was_decided_outlives_the_process_and_holds_on_other_hosts(tmp_path: Path) -> None:
    path = tmp_path / "contexts.sqlite"
    first = window(store=SqliteContextStore(path)).fit(asking())
    later = [*asking(), AIMessage("Now it is fine."), HumanMessage("Good.")]

    other = window(store=SqliteContextStore(path))
    fitted = other.fit(later)

    assert not fitted.report.edited
    assert texts(fitted.messages)[: len(first.messages)] == texts(first.messages)
    assert window().fit(later).report.edited


def test_a_system_prompt_that_tells_the_time_makes_no_new_conversation() -> None:
    small = summarising("Notes.")
    made = window(summarizer=small)
    for minute in range(5):
        now = SystemMessage(f"It is 10:{minute:02}.")
        fitted = made.fit([now, *asking()[1:]])

        assert fitted.messages[0] == now
        assert fitted.report.edited == (minute == 0)
    assert small.calls == 1


def test_windows_with_other_settings_decide_for_themselves() -> None:
    store = InMemoryByteStore()
    window(store=store).fit(asking())

    assert window(store=store, strategy="recent").fit(asking()).report.edited


# --- recall ---------------------------------------------------------------------------------------


def test_a_question_brings_back_what_it_asks_for() -> None:
    fact = HumanMessage("My delivery address is Lindenweg 17 in Weimar.")
    messages = [SYSTEM, fact, AIMessage("Noted."), *talk(40)]
    made = window(recall=Recall(), strategy="recent")

    sent = made.fit([*messages, HumanMessage("What is my delivery address?")]).messages

    assert fact not in sent
    assert "Lindenweg 17" in texts(sent)[-1]
    assert texts(sent)[-1].endswith("What is my delivery address?")


def test_a_row_of_a_table_comes_back_with_its_columns() -> None:
    rows = [{"id": f"ORD-{n}", "code": f"C{n * 7919}", "state": "sent"} for n in range(100, 130)]
    messages = [SYSTEM, HumanMessage("Show my orders"), *looked_up(1, json.dumps(rows)), *talk(30)]

    fitted = window(recall=Recall(), strategy="recent").fit(
        [*messages, HumanMessage("What is the code of ORD-117?")]
    )

    last = texts(fitted.messages)[-1]
    assert "{id,code,state}" in last
    assert f"ORD-117,C{117 * 7919},sent" in last
    assert fitted.report.recalled_tokens < 100


def test_what_was_brought_back_stays_where_it_was_so_that_the_prefix_stays() -> None:
    fact = HumanMessage("My delivery address is Lindenweg 17 in Weimar.")
    messages = [SYSTEM, fact, AIMessage("Noted."), *talk(40), HumanMessage("My delivery address?")]
    made = window(recall=Recall(), strategy="recent")
    first = made.fit(messages)

    grown = [*messages, AIMessage("Lindenweg 17."), HumanMessage("Thanks.")]
    second = made.fit(grown)

    assert texts(second.messages)[: len(first.messages)] == texts(first.messages)


def test_what_is_brought_back_stands_in_front_of_a_question_in_blocks() -> None:
    blocks: Any = [{"type": "text", "text": "How many houses has the town number 3?"}, image()]
    messages = [*asking(turns=60)[:-1], HumanMessage(blocks)]

    last = window(max_tokens=1_600, recall=Recall()).fit(messages).messages[-1]

    assert last.content[1:] == blocks
    assert "Town 3 lies on a river" in last.content[0]["text"]  # type: ignore[index]  # a block
    assert messages[-1].content == blocks


def image() -> dict[str, Any]:
    return {"type": "image", "url": "https://example.com/a.png"}


def test_blank_lines_of_what_was_said_are_not_brought_back() -> None:
    said = AIMessage("Town 77 has a mill\n   \nTown 78 has none")
    messages = [SYSTEM, HumanMessage("Towns?"), said, *asking("Which town has a mill?")[1:]]

    last = window(recall=Recall(), strategy="recent").fit(messages).messages[-1]

    assert "Town 77 has a mill" in str(last.text)
    assert "\n   \n" not in str(last.text)


def test_all_that_is_relevant_is_brought_back_where_there_is_room() -> None:
    messages = [SYSTEM, HumanMessage("mill"), AIMessage("mill"), *talk(30), HumanMessage("mill")]

    fitted = window(recall=Recall(least=0.0), strategy="recent").fit(messages)

    assert "mill" in str(fitted.messages[-1].text)
    assert fitted.report.recalled_tokens > 0


def test_a_question_that_nothing_answers_brings_nothing_back() -> None:
    fitted = window(recall=Recall()).fit(asking("Which wine goes with fish?"))

    assert fitted.report.recalled_tokens == 0


# --- summaries ------------------------------------------------------------------------------------


def summarising(*answers: Any) -> ScriptedModel:
    return ScriptedModel(list(answers), when_exhausted="repeat_last", model_name="gpt-5-nano")


def test_a_summary_is_made_once_and_carried_on() -> None:
    small = summarising("The user asks about towns.", "Towns 0 to 40 were asked about.")
    made = window(strategy="recent", summarizer=Summarizer(small, max_tokens=50))
    messages = asking()

    for _ in range(3):
        sent = made.fit(messages).messages
    assert small.calls == 1
    assert "The user asks about towns." in texts(sent)[1]

    sent = made.fit(
        [*asking(), AIMessage("Fine."), *talk(30, start=30), HumanMessage("So?")]
    ).messages
    assert small.calls == 2
    assert "The user asks about towns." in str(small.requests[1])
    assert "Towns 0 to 40" in texts(sent)[1]
    # What the first summary is of is not read again.
    assert "town number 1?" not in str(small.requests[1])


def test_a_summary_is_booked_as_overhead_of_its_own_model() -> None:
    ledger = UsageLedger()

    window(summarizer=summarising("Notes.")).invoke(asking(), {"callbacks": [ledger]})

    (record,) = ledger.records()
    assert (record.model, record.overhead) == ("gpt-5-nano", True)


@pytest.mark.parametrize("answer", [RuntimeError("down"), "too long " * 900, ""])
def test_a_summary_that_fails_leaves_the_request_without_one(answer: Any) -> None:
    made = window(summarizer=summarising(answer))

    fitted = made.fit(asking())

    assert fitted.report.edited
    assert fitted.report.summary_tokens == 0
    assert made.stats.failed_summaries == 1


def test_what_is_too_long_for_one_request_is_summarised_in_parts() -> None:
    small = summarising("The first part.", "Both parts.")
    summarizer = Summarizer(small, max_input_tokens=700, max_message_tokens=50)

    fitted = window(strategy="recent", summarizer=summarizer).fit(asking())

    assert small.calls == 2
    assert "The first part." in str(small.requests[1])
    assert "Both parts." in texts(fitted.messages)[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": ChatPromptTemplate.from_template("{messages}")}, "lacks max_words, previous"),
        ({"max_tokens": 0}, "must be at least 1, got 0, 8000 and 500"),
        ({"max_input_tokens": 0}, "must be at least 1, got 400, 0 and 500"),
    ],
)
def test_a_summarizer_that_cannot_work_is_refused(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Summarizer(summarising("Notes."), **options)


async def test_who_is_in_the_event_loop_makes_a_summary_rather_than_block_it() -> None:
    made = threading.Event()
    asked = threading.Event()

    def slow(messages: Any) -> str:
        asked.set()
        assert made.wait(30)
        return "Notes."

    shared = window(strategy="recent", summarizer=summarising(slow, "My own."))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shared.fit, asking())
        assert await asyncio.to_thread(asked.wait, 30)
        fitted = shared.fit(asking())  # in the event loop, where waiting would hold all others up
        made.set()

        assert "Notes." in texts(first.result(30).messages)[1]
    assert "My own." in texts(fitted.messages)[1]


def test_a_prompt_that_cannot_be_made_leaves_the_request_without_a_summary() -> None:
    prompt = ChatPromptTemplate.from_messages(
        [("human", "{previous} {messages} {max_words}")], template_format="f-string"
    )
    summarizer = Summarizer(summarising("Notes."), prompt=prompt)
    prompt.messages.append("neither message nor template")  # type: ignore[arg-type]  # wrong on purpose
    made = window(summarizer=summarizer)

    assert made.fit(asking()).report.edited
    assert made.stats.failed_summaries == 1


def test_threads_that_need_the_same_summary_make_it_once() -> None:
    release, asked = threading.Event(), threading.Event()

    def answer(_: list[BaseMessage]) -> str:
        asked.set()
        assert release.wait(10)
        return "Notes."

    small = summarising(answer)
    made = window(summarizer=small)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(made.fit, asking())
        assert asked.wait(10)
        rest = [pool.submit(made.fit, asking()) for _ in range(3)]
        release.set()
        sent = [texts(each.result().messages) for each in (first, *rest)]

    assert small.calls == 1
    assert all(each == sent[0] for each in sent)


async def test_a_cancelled_summary_lets_the_others_make_their_own() -> None:
    started = asyncio.Event()

    class Slow(ScriptedModel):
        async def _agenerate(self, *given: Any, **keywords: Any) -> Any:
            if not started.is_set():
                started.set()
                await asyncio.sleep(60)
            return await super()._agenerate(*given, **keywords)

    made = window(summarizer=Slow(["Notes."], when_exhausted="repeat_last"))
    first = asyncio.create_task(made.afit(asking()))
    await asyncio.wait_for(started.wait(), 10)
    second = asyncio.create_task(made.afit([*asking()]))
    await asyncio.sleep(0)
    first.cancel()

    fitted = await asyncio.wait_for(second, 10)

    assert fitted.report.tokens <= 600
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] or (
        first.cancelled() or first.cancelling()
    )


# --- embeddings -----------------------------------------------------------------------------------


class Broken(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise RuntimeError("no embeddings today")

    def embed_query(self, text: str) -> list[float]:
        raise RuntimeError("no embeddings today")


def test_each_text_is_embedded_once() -> None:
    embedded: list[str] = []

    class Counting(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            embedded.extend(texts)
            return super().embed_documents(texts)

    made = window(embeddings=Counting(size=8))
    made.fit(asking())
    made.fit([*asking(), AIMessage("Fine."), *talk(30, start=30), HumanMessage("So?")])

    assert len(embedded) == len(set(embedded)) > 60


def test_embeddings_of_another_length_or_too_few_count_as_nothing_alike() -> None:
    class Odd(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            made = super().embed_documents(texts)
            return [made[0], *(each[:3] for each in made[1:-1])]

    made = window(embeddings=Odd(size=8), recall=Recall())

    sent = made.fit(asking()).messages

    assert texts(sent)[-1].endswith("And now?")
    assert made.stats.failed_embeddings == 0


def test_what_was_asked_before_is_not_embedded_again_in_another_conversation() -> None:
    embedded: list[str] = []

    class Counting(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            embedded.extend(texts)
            return super().embed_documents(texts)

    made = window(embeddings=Counting(size=8), recall=Recall())
    made.fit(asking())
    seen = len(embedded)
    later = made.fit([SYSTEM, *asking()[3:]])  # begins with the second question

    assert later.report.edited
    assert len(embedded) == seen > 0


def test_broken_embeddings_break_no_request() -> None:
    made = window(embeddings=Broken(), recall=Recall())

    sent = made.fit(asking()).messages

    assert texts(sent) == texts(window(recall=Recall()).fit(asking()).messages)
    assert made.stats.failed_embeddings > 0


# --- long turns and bad input ---------------------------------------------------------------------


def test_early_results_of_a_long_turn_become_a_line_and_the_calls_stay() -> None:
    messages = [SYSTEM, HumanMessage("Go."), *(m for n in range(10) for m in looked_up(n))]

    fitted = window().fit(messages)

    assert fitted.report.tokens <= 600
    calls = [call for m in fitted.messages if isinstance(m, AIMessage) for call in m.tool_calls]
    assert [call["args"]["n"] for call in calls] == list(range(10))
    assert "was left out" in texts(fitted.messages)[3]
    assert fitted.messages[-1] == messages[-1]


def test_a_turn_of_very_many_calls_keeps_the_latest_ones() -> None:
    turn = [m for n in range(60) for m in looked_up(n)]
    made = window()
    for end in range(2, len(turn) + 1, 2):
        fitted = made.fit([SYSTEM, HumanMessage("Go."), *turn[:end]])
        assert fitted.report.tokens <= 600
        assert list(fitted.messages[-2:]) == turn[end - 2 : end]

    assert "earlier messages are not shown" in texts(fitted.messages)[1]
    assert made.stats.edits < 40


def test_a_result_larger_than_the_window_loses_its_middle_and_says_so() -> None:
    result = "first line\n" + "noise " * 3_000 + "\nlast line"
    fitted = window().fit([SYSTEM, HumanMessage("Go."), *looked_up(1, result)])

    (cut,) = (str(m.text) for m in fitted.messages if isinstance(m, ToolMessage))
    assert fitted.report.tokens <= 600
    assert cut.startswith("first line")
    assert cut.endswith("last line")
    assert "tokens were left out" in cut
    assert fitted.report.dropped[0].reason == "shortened"


def test_of_several_results_only_the_largest_is_cut_where_that_is_enough() -> None:
    (one, small_one), (two, large_one) = looked_up(1, "small " * 20), looked_up(2, "noise " * 3_000)
    both = AIMessage("", tool_calls=[*one.tool_calls, *two.tool_calls])  # type: ignore[attr-defined]  # AI messages
    fitted = window().fit([SYSTEM, HumanMessage("Go."), both, small_one, large_one])

    small, cut = (str(m.text) for m in fitted.messages if isinstance(m, ToolMessage))
    assert fitted.report.tokens <= 600
    assert small == "small " * 20
    assert "tokens were left out" in cut


def test_a_question_over_the_limit_is_refused_with_its_size() -> None:
    with pytest.raises(ContextOverflowError, match=r"message \(number 1, human\) has 3,0\d\d"):
        window().fit([SYSTEM, HumanMessage("word " * 3_000)])


def test_a_question_over_the_limit_is_sent_where_that_was_asked_for() -> None:
    fitted = window(when_too_large="send").fit([SYSTEM, HumanMessage("word " * 3_000)])

    assert len(fitted.messages) == 2
    assert "600 are allowed" in fitted.report.problems[0]


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one message"):
        window().fit([])


def test_an_orphan_result_is_left_out_and_said() -> None:
    orphan = ToolMessage("?", tool_call_id="gone")
    fitted = window().fit([SYSTEM, orphan, HumanMessage("Hi"), *looked_up(1), orphan])

    assert orphan not in fitted.messages
    assert len(fitted.report.problems) == 2
    assert "gone" in fitted.report.problems[0]


def test_a_call_without_a_result_gets_one_that_says_so() -> None:
    call = looked_up(1)[0]
    fitted = window().fit([SYSTEM, HumanMessage("Hi"), call, HumanMessage("Still there?")])

    assert "no result" in texts(fitted.messages)[3]
    assert fitted.report.problems
    # A call at the very end is about to be answered.
    assert not window().fit([SYSTEM, HumanMessage("Hi"), call]).report.problems


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"keep_tokens": 600}, "keep_tokens"),
        ({"keep_tokens": 0}, "keep_tokens"),
        ({"strategy": "best"}, "recent, importance"),
        ({"strategy": 3}, "expected a strategy"),
        ({"when_too_large": "cut"}, "when_too_large"),
        ({"tables": "maybe"}, "tables"),
        ({"summarizer": "gpt-5"}, "chat model"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        window(**wrong)


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="weights"):
        Importance(recency=-1)
    with pytest.raises(ConfigurationError, match="importance from 0 to 1"):
        weighted(HumanMessage("Hi"), importance=2)
    with pytest.raises(ConfigurationError, match="max_tokens"):
        Recall(max_tokens=0)


# --- stores ---------------------------------------------------------------------------------------


class TestSqliteContextStore(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, tmp_path: Path) -> SqliteContextStore:
        return SqliteContextStore(tmp_path / "contexts.sqlite")

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"one", b"two", b"three"


async def test_a_store_that_fails_breaks_no_request(tmp_path: Path) -> None:
    path = tmp_path / "contexts.sqlite"
    path.write_bytes(b"this is no database" * 100)
    store = SqliteContextStore(path)
    with pytest.raises(StoreError, match="cannot be used"):
        store.mget(["a"])

    made = window(store=store)

    assert made.fit(asking()).report.edited
    assert not made.fit(asking()).report.edited
    assert made.stats.failed_stores > 0
    failed = made.stats.failed_stores
    assert not (await made.afit(asking())).report.edited
    assert (await window(store=store).afit(asking())).report.edited
    assert made.stats.failed_stores > failed


def test_a_store_whose_folder_is_gone_says_so_and_is_closed_twice(tmp_path: Path) -> None:
    folder = tmp_path / "contexts"
    folder.mkdir()
    store = SqliteContextStore(folder / "contexts.sqlite")
    store.mset([("a", b"1")])
    store.close()
    store.close()
    assert store.mget(["a"]) == [b"1"]
    store.close()
    shutil.rmtree(folder)

    with pytest.raises(StoreError, match=r"contexts\.sqlite cannot be used"):
        store.mget(["a"])


async def test_a_store_serves_the_async_form_too(tmp_path: Path) -> None:
    store = SqliteContextStore(tmp_path / "contexts.sqlite")

    first = await window(store=store).afit(asking())
    second = await window(store=store).afit(asking())

    assert (first.report.edited, second.report.edited) == (True, False)
    assert texts(second.messages) == texts(first.messages)
    store.close()


@pytest.mark.parametrize(
    "written",
    [
        b"\xff\xfe",
        b"[1, 2]",
        b'{"asked": 3}',
        b'{"asked": 60, "dropped": [0, 1], "replaced": {}, "summary": null, "summarised": 0}',
        b'{"asked": 61, "dropped": [61], "replaced": {}, "summary": null, "summarised": 0}',
        b'{"asked": 999, "dropped": [2], "replaced": {}, "summary": null, "summarised": 0}',
    ],
)
def test_what_somebody_else_wrote_into_the_store_is_checked(written: bytes) -> None:
    store = InMemoryByteStore()
    window(store=store).fit(asking())
    store.mset([(key, written) for key in store.yield_keys()])

    fitted = window(store=store).fit(asking())

    assert fitted.messages[0] == SYSTEM
    assert fitted.messages[-1] == asking()[-1]
    assert fitted.report.edited


# --- in LangChain and LangGraph -------------------------------------------------------------------


def test_a_window_stands_before_a_model_in_a_chain() -> None:
    with LoopbackServer(lambda _: "fine") as server:
        model = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
        chain = ContextWindow(model, max_tokens=600) | model

        assert chain.invoke(asking()).text == "fine"
        assert [chunk.text for chunk in chain.stream(asking())][-3:]

    sent = server.requests[0].body["messages"]
    assert len(sent) < 20
    assert COUNTER.count_messages(window(recall=Recall()).invoke(asking())) <= 600


async def test_the_async_form_gives_the_same() -> None:
    small = summarising("Notes.")
    options: Any = {
        "summarizer": small,
        "recall": Recall(),
        "embeddings": DeterministicFakeEmbedding(size=8),
    }

    fitted = await window(**options).afit(asking())

    assert texts(fitted.messages) == texts(window(**options).fit(asking()).messages)
    assert texts(await window(**options).ainvoke(asking())) == texts(fitted.messages)


async def test_a_long_conversation_does_not_hold_up_the_event_loop() -> None:
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(0)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(beat())
    made = window(max_tokens=4_000, recall=Recall())
    fitted = await made.afit([SYSTEM, *talk(4_000), HumanMessage("What of town number 17?")])
    task.cancel()

    assert fitted.report.edited
    assert len(beats) > 10


def test_a_node_leaves_the_state_whole() -> None:
    class State(MessagesState):
        llm_input_messages: list[BaseMessage]

    model = ScriptedModel(["fine"])
    graph = StateGraph(State)
    graph.add_node("window", window().as_node())
    graph.add_node(
        "model", RunnableLambda(lambda s: {"messages": [model.invoke(s["llm_input_messages"])]})
    )
    graph.add_edge(START, "window").add_edge("window", "model")

    state = graph.compile().invoke({"messages": asking()})

    assert len(state["messages"]) == len(asking()) + 1
    assert len(model.requests[0]) < 20


@pytest.mark.filterwarnings("ignore:create_react_agent")
def test_a_node_is_a_pre_model_hook() -> None:
    from langgraph.prebuilt import create_react_agent

    model = ScriptedModel(["fine"])
    agent = create_react_agent(model, [], pre_model_hook=window().as_node())

    state = agent.invoke({"messages": asking()})

    assert state["messages"][-1].text == "fine"
    assert len(state["messages"]) == len(asking()) + 1
    assert len(model.requests[0]) < 20


def test_a_node_says_what_it_misses() -> None:
    with pytest.raises(ConfigurationError, match="under 'messages'"):
        window().as_node().invoke({"question": "Hi"})


async def test_a_node_runs_in_the_event_loop_too() -> None:
    sent = await window().as_node(output_key="sent").ainvoke({"messages": asking()})

    assert texts(sent["sent"]) == texts(window().invoke(asking()))


def test_a_strategy_of_ones_own_decides() -> None:
    class Oldest:
        needs_relevance = contiguous = False

        def values(self, groups: Any, relevance: Any) -> list[float]:
            return [1.0 / (n + 1) ** 9 for n in range(len(groups))]

    fitted = window(strategy=Oldest()).fit(asking())

    assert "Town 0 lies" in str(fitted.messages)
    assert "Town 28 lies" not in str(fitted.messages)
    with pytest.raises(ConfigurationError, match="got Half, which lacks contiguous, needs_relev"):
        window(strategy=type("Half", (), {"values": Oldest.values})())


def test_strings_and_prompts_are_taken_too() -> None:
    value = ChatPromptTemplate.from_template("Say {word}.").invoke({"word": "Hi"})
    assert texts(window().invoke(value)) == ["Say Hi."]
    assert texts(window().invoke("Hi")) == ["Hi"]
    assert texts(window().invoke([("system", "Be brief."), ("human", "Hi")])) == ["Be brief.", "Hi"]
