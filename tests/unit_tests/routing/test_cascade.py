"""The cascade graph: who is asked, what is kept, what the user sees."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.routing import (
    Attempt,
    Check,
    Tier,
    Verdict,
    create_cascade,
    mentions,
    no_refusal,
    not_empty,
)
from langchain_tokenopt.testing import ScriptedModel

QUESTION = {"messages": [("user", "2 + 2?")]}


def says_four(question: str, attempt: Attempt) -> Verdict:
    return Verdict(accepted="4" in attempt["text"], reason="looked for a 4")


def models(*answers: Any) -> list[ScriptedModel]:
    return [ScriptedModel([answer], when_exhausted="repeat_last") for answer in answers]


def cascade(
    *upstream: Any, checks: list[Check] | None = None, rules: Any = (), **compile_with: Any
) -> Any:
    tiers = [Tier(f"tier_{n}", model) for n, model in enumerate(upstream)]
    chosen = [says_four] if checks is None else checks
    return create_cascade(tiers, checks=chosen, rules=rules).compile(**compile_with)


def test_an_accepted_answer_ends_it() -> None:
    small, large = models("4", "four")

    state = cascade(small, large).invoke(QUESTION)

    assert state["answer"].text == "4"
    assert state["accepted"]
    assert [attempt["tier"] for attempt in state["attempts"]] == ["tier_0"]
    assert large.calls == 0


def test_a_declined_answer_goes_to_the_next_tier_with_the_question_alone() -> None:
    small, middle, large = models("5", "6", "4")

    state = cascade(small, middle, large).invoke(QUESTION)

    assert [m.calls for m in (small, middle, large)] == [1, 1, 1]
    assert [m.text for m in large.requests[0]] == ["2 + 2?"]
    assert [(a["text"], a["accepted"]) for a in state["attempts"]] == [
        ("5", False),
        ("6", False),
        ("4", True),
    ]
    assert [m.text for m in state["messages"]] == ["2 + 2?", "4"]


def test_the_last_tier_answers_even_where_it_is_declined() -> None:
    state = cascade(*models("5", "6")).invoke(QUESTION)

    assert state["answer"].text == "6"
    assert not state["accepted"]
    assert state["attempts"][-1]["reason"] == "looked for a 4"


async def test_sync_and_async_do_the_same() -> None:
    def plain(state: Any) -> Any:
        return [{**attempt, "latency_s": 0.0} for attempt in state["attempts"]]

    graph = cascade(*models("5", RuntimeError("down"), "4"))

    assert plain(graph.invoke(QUESTION)) == plain(await graph.ainvoke(QUESTION))


def test_an_error_goes_to_the_next_tier_and_is_told() -> None:
    state = cascade(*models(RuntimeError("rate limit"), "4")).invoke(QUESTION)

    assert state["answer"].text == "4"
    assert state["attempts"][0]["error"] == "RuntimeError: rate limit"
    assert not state["attempts"][0]["accepted"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_of_the_last_tier_is_raised(asynchronous: bool) -> None:
    graph = cascade(*models("5", RuntimeError("down")))

    with pytest.raises(RuntimeError, match="down"):
        asyncio.run(graph.ainvoke(QUESTION)) if asynchronous else graph.invoke(QUESTION)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_check_that_raises_declines_and_is_told(asynchronous: bool) -> None:
    def broken(question: str, attempt: Attempt) -> Verdict:
        raise KeyError("price")

    small, large = models("4", "four")
    graph = cascade(small, large, checks=[broken])

    state = asyncio.run(graph.ainvoke(QUESTION)) if asynchronous else graph.invoke(QUESTION)

    assert state["answer"].text == "four"
    assert state["attempts"][0]["reason"] == "the check broken raised KeyError('price')"


def test_checks_are_asked_in_order_until_one_declines() -> None:
    asked: list[str] = []

    def check(name: str, *, accepted: bool) -> Check:
        def judge(question: str, attempt: Attempt) -> Verdict:
            asked.append(f"{name} {question}")
            return Verdict(accepted=accepted, reason=name)

        return judge

    chosen = [check("a", accepted=True), check("b", accepted=False), check("c", accepted=True)]
    state = cascade(*models("4"), checks=chosen).invoke(QUESTION)

    assert asked == ["a 2 + 2?", "b 2 + 2?"]
    assert state["attempts"][0]["reason"] == "b"


async def test_an_asynchronous_check_is_awaited_and_refused_where_it_cannot_be() -> None:
    async def judge(question: str, attempt: Attempt) -> Verdict:
        await asyncio.sleep(0)
        return Verdict(accepted=attempt["text"] == "4", reason="judged")

    graph = cascade(*models("5", "4"), checks=[judge])

    assert (await graph.ainvoke(QUESTION))["answer"].text == "4"
    with pytest.raises(ConfigurationError, match="judge must return a Verdict here"):
        graph.invoke(QUESTION)


def test_the_first_rule_that_applies_chooses_the_tier() -> None:
    small, middle, large = models("4", "4", "4")
    rules = [mentions("refund", tier="tier_2"), mentions("2", tier="tier_1")]

    state = cascade(small, middle, large, rules=rules).invoke(QUESTION)

    assert [m.calls for m in (small, middle, large)] == [0, 1, 0]
    assert state["route"] == "the question mentions '2'"


def test_a_thread_starts_each_turn_afresh_and_keeps_its_messages() -> None:
    small, large = models("5", "4")
    graph = cascade(small, large, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}

    graph.invoke(QUESTION, config)
    state = graph.invoke({"messages": [("user", "and again?")]}, config)

    assert [m.text for m in state["messages"]] == ["2 + 2?", "4", "and again?", "4"]
    assert len(state["attempts"]) == 2
    assert [m.text for m in small.requests[1]] == ["2 + 2?", "4", "and again?"]


def texts(parts: list[Any]) -> list[str]:
    return [message.text for message, _ in parts if isinstance(message, AIMessage)]


def test_the_user_sees_no_draft_that_was_declined() -> None:
    graph = cascade(*models("5 is wrong", "4 is right"))

    parts = list(graph.stream(QUESTION, stream_mode="messages"))

    assert "".join(texts(parts)) == "4 is right"
    assert sum(isinstance(m, AIMessageChunk) and bool(m.text) for m, _ in parts) > 1


async def test_the_user_sees_an_accepted_draft_once() -> None:
    graph = cascade(*models("4 is right", "never"))

    parts = [part async for part in graph.astream(QUESTION, stream_mode="messages")]

    assert "".join(texts(parts)) == "4 is right"


def test_the_ledger_has_every_call_under_its_tier() -> None:
    ledger = UsageLedger()

    cascade(*models("5", RuntimeError("down"), "4")).invoke(QUESTION, {"callbacks": [ledger]})

    assert [(record.node, record.kind) for record in ledger.records()] == [
        ("tier_0", "live"),
        ("tier_1", "error"),
        ("tier_2", "live"),
    ]


def test_an_attempt_says_what_it_used_and_where_it_came_from() -> None:
    small = CachedChatModel(ScriptedModel(["4"], model_name="mini"), cache=MemoryCache())
    graph = cascade(small, *models("never"))

    first, second = (graph.invoke(QUESTION)["attempts"][0] for _ in range(2))

    assert (first["model"], first["input_tokens"], first["output_tokens"]) == ("mini", 4, 1)
    assert (first["cache"], second["cache"]) == (None, "memory")


def test_a_hundred_runs_at_once_do_not_mix() -> None:
    echo = ScriptedModel([lambda messages: messages[-1].text], when_exhausted="repeat_last")
    graph = cascade(echo, echo, checks=[not_empty])

    async def ask() -> list[Any]:
        asked = (graph.ainvoke({"messages": [("user", f"q{n}")]}) for n in range(100))
        return await asyncio.gather(*asked)

    for number, state in enumerate(asyncio.run(ask())):
        assert state["answer"].text == f"q{number}"
        assert len(state["attempts"]) == 1


def test_a_tier_may_have_tools() -> None:
    @tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    call = {"name": "double", "args": {"number": 2}, "id": "1", "type": "tool_call"}
    small = ScriptedModel([AIMessage("", tool_calls=[call])]).bind_tools([double])

    state = cascade(small, *models("never"), checks=[not_empty]).invoke(QUESTION)

    assert state["attempts"][0]["tool_calls"] == [call]


def test_a_person_can_be_asked_in_a_check() -> None:
    def person(question: str, attempt: Attempt) -> Verdict:
        said = interrupt(attempt["text"])
        return Verdict(accepted=said == "yes", reason=f"a person said {said}")

    graph = cascade(*models("4", "four"), checks=[person], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}

    shown = [graph.invoke(QUESTION, config), graph.invoke(Command(resume="no"), config)]
    state = graph.invoke(Command(resume="yes"), config)

    assert [waiting["__interrupt__"][0].value for waiting in shown] == ["4", "four"]
    assert state["attempts"][0]["reason"] == "a person said no"
    assert state["answer"].text == "four"


def test_a_cascade_is_a_node_of_another_graph() -> None:
    outer = StateGraph(MessagesState)
    outer.add_node("answer", cascade(*models("5", "4")))
    outer.add_edge(START, "answer")

    state = outer.compile().invoke({"messages": [HumanMessage("2 + 2?")]})

    assert state["messages"][-1].text == "4"


def test_the_graph_can_be_drawn() -> None:
    drawn = cascade(*models("5", "4")).get_graph()

    edges = {(edge.source, edge.target) for edge in drawn.edges}
    assert ("choose_tier", "tier_1") in edges
    assert ("tier_0", "tier_1") in edges
    assert ("tier_1", "__end__") in edges
    assert ("tier_1", "tier_0") not in edges


@pytest.mark.parametrize(
    ("names", "told"),
    [([], "at least one tier"), (["a", "a"], r"\['a'\]"), (["choose_tier"], "free"), ([""], "fr")],
)
def test_tiers_that_cannot_be_are_refused(names: list[str], told: str) -> None:
    tiers = [Tier(name, ScriptedModel(["4"])) for name in names]

    with pytest.raises(ConfigurationError, match=told):
        create_cascade(tiers)


def test_a_rule_for_an_unknown_tier_is_refused() -> None:
    tiers = [Tier("small", ScriptedModel(["4"])), Tier("large", ScriptedModel(["4"]))]

    with pytest.raises(ConfigurationError, match="'huge'; the tiers are small, large"):
        create_cascade(tiers, rules=[mentions("x", tier="huge")])


def test_nothing_to_answer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one message"):
        cascade(*models("4")).invoke({"messages": []})


def refused(messages: Any) -> BudgetExceededError:
    return BudgetExceededError("budget 'day' has 0 of 1 calls left", status=None, needed=None)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_draft_is_given_where_a_budget_has_no_room_for_a_better_one(way: str) -> None:
    small, large = ScriptedModel(["I don't know."]), ScriptedModel([refused])
    tiers = [Tier("small", small), Tier("large", large)]
    graph: Any = create_cascade(tiers, checks=[no_refusal]).compile()
    asked: Any = {"messages": [("user", "2 + 2?")]}

    state = graph.invoke(asked) if way == "invoke" else await graph.ainvoke(asked)

    assert (state["answer"].text, state["accepted"]) == ("I don't know.", False)
    assert "budget 'day'" in state["answer"].response_metadata["tokenopt_budget"]["stopped"]
    assert [attempt["tier"] for attempt in state["attempts"]] == ["small", "large"]


def test_without_a_draft_the_budgets_error_is_raised() -> None:
    tiers = [Tier("small", ScriptedModel([refused])), Tier("large", ScriptedModel([refused]))]
    graph: Any = create_cascade(tiers).compile()

    with pytest.raises(BudgetExceededError):
        graph.invoke({"messages": [("user", "2 + 2?")]})


class Awaited:
    """Something to await that is no coroutine."""

    def __await__(self) -> Any:
        yield


@pytest.mark.parametrize("chosen", [Awaited, lambda: asyncio.sleep(0)])
def test_what_must_be_awaited_needs_the_graphs_asynchronous_methods(chosen: Any) -> None:
    (model,) = models("4")
    tiers = [Tier("only", model), Tier("never", model)]
    started: Any = create_cascade(tiers, start=lambda *_: chosen()).compile()
    checked = cascade(model, model, checks=[lambda *_: chosen()])

    with pytest.raises(ConfigurationError, match="`start` is asynchronous"):
        started.invoke(QUESTION)
    with pytest.raises(ConfigurationError, match="if it is asynchronous, use ainvoke"):
        checked.invoke(QUESTION)


def test_a_tier_that_interrupts_stops_the_graph_and_goes_on_with_the_answer() -> None:
    human = RunnableLambda(lambda _: AIMessage(f"4, says {interrupt('2 + 2?')}"))
    (large,) = models("never")
    graph = cascade(human, large, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    stopped = graph.invoke(QUESTION, config)
    state = graph.invoke(Command(resume="Ada"), config)

    assert stopped["__interrupt__"][0].value == "2 + 2?"
    assert (state["answer"].text, large.calls) == ("4, says Ada", 0)


@pytest.mark.parametrize("answer", ["4", HumanMessage("4"), None])
async def test_a_tier_that_answers_with_no_answer_is_told(answer: Any) -> None:
    graph = cascade(*[RunnableLambda(lambda _: answer)] * 2)

    with pytest.raises(ConfigurationError, match="must answer with an AIMessage, got"):
        graph.invoke(QUESTION)
    with pytest.raises(ConfigurationError, match="must answer with an AIMessage, got"):
        await graph.ainvoke(QUESTION)
