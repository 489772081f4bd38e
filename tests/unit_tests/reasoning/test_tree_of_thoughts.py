"""A tree of thoughts: what is asked, what is checked instead, where it stops and what it keeps."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from graphs import tree_of_thoughts as to_24
from langchain_tokenopt.accounting import AsyncBudgetHandler, Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.tree_of_thoughts import PathVerdict, TreeOfThoughts
from langchain_tokenopt.reasoning.tree_search import Beam, DepthFirst, ThoughtPath
from langchain_tokenopt.testing import RecordedQuestion, ReplayModel, ScriptedModel

QUESTION = "Which way?"
THREAD: Any = {"configurable": {"thread_id": "1"}}
Answer = str | AIMessage | BaseException

# Steps by the steps before them: two levels, in which "b d" is the way.
STEPS: dict[str, Answer] = {
    "(none)": "1. a\n2. b\n3. c",
    "a": "1. a1\n2. a2",
    "b": "1. b1\n2. d",
    "c": "1. c1",
}
SCORES = {"a": 5, "b": 9, "c": 2, "a1": 1, "a2": 3, "b1": 4, "d": 8, "c1": 0}


def proposer(steps: Mapping[str, Answer] = STEPS) -> ScriptedModel:
    """A model that proposes what is written for the steps so far."""

    def answer(messages: list[BaseMessage]) -> Answer:
        before = messages[-1].text.removeprefix("Steps so far:\n").split("\n\nNext")[0]
        return steps[before]

    return ScriptedModel([answer], when_exhausted="repeat_last", model_name="proposer")


def candidates(messages: Sequence[BaseMessage]) -> list[str]:
    lines = messages[-1].text.splitlines()
    return [line.split(". ", 1)[1] for line in lines if line[:1].isdigit()]


def scorer(scores: Mapping[str, object] = SCORES) -> ScriptedModel:
    """A model that scores candidates; one whose score is `None` is left out."""

    def answer(messages: list[BaseMessage]) -> str:
        given = [(number, scores[text]) for number, text in enumerate(candidates(messages), 1)]
        return "\n".join(f"{number}: {score}" for number, score in given if score is not None)

    return ScriptedModel([answer], when_exhausted="repeat_last", model_name="scorer")


def tree(
    steps: Mapping[str, Answer] = STEPS, scores: Mapping[str, object] = SCORES, **options: Any
) -> tuple[TreeOfThoughts, ScriptedModel, ScriptedModel]:
    model, judge = proposer(steps), scorer(scores)
    options = {"depth": 2, "search": Beam(2), "scorer": judge, **options}
    return TreeOfThoughts(model, **options), model, judge


def fates(result: Any) -> dict[str, str]:
    return {step.text: step.step for step in result.trace}


def allowed(**limits: Any) -> Any:
    return {"callbacks": [BudgetHandler(BudgetGuard([Budget("some", **limits)], output_tokens=20))]}


# --- breadth first ----------------------------------------------------------------------------


def test_the_best_path_is_found_and_the_whole_tree_told() -> None:
    thinking, model, judge = tree()

    result = thinking.invoke(QUESTION)

    assert (result.answer, result.text, result.stop_reason) == ("d", "b\nd", "answered")
    told = [(step.id, step.text, step.uses, step.score) for step in result.trace]
    assert told == [
        ("1", "a", (), 5), ("2", "b", (), 9), ("3", "c", (), 2),
        ("2.1", "b1", ("2",), 4), ("2.2", "d", ("2",), 8),
        ("1.1", "a1", ("1",), 1), ("1.2", "a2", ("1",), 3),
    ]  # fmt: skip
    assert (model.calls, judge.calls) == (3, 2)
    assert set(result.usage.by_step) == {"propose", "score"}
    assert result.usage.calls == 5


async def test_the_same_comes_of_ainvoke() -> None:
    thinking, _, _ = tree()

    assert await thinking.ainvoke(QUESTION) == thinking.invoke(QUESTION)


def test_every_expansion_is_asked_for_with_the_steps_before_it() -> None:
    thinking, model, _ = tree(count=7)

    thinking.invoke(QUESTION)

    assert {request[1].text for request in model.requests} == {QUESTION}
    asked = sorted(request[-1].text.splitlines()[1] for request in model.requests)
    assert asked == ["(none)", "a", "b"]
    assert all("7 at most" in request[-1].text for request in model.requests)


def test_all_candidates_of_a_level_are_scored_in_one_call() -> None:
    thinking, _, judge = tree()

    thinking.invoke(QUESTION)

    assert [candidates(request) for request in judge.requests] == [
        ["a", "b", "c"],
        ["b1", "d", "a1", "a2"],
    ]


def test_a_level_that_is_kept_whole_is_not_scored() -> None:
    thinking, model, judge = tree(search=Beam(3))

    result = thinking.invoke(QUESTION)

    assert [len(candidates(request)) for request in judge.requests] == [5]
    assert model.calls == 4
    assert [step.score for step in result.trace[:3]] == [None, None, None]


def test_one_model_can_propose_and_score() -> None:
    model = ScriptedModel(["1. a\n2. b", "1: 2\n2: 3"])

    assert TreeOfThoughts(model, depth=1).invoke(QUESTION).answer == "b"


def test_the_answer_is_read_out_of_the_best_path() -> None:
    model = ScriptedModel(["1. 2 + 2 = 4"])

    assert TreeOfThoughts(model, depth=1, answer=extract.number).invoke(QUESTION).answer == 4


# --- checks and duplicates --------------------------------------------------------------------


def checking(**verdicts: str) -> Callable[[ThoughtPath], Any]:
    def check(path: ThoughtPath) -> str:
        assert path.question == QUESTION
        return verdicts.get(path.thoughts[-1], "undecided")

    return check


def test_the_search_ends_with_the_first_path_that_the_check_accepts() -> None:
    thinking, model, judge = tree(depth=5, check=checking(b="solved", c="solved"))

    result = thinking.invoke(QUESTION)

    assert (result.answer, result.stop_reason) == ("b", "solved")
    assert (model.calls, judge.calls) == (1, 0)
    assert fates(result) == {"a": "thought", "b": "solved", "c": "thought"}


def test_what_the_check_decides_is_neither_scored_nor_gone_on_from() -> None:
    thinking, model, judge = tree(check=checking(b="dead", a1="dead"))

    result = thinking.invoke(QUESTION)

    assert [candidates(request) for request in judge.requests] == [["a2", "c1"]]
    assert model.calls == 3
    assert (result.answer, result.stop_reason) == ("a2", "max_steps")
    assert fates(result)["b"] == "dead"


def test_a_check_that_leaves_no_path_ends_without_an_answer() -> None:
    thinking, _, judge = tree(check=checking(a="dead", b="dead", c="dead"))

    result = thinking.invoke(QUESTION)

    assert (result.answer, result.abstained, result.stop_reason) == (None, True, "no_progress")
    assert judge.calls == 0


async def test_a_check_may_be_asynchronous_where_the_technique_is() -> None:
    async def check(path: ThoughtPath) -> PathVerdict:
        await asyncio.sleep(0)
        return "solved" if path.thoughts == ("b", "d") else "undecided"

    thinking, _, _ = tree(check=check)

    assert (await thinking.ainvoke(QUESTION)).stop_reason == "solved"
    with pytest.raises(ConfigurationError, match="check is asynchronous"):
        thinking.invoke(QUESTION)

    class Later:
        def __await__(self) -> Any:
            yield

    thinking, _, _ = tree(check=lambda _: Later())
    with pytest.raises(ConfigurationError, match="<lambda> is asynchronous"):
        thinking.invoke(QUESTION)


def test_a_verdict_that_is_not_known_is_an_error() -> None:
    thinking, _, _ = tree(check=checking(a="yes"))

    with pytest.raises(ConfigurationError, match="got 'yes'"):
        thinking.invoke(QUESTION)


def test_a_state_that_is_in_the_tree_already_is_neither_scored_nor_gone_on_from() -> None:
    steps: dict[str, Answer] = {
        "(none)": "1. x1\n2. X1\n3. y1",
        "x1": "1. y2\n2. z1\n3. x3",
        "y1": "1. z2",
    }
    thinking, model, judge = tree(
        steps,
        {"x1": 2, "y1": 1, "z1": 1, "z2": 1},
        state_key=lambda path: path.thoughts[-1][0].lower(),
    )

    result = thinking.invoke(QUESTION)

    assert fates(result) == {
        "x1": "thought", "X1": "duplicate", "y1": "thought",
        "y2": "duplicate", "z1": "thought", "x3": "duplicate", "z2": "duplicate",
    }  # fmt: skip
    assert (model.calls, judge.calls) == (3, 0)


def test_paths_that_read_alike_are_the_same_by_default() -> None:
    steps: dict[str, Answer] = {"(none)": "1. a\n2. A \n3. b", "a": "1. c", "b": "1. c"}
    thinking, _, _ = tree(steps, {"c": 1})

    assert [step.step for step in thinking.invoke(QUESTION).trace] == [
        "thought", "duplicate", "thought", "thought", "thought",
    ]  # fmt: skip


# --- scores and proposals that cannot be read ------------------------------------------------


def test_a_missing_score_is_asked_for_again_alone() -> None:
    judge = ScriptedModel(["1: 3\n3: 4", "8", "1: 1\n2: 2"])
    thinking, model, _ = tree({"(none)": STEPS["(none)"], "b": "1. b1\n2. b2"}, scorer=judge)
    thinking = TreeOfThoughts(model, depth=2, search=Beam(1), scorer=judge)

    result = thinking.invoke(QUESTION)

    assert candidates(judge.requests[1]) == ["b"]
    assert [step.score for step in result.trace] == [3, 8, 4, 1, 2]
    assert result.answer == "b2"


@pytest.mark.parametrize("again", ["no idea", "11", ConnectionError("down")])
def test_a_score_that_stays_missing_is_none_and_ranks_last(again: Answer) -> None:
    judge = ScriptedModel(["1: 0\n3: 0", again])
    thinking, _, _ = tree(depth=1, scorer=judge)

    result = thinking.invoke(QUESTION)

    assert [step.score for step in result.trace] == [0, None, 0]
    assert result.answer == "a"


def test_scores_that_are_missing_are_asked_for_only_while_the_budget_lasts() -> None:
    judge = ScriptedModel(["2: 0"])
    thinking, model, _ = tree(scorer=judge)

    result = thinking.invoke(QUESTION, allowed(calls=2))

    assert [step.score for step in result.trace[:3]] == [None, 0, None]
    assert (result.stop_reason, result.answer) == ("budget", "b")
    assert (model.calls, judge.calls) == (1, 1)


def test_a_reply_without_steps_is_kept_in_the_trace_and_the_others_go_on() -> None:
    thinking, _, _ = tree({**STEPS, "b": "I am done here."})

    result = thinking.invoke(QUESTION)

    assert fates(result)["I am done here."] == "unreadable"
    assert result.answer == "a2"


def test_where_nothing_new_is_proposed_the_best_path_so_far_is_the_answer() -> None:
    thinking, _, _ = tree({**STEPS, "a": "nothing", "b": ""})

    result = thinking.invoke(QUESTION)

    assert (result.answer, result.stop_reason) == ("b", "no_progress")


# --- errors -----------------------------------------------------------------------------------


def test_a_failed_expansion_is_told_and_the_others_go_on() -> None:
    thinking, _, _ = tree({**STEPS, "b": ConnectionError("down")})

    result = thinking.invoke(QUESTION)

    assert result.answer == "a2"
    assert result.usage.failed_calls == 1
    failed = next(step for step in result.trace if step.step == "failed")
    assert (failed.id, failed.uses, failed.text) == ("2.0", ("2",), "ConnectionError('down')")


def test_the_first_call_that_fails_is_raised() -> None:
    thinking, _, _ = tree({"(none)": ConnectionError("down")})

    with pytest.raises(ConnectionError, match="down"):
        thinking.invoke(QUESTION)


def test_where_all_expansions_fail_the_error_is_raised_and_a_run_can_be_resumed() -> None:
    steps = {**STEPS, "a": ConnectionError("down"), "b": ConnectionError("down")}
    thinking, model, _ = tree(steps)
    graph = thinking.as_graph(checkpointer=InMemorySaver())

    with pytest.raises(ConnectionError, match="down"):
        graph.invoke({"messages": [("user", QUESTION)]}, THREAD)
    steps["b"] = STEPS["b"]
    state = graph.invoke(None, THREAD)

    assert state["result"]["answer"] == "d"
    assert [step["text"] for step in state["trace"] if step["step"] == "failed"] == [
        "ConnectionError('down')",
        "ConnectionError('down')",
    ]
    assert model.calls == 5


def test_an_error_of_the_scorer_is_raised_and_only_the_scores_are_asked_for_again() -> None:
    judge = ScriptedModel(["1: 5\n2: 9\n3: 1", ConnectionError("down"), "1: 1\n2: 2\n3: 3\n4: 4"])
    thinking, model, _ = tree(scorer=judge)
    graph = thinking.as_graph(checkpointer=InMemorySaver())

    with pytest.raises(ConnectionError, match="down"):
        graph.invoke({"messages": [("user", QUESTION)]}, THREAD)
    state = graph.invoke(None, THREAD)

    assert state["result"]["answer"] == "a2"
    assert (model.calls, judge.calls) == (3, 3)


@pytest.mark.parametrize("waits", ["a", "b"])
def test_a_run_that_stopped_within_a_level_goes_on_without_asking_its_siblings_again(
    waits: str,
) -> None:
    model = proposer()

    def propose(messages: list[BaseMessage]) -> AIMessage:
        if messages[-1].text.splitlines()[1] == waits:
            interrupt("may I?")
        return model.invoke(messages)

    saver = InMemorySaver()

    def graph() -> Any:
        asking = RunnableLambda(propose)
        thinking = TreeOfThoughts(asking, depth=2, search=Beam(2), scorer=scorer())
        return thinking.as_graph(checkpointer=saver)

    stopped = graph().invoke({"messages": [("user", QUESTION)]}, THREAD)
    assert "__interrupt__" in stopped
    assert model.calls == 2
    state = graph().invoke(Command(resume=True), THREAD)

    whole, _, _ = tree()
    expected = whole.invoke(QUESTION)
    assert state["result"]["answer"] == expected.answer
    assert state["result"]["trace"] == expected.model_dump()["trace"]
    assert model.calls == 3


# --- budgets ----------------------------------------------------------------------------------


def test_a_budget_for_nothing_gives_no_answer_or_the_error_as_the_caller_likes() -> None:
    thinking, model, _ = tree()
    raising, _, _ = tree(on_budget="raise")

    result = thinking.invoke(QUESTION, allowed(calls=0))

    assert (result.stop_reason, result.answer, result.abstained) == ("budget", None, True)
    assert [step.step for step in result.trace] == ["refused"]
    assert "some" in result.reason
    with pytest.raises(BudgetExceededError):
        raising.invoke(QUESTION, allowed(calls=0))
    assert model.calls == 0


@pytest.mark.parametrize(("calls", "answer"), [(1, "a"), (2, "b"), (3, "b1"), (4, "d"), (5, "d")])
async def test_a_spent_budget_gives_the_best_path_so_far(calls: int, answer: str) -> None:
    thinking, _, _ = tree()
    handler = AsyncBudgetHandler(BudgetGuard([Budget("some", calls=calls)]))

    result = thinking.invoke(QUESTION, allowed(calls=calls))

    assert result.answer == answer
    assert result.stop_reason == ("answered" if calls >= 4 else "budget")
    assert result.usage.calls == calls
    assert await thinking.ainvoke(QUESTION, {"callbacks": [handler]}) == result


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_refused_call_of_any_step_is_raised_where_the_caller_likes(calls: int) -> None:
    thinking, _, _ = tree(on_budget="raise")

    with pytest.raises(BudgetExceededError):
        thinking.invoke(QUESTION, allowed(calls=calls))


@pytest.mark.parametrize(("calls", "proposed", "scored"), [(4, 2, 2), (5, 4, 1), (6, 4, 1)])
def test_the_beam_narrows_to_what_the_calls_left_can_pay(
    calls: int, proposed: int, scored: int
) -> None:
    thinking, model, judge = tree(search=Beam(3))

    result = thinking.invoke(QUESTION, allowed(calls=calls))

    # Where all three cannot be kept, a call chooses; the last call is kept for the last scores.
    assert (model.calls, judge.calls) == (proposed, scored)
    assert (result.answer, result.stop_reason) == ("d", "answered")


def test_the_beam_narrows_to_what_the_tokens_left_can_pay() -> None:
    free, asked, _ = tree(search=Beam(3))
    spent = free.invoke(QUESTION).usage.total.total_tokens
    narrow, model, _ = tree(search=Beam(3))

    result = narrow.invoke(QUESTION, allowed(tokens=spent - 20))

    assert (asked.calls, model.calls) == (4, 2)
    assert (result.answer, result.stop_reason) == ("d", "answered")


async def test_runs_at_once_share_one_budget_and_never_overshoot_it() -> None:
    thinking, model, judge = tree()
    handler = AsyncBudgetHandler(BudgetGuard([Budget("shared", calls=60)]))

    runs = [thinking.ainvoke(QUESTION, {"callbacks": [handler]}) for _ in range(50)]
    results = await asyncio.gather(*runs)

    assert model.calls + judge.calls == 60
    assert Counter(result.stop_reason for result in results)["budget"] > 0
    assert sum(result.usage.calls for result in results) == 60


# --- depth first ------------------------------------------------------------------------------


def test_depth_first_goes_on_from_the_best_and_turns_back_where_nothing_is_good() -> None:
    scores = {**SCORES, "b1": 1, "d": 2, "a2": 6}
    thinking, model, _ = tree(scores=scores, search=DepthFirst(threshold=5))

    result = thinking.invoke(QUESTION)

    assert [request[-1].text.splitlines()[1] for request in model.requests] == ["(none)", "b", "a"]
    assert (result.answer, result.stop_reason) == ("a2", "accepted")


def test_depth_first_with_a_check_takes_only_what_it_accepts() -> None:
    thinking, model, _ = tree(search=DepthFirst(threshold=2), check=checking(c1="solved"))

    result = thinking.invoke(QUESTION)

    assert (result.answer, result.stop_reason) == ("c1", "solved")
    assert model.calls == 4


def test_depth_first_that_finds_nothing_good_gives_the_best_it_saw() -> None:
    thinking, _, _ = tree(scores={**SCORES, "d": 4}, search=DepthFirst(threshold=5))

    result = thinking.invoke(QUESTION)

    assert (result.text, result.stop_reason) == ("b\nb1", "answered")


def test_depth_first_ends_with_its_last_expansion() -> None:
    search = DepthFirst(threshold=0, max_expansions=2)
    thinking, model, _ = tree(search=search, check=checking())

    result = thinking.invoke(QUESTION)

    assert (result.answer, result.stop_reason) == ("d", "max_steps")
    assert model.calls == 2


def test_depth_first_turns_back_from_a_call_that_fails() -> None:
    thinking, _, _ = tree({**STEPS, "b": ConnectionError("down")}, search=DepthFirst(threshold=3))

    assert thinking.invoke(QUESTION).answer == "a2"


# --- what all techniques have ----------------------------------------------------------------


def test_samples_are_drawn_with_one_prompt_and_equal_ones_are_dropped() -> None:
    recorded = RecordedQuestion(question=QUESTION, samples=("1. a", "1. b", "1. a"))
    model = ReplayModel([recorded], question_of=lambda messages: messages[1].text)
    thinking = TreeOfThoughts(model, depth=1, count=3, proposals="samples", scorer=scorer())

    result = thinking.invoke(QUESTION)

    assert result.answer == "b"
    assert result.usage.by_step["propose"].total_tokens > 0
    assert sum(row.calls for row in result.usage.rows if row.step == "propose") == 1
    assert sorted(step.step for step in result.trace) == ["duplicate", "thought", "thought"]


def test_prompts_of_ones_own_get_the_steps_and_the_candidates() -> None:
    propose = ChatPromptTemplate([("user", "{question} {mood}|{steps}|{count}")])
    score = ChatPromptTemplate([("user", "{question} {mood}|{candidates}")])
    model = ScriptedModel(["a; b", "1: 1\n2: 2"])
    thinking = TreeOfThoughts(
        model, depth=1, propose_prompt=propose, score_prompt=score, read=lambda t: t.split("; ")
    )

    result = thinking.invoke({"question": QUESTION, "mood": "kindly"})

    assert result.answer == "b"
    assert model.requests[0][0].text == "Which way? kindly|(none)|5"
    assert "kindly|Steps so far:\n(none)\nCandidates:\n1. a\n2. b" in model.requests[1][0].text


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 0},
        {"count": 0},
        {"proposals": "both"},
        {"on_budget": "never"},
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="got"):
        tree(**options)


def test_samples_need_a_chat_model() -> None:
    with pytest.raises(ConfigurationError, match="samples need a chat model"):
        TreeOfThoughts(RunnableLambda(str), depth=1, proposals="samples")  # type: ignore[arg-type]


async def test_a_stream_grows_by_levels_and_ends_with_the_result() -> None:
    thinking, _, _ = tree()

    parts = list(thinking.stream(QUESTION))
    aparts = [part async for part in thinking.astream(QUESTION)]

    assert parts[-1] == thinking.invoke(QUESTION) == aparts[-1]
    sizes = [len(part.trace) for part in parts]
    assert sizes == sorted(sizes)
    assert {0, 3, 7} <= set(sizes)
    assert all(part.stop_reason is None for part in parts[:-1])


def test_a_turn_starts_with_an_empty_tree() -> None:
    thinking, _, _ = tree()
    graph = thinking.as_graph(checkpointer=InMemorySaver())

    first = graph.invoke({"messages": [("user", QUESTION)]}, THREAD)
    second = graph.invoke({"messages": [("user", QUESTION)]}, THREAD)

    assert second["thoughts"] == first["thoughts"]
    assert second["result"]["usage"]["rows"] != []
    assert len(second["trace"]) == len(first["trace"]) == 7


async def test_a_cancelled_run_leaves_no_task() -> None:
    asked = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    model = ScriptedModel(["1. a"], latency_s=1.0, async_sleep=wait_for_ever)
    before = asyncio.all_tasks()
    run = asyncio.create_task(TreeOfThoughts(model, depth=1).ainvoke(QUESTION))
    await asked.wait()

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert asyncio.all_tasks() == before


TO_4_AND_20 = ["4 * 5 = 20 (left: 6 10 20)", "10 - 6 = 4 (left: 4 20)"]


@pytest.mark.parametrize(
    ("verdict", "steps"),
    [
        ("undecided", ["10 - 4 = 6 (left: 5 6 6)"]),
        ("undecided", ["4 / 6 = 2/3 (left: 2/3 5 10)"]),
        ("undecided", ["4 - 5 = -1 (left: -1 6 10)", "10 - (-1) = 11 (left: 6 11)"]),
        ("solved", [*TO_4_AND_20, "4 + 20 = 24 (left: 24)"]),
        ("dead", [*TO_4_AND_20, "20 - 4 = 16 (left: 16)"]),
        ("dead", ["4 / 6 = 0.67 (left: 0.67 5 10)"]),
        ("dead", ["4 + 4 = 8 (left: 5 6 8)"]),
        ("dead", ["4 + 5 = 9 (left: 9 10)"]),
        ("dead", ["4 / 0 = 0 (left: 5 6 10)"]),
        ("dead", ["I cannot."]),
    ],
)
def test_the_shipped_graph_checks_steps_towards_24_exactly(verdict: str, steps: list[str]) -> None:
    assert to_24.check(ThoughtPath("4 5 6 10", tuple(steps))) == verdict


def test_the_shipped_graph_sees_numbers_in_any_order_as_one_state() -> None:
    one, other = ThoughtPath("", ("a (left: 10 4 2/3)",)), ThoughtPath("", ("b (left: 2/3 10 4)",))

    assert to_24.state(one) == to_24.state(other)
    assert to_24.state(ThoughtPath("", ("I cannot.",))) == "I cannot."


WORDS = st.lists(st.sampled_from("abcdef"), max_size=5)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), WORDS), WORDS, st.integers(1, 3), st.booleans())
def test_in_any_tree_each_state_is_kept_once_under_a_parent_that_was_kept(
    below: dict[str, list[str]], roots: list[str], width: int, deep: bool
) -> None:
    def propose(messages: list[BaseMessage]) -> str:
        steps = messages[-1].text.removeprefix("Steps so far:\n").split("\n\nNext")[0]
        texts = roots if steps == "(none)" else below.get(steps.splitlines()[-1], [])
        return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1)) or "none"

    thinking = TreeOfThoughts(
        ScriptedModel([propose], when_exhausted="repeat_last"),
        depth=4,
        search=DepthFirst(threshold=0, max_expansions=None) if deep else Beam(width),
        scorer=scorer(dict.fromkeys("abcdef", 5)),
        state_key=lambda path: path.thoughts[-1],
    )

    result = thinking.invoke(QUESTION)

    kept = [step for step in result.trace if step.step == "thought"]
    assert len({step.text for step in kept}) == len(kept)
    ids = {step.id for step in kept}
    assert all(set(step.uses) <= ids for step in result.trace)
    assert result.abstained is not bool(roots)
    assert asyncio.run(thinking.ainvoke(QUESTION)) == result
