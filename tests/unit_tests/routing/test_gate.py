"""The gate: what is asked and in which order, what it makes of it, and that a recording agrees."""

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from langchain_tokenopt.accounting import Budget, BudgetedChatModel, BudgetGuard, UsageLedger
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning.extract import number
from langchain_tokenopt.routing import Attempt, Verdict
from langchain_tokenopt.routing.agreement import SecondOpinion, with_instruction
from langchain_tokenopt.routing.arithmetic import numbers_in, steps_of
from langchain_tokenopt.routing.attempt import attempt_of
from langchain_tokenopt.routing.gate import Gate, GateVerdict, RecordedDraft
from langchain_tokenopt.routing.gate_features import (
    OWN_FEATURES,
    PAIR_FEATURES,
    own_features,
    pair_features,
    read_answer,
)
from langchain_tokenopt.routing.gate_model import GateModel, LogisticModel
from langchain_tokenopt.routing.judging import CorrectnessJudge, PreferenceJudge
from langchain_tokenopt.routing.tool_checks import bound_tools, matches, tool_arguments
from langchain_tokenopt.testing import ScriptedModel

QUESTION = "What is 3 * 4 + 2?"
MESSAGES = [HumanMessage(QUESTION)]


def draft(text: str = "3 * 4 = 12, 12 + 2 = 14", **more: Any) -> Attempt:
    return attempt_of(AIMessage(text, **more), tier="small", latency_s=0.1)


def opinion(*answers: Any, samples: int = 1, **more: Any) -> SecondOpinion:
    return SecondOpinion(model=ScriptedModel(list(answers)), samples=samples, **more)


def calls(of: SecondOpinion) -> int:
    assert isinstance(of.model, ScriptedModel)
    return of.model.calls


def constant(logit: float, *, names: tuple[str, ...] = ()) -> LogisticModel:
    ones = tuple(1.0 for _ in names)
    return LogisticModel(names=names, means=ones, scales=ones, weights=ones, intercept=logit)


def judged(gate: Gate, attempt: Attempt | None = None, **more: Any) -> GateVerdict:
    return gate.judge(QUESTION, attempt or draft(), messages=MESSAGES, **more)


# --- order and early stop -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (draft(" "), "the answer is empty"),
        (draft("I am unable to help"), "the model declined to answer"),
        (
            draft("14", response_metadata={"finish_reason": "length"}),
            "the answer was cut at its token limit",
        ),
    ],
)
def test_a_failed_check_is_a_score_of_0_and_asks_nobody(attempt: Attempt, reason: str) -> None:
    peer = opinion("14")

    verdict = judged(Gate(reader=number, second_opinion=peer), attempt)

    assert (verdict.score, verdict.reason) == (0.0, reason)
    assert calls(peer) == 0


def test_a_users_validator_is_a_check_like_any_other() -> None:
    def has_a_citation(question: str, attempt: Attempt) -> Verdict:
        return Verdict(accepted="[1]" in attempt["text"], reason="looked for a citation")

    assert judged(Gate(checks=[has_a_citation])).score == 0.0
    assert judged(Gate(checks=[has_a_citation]), draft("14 [1]")).score == 1.0


def test_opinions_stop_at_the_first_that_agrees() -> None:
    peer = opinion("It is 13", "It is 14", "It is 14", samples=3)

    verdict = judged(Gate(reader=number, second_opinion=peer))

    assert verdict.score == 0.5
    assert verdict.reason == "second opinion 2 agrees"
    assert verdict.opinions == ("It is 13", "It is 14")
    assert calls(peer) == 2


def test_no_opinion_that_agrees_is_a_score_of_0() -> None:
    verdict = judged(Gate(reader=number, second_opinion=opinion("1", "2", samples=2)))

    assert (verdict.score, verdict.reason) == (0.0, "no second opinion agrees")


def test_two_abstentions_do_not_agree() -> None:
    gate = Gate(reader=number, second_opinion=opinion("no idea"))

    assert judged(gate, draft("hard to say")).score == 0.0


def test_a_readers_own_comparison_counts() -> None:
    gate = Gate(reader=number, second_opinion=opinion("The answer is 14.00"))

    assert judged(gate).score == 1.0


def test_the_second_opinion_is_asked_in_another_form() -> None:
    peer = opinion("14", "14", rewrite=with_instruction("Write a program."))
    gate = Gate(reader=number, second_opinion=peer)
    judged(gate)
    gate.judge(QUESTION, draft(), messages=[SystemMessage("Be brief."), *MESSAGES])

    assert isinstance(peer.model, ScriptedModel)
    assert [[m.text for m in request] for request in peer.model.requests] == [
        ["Write a program.", QUESTION],
        ["Be brief.\n\nWrite a program.", QUESTION],
    ]


def test_the_judge_is_asked_only_where_no_opinion_agrees() -> None:
    judge = CorrectnessJudge(model=ScriptedModel(["Yes, it is.", "No."]))
    agreeing = Gate(reader=number, second_opinion=opinion("14"), judged_by=judge)
    differing = Gate(reader=number, second_opinion=opinion("13"), judged_by=judge)

    assert judged(agreeing).judged is None
    assert judged(differing).score == 1.0
    assert judged(Gate(judged_by=judge)).score == 0.0


def test_a_comparison_is_asked_in_both_orders_and_a_bias_for_a_place_is_undecided() -> None:
    model = ScriptedModel(["1", "1"])
    gate = Gate(reader=number, second_opinion=opinion("13"), judged_by=PreferenceJudge(model=model))

    verdict = judged(gate)

    first, second = (request[-1].text for request in model.requests)
    assert first.index("Answer 1:\n3 * 4") < first.index("Answer 2:\n13")
    assert second.index("Answer 1:\n13") < second.index("Answer 2:\n3 * 4")
    assert verdict.score == 0.5


def test_a_model_says_the_score_and_saves_the_opinion_where_it_would_change_nothing() -> None:
    peer = opinion("14", "14")
    hopeful = GateModel(own=constant(2.0), full=constant(0.0, names=("agreement",)), ask_from=0.6)
    hopeless = GateModel(own=constant(-2.0), full=constant(9.0), ask_from=0.6)

    asked = judged(Gate(reader=number, second_opinion=peer, model=hopeful))
    assert asked.score == pytest.approx(0.5)
    assert calls(peer) == 1

    spared = judged(Gate(reader=number, second_opinion=peer, model=hopeless))
    assert spared.score == pytest.approx(1 / (1 + math.exp(2)))
    assert calls(peer) == 1


def test_a_model_that_needs_an_opinion_says_so_where_none_is_asked() -> None:
    model = GateModel(own=constant(2.0), full=constant(0.0, names=("agreement",)))

    with pytest.raises(ConfigurationError, match="'agreement', which this gate does not tell"):
        judged(Gate(model=model))


# --- tool calls and schemas -----------------------------------------------------------------------


@tool
def book(city: str, nights: int) -> str:
    """Book a room."""
    return f"{city}, {nights}"


SEARCH = {
    "name": "search",
    "description": "Search.",
    "parameters": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["news", "web"]},
            "words": {"type": "array", "items": {"type": "string"}},
            "most": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["kind"],
        "additionalProperties": False,
    },
}


def calling(name: str, **arguments: Any) -> Attempt:
    return draft("", tool_calls=[{"name": name, "args": arguments, "id": "1"}])


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (calling("book", city="Oslo", nights=2), "every tool call suits its tool"),
        (calling("search", kind="web", words=["a"], most=None), "every tool call suits its tool"),
        (calling("cancel"), "there is no tool 'cancel'"),
        (calling("book", city="Oslo"), "nights: Field required"),
        (calling("book", city="Oslo", nights="two"), "nights: Input should be a valid integer"),
        (calling("search", words=["a"]), "'kind' is missing"),
        (calling("search", kind="maps"), "'kind' is not one of 'news', 'web'"),
        (calling("search", kind="web", words=[1]), "an item of 'words' is no string"),
        (calling("search", kind="web", words="a"), "'words' is no array"),
        (calling("search", kind="web", most=True), "'most' is none of what is allowed"),
        (calling("search", kind="web", page=2), "'page' is not known"),
    ],
)
def test_tool_calls_are_checked_against_their_tools(attempt: Attempt, reason: str) -> None:
    verdict = tool_arguments([book, SEARCH])(QUESTION, attempt)

    assert isinstance(verdict, Verdict)
    assert reason in verdict.reason
    assert verdict.accepted is reason.startswith("every")


def test_the_bound_tools_of_a_model_are_what_its_calls_are_checked_against() -> None:
    bound = ScriptedModel(["unused"]).bind_tools([book])

    verdict = tool_arguments(bound_tools(bound))(QUESTION, calling("book", city="Oslo"))

    assert isinstance(verdict, Verdict)
    assert verdict.reason == "the arguments of book do not fit: 'nights' is missing"
    assert bound_tools(ScriptedModel(["unused"])) == []


def test_equal_tool_calls_agree_whatever_their_ids_and_order_of_arguments() -> None:
    def call(identity: str, **arguments: Any) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "book", "args": arguments, "id": identity}])

    first = attempt_of(call("1", city="Oslo", nights=2), tier="small", latency_s=0.1)
    peer = opinion(call("2", nights=2, city="Oslo"), call("3", nights=3, city="Oslo"))
    gate = Gate(reader=str, second_opinion=peer)

    assert judged(gate, first).score == 1.0
    assert judged(gate, first).score == 0.0


def test_an_answer_that_must_be_json_of_a_schema_is_validated() -> None:
    class Person(BaseModel):
        name: str
        age: int

    check = matches(Person)

    for text, accepted in (
        ('{"name": "Ada", "age": 36}', True),
        ('```json\n{"name": "Ada", "age": 36}\n```', True),
        ('{"name": "Ada"}', False),
        ("Ada is 36.", False),
    ):
        verdict = check(QUESTION, draft(text))
        assert isinstance(verdict, Verdict)
        assert verdict.accepted is accepted, text


# --- errors, config, async ------------------------------------------------------------------------


def test_an_error_of_a_second_opinion_is_raised() -> None:
    gate = Gate(reader=number, second_opinion=opinion(TimeoutError("no answer")))

    with pytest.raises(TimeoutError, match="no answer"):
        judged(gate)


def test_a_check_that_runs_out_of_something_is_an_error_and_no_verdict() -> None:
    def takes_the_next(question: str, attempt: Attempt) -> Verdict:
        return next(iter([]))

    with pytest.raises(StopIteration):
        judged(Gate(checks=[takes_the_next]))


def test_a_budget_that_runs_out_stops_the_gate_before_the_call() -> None:
    upstream = ScriptedModel(["13", "14"])
    guard = BudgetGuard([Budget("day", calls=1, every="day")])
    peer = SecondOpinion(model=BudgetedChatModel(upstream, guard=guard), samples=2)

    with pytest.raises(BudgetExceededError):
        judged(Gate(reader=number, second_opinion=peer))

    assert upstream.calls == 1


def test_bad_arguments_are_refused_when_the_gate_is_made() -> None:
    with pytest.raises(ConfigurationError, match="need a reader"):
        Gate(second_opinion=opinion("14"))
    with pytest.raises(ConfigurationError, match="a number from 1 to 10, got 0"):
        opinion("14", samples=0)
    with pytest.raises(ConfigurationError, match="got an empty text"):
        with_instruction(" ")


def test_an_asynchronous_check_needs_the_asynchronous_method() -> None:
    async def slow(question: str, attempt: Attempt) -> Verdict:
        return Verdict(accepted=False, reason="thought about it")

    gate = Gate(checks=[slow])

    assert asyncio.run(gate.ajudge(QUESTION, draft(), messages=MESSAGES)).reason == (
        "thought about it"
    )
    with pytest.raises(ConfigurationError, match="the check slow is asynchronous; use ajudge"):
        judged(gate)


def test_the_config_reaches_every_call_so_the_ledger_counts_opinions_and_judge() -> None:
    with UsageLedger() as ledger:
        gate = Gate(
            reader=number,
            second_opinion=opinion("12", "13", samples=2),
            judged_by=CorrectnessJudge(model=ScriptedModel(["no"])),
        )
        config: RunnableConfig = {"callbacks": [ledger], "tags": ["mine"]}
        judged(gate, config=config)

        records = list(ledger.records())

    assert len(records) == 3
    assert all("mine" in record.tags for record in records)


def test_the_gates_calls_are_not_in_a_graphs_stream_of_messages() -> None:
    gate = Gate(reader=number, second_opinion=opinion("peer says 14"))

    def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        verdict = gate.judge(QUESTION, draft(), messages=state["messages"], config=config)
        return {"messages": [AIMessage(f"scored {verdict.score}")]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    streamed = graph.compile().stream({"messages": MESSAGES}, stream_mode="messages")

    assert [message.text for message, _ in streamed] == ["scored 1.0"]


@given(
    answers=st.lists(st.integers(12, 15).map(str), min_size=3, max_size=3),
    says=st.sampled_from(["yes", "no", "hm"]),
    samples=st.integers(1, 3),
)
def test_sync_async_and_recorded_scores_are_the_same(
    answers: list[str], says: str, samples: int
) -> None:
    def gate() -> Gate:
        return Gate(
            reader=number,
            second_opinion=opinion(*answers, samples=samples),
            judged_by=CorrectnessJudge(model=ScriptedModel([says])),
        )

    now = judged(gate())
    later = asyncio.run(gate().ajudge(QUESTION, draft(), messages=MESSAGES))
    again = gate().judge_again(
        RecordedDraft(question=QUESTION, attempt=draft(), opinions=now.opinions, judged=now.judged)
    )

    assert now == later == again


def test_a_recording_without_what_the_gate_asks_for_is_refused() -> None:
    gate = Gate(reader=number, second_opinion=opinion("14"))

    with pytest.raises(ConfigurationError, match="opinion 1 on 'What is 3"):
        gate.judge_again(RecordedDraft(question=QUESTION, attempt=draft()))


async def test_a_cancelled_gate_leaves_no_task_behind() -> None:
    asked = asyncio.Event()

    async def never(delay_s: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    model = ScriptedModel(["14"], latency_s=1.0, async_sleep=never)
    gate = Gate(reader=number, second_opinion=SecondOpinion(model=model))
    before = asyncio.all_tasks()
    task = asyncio.create_task(gate.ajudge(QUESTION, draft(), messages=MESSAGES))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert asyncio.all_tasks() == before


async def test_one_gate_serves_many_requests_at_once() -> None:
    model = ScriptedModel([lambda messages: messages[-1].text], when_exhausted="cycle")
    gate = Gate(reader=number, second_opinion=SecondOpinion(model=model))
    texts = [str(n) for n in range(40)]

    verdicts = await asyncio.gather(
        *(gate.ajudge(t, draft(t), messages=[HumanMessage(str(int(t) % 20))]) for t in texts)
    )

    assert [verdict.score for verdict in verdicts] == [1.0] * 20 + [0.0] * 20


# --- features -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "results", "wrong"),
    [
        ("2 * 3 = 6 and 6 + 1 = 8", [6, 8], [False, True]),
        ("(2 + 3) * 4 = 20", [20], [False]),
        ("2 * 3 * 4 = 6 * 4 = 24", [24], [False]),
        ("She pays 3 apples x $1,200 = $<<3*1200=3600>>3,600.", [3600], [False]),
        ("40% of 50 is 50 * 40 / 100 = 20", [20], [False]),
        ("7 - 10 = -3", [-3], [False]),
        ("10 \\* 2 = 25", [25], [True]),
        ("x = 5, and no sum here. 4 = 4", [], []),
        ("1 / 0 = 7", [7], [False]),
        ("300 + 300 = 601 but 2 / 3 = 0.67", [601, 0.67], [True, False]),
        ("2 + = 4", [], []),
    ],
)
def test_written_sums_are_read_and_computed_again(
    text: str, results: list[float], wrong: list[bool]
) -> None:
    steps = steps_of(text)

    assert [step.result for step in steps] == results
    assert [step.is_wrong for step in steps] == wrong


@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from("+-*/"), st.integers(0, 3))
def test_a_right_sum_is_never_called_wrong(a: int, b: int, operator: str, places: int) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operator]
    written = f"{value:.2f}" if operator == "/" else str(value)

    (step,) = steps_of(f"So {a} {operator} {b} = {written}.")

    assert not step.is_wrong


@given(st.text(max_size=300) | st.text("0123456789+-*/=()., x$%\n", max_size=300))
def test_features_of_any_text_are_finite_numbers_under_their_names(text: str) -> None:
    reading = read_answer(text, number)
    own = own_features(text, reading)
    pair = pair_features(reading, [reading], 1)

    assert tuple(own) == OWN_FEATURES
    assert tuple(pair) == PAIR_FEATURES
    assert all(math.isfinite(value) for value in (*own.values(), *pair.values()))


@pytest.mark.parametrize("text", ["(" * 5_000 + "1+1=2", "1+" * 5_000 + "1=2", "1=" * 5_000])
def test_endless_sums_neither_fail_nor_recurse(text: str) -> None:
    assert all(math.isfinite(step.result) for step in steps_of(text))


def test_numbers_with_separators_are_one_number() -> None:
    assert numbers_in("1,234,567 and 1,2") == (1_234_567, 1, 2)


def test_log_probabilities_are_features_where_the_provider_gives_them() -> None:
    reading = read_answer("14", number)
    tokens = [{"token": "1", "logprob": math.log(0.5)}, {"token": "4", "logprob": 0.0}]
    known = own_features(QUESTION, reading, {"logprobs": {"content": tokens}})
    unknown = own_features(QUESTION, reading, {"logprobs": None})

    assert known["least probability"] == pytest.approx(0.5)
    assert known["mean probability"] == pytest.approx(math.sqrt(0.5))
    assert (known["logprobs known"], unknown["logprobs known"]) == (1.0, 0.0)
    assert unknown["mean probability"] == 0.0


def test_a_logistic_model_refuses_rows_that_do_not_match() -> None:
    with pytest.raises(ConfigurationError, match="for each of 1 features"):
        LogisticModel(names=("a",), means=(0.0,), scales=(1.0,), weights=(), intercept=0.0)
    with pytest.raises(ConfigurationError, match="scales must be above 0"):
        LogisticModel(names=("a",), means=(0.0,), scales=(0.0,), weights=(1.0,), intercept=0.0)
