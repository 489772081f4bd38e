"""Facts chosen by id, one inference a step, an answer with its proof or none at all."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver

from langchain_tokenopt.accounting import AsyncBudgetHandler, Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.facts import numbered, proof_of, read_selection, sentences
from langchain_tokenopt.reasoning.result import TraceStep
from langchain_tokenopt.reasoning.selection_inference import SelectionInference
from langchain_tokenopt.testing import Failure, RecordedQuestion, ReplayModel, ScriptedModel

FACTS = ["Bob is big.", "Al is small.", "Big things are red.", "Red things are cold."]
ASKED = {"question": "Is Bob cold?", "facts": FACTS}
TWO_STEPS = [
    "Facts: f1, f3", "Bob is red.", "Unknown",
    "Facts: f4, d1", "Bob is cold.", "Answer: yes",
]  # fmt: skip


def reasoning(answers: list[Any], **options: Any) -> tuple[SelectionInference, ScriptedModel]:
    model = ScriptedModel(answers)
    options = {"answer": extract.boolean, "output": "text", **options}
    return SelectionInference(model, **options), model


def chosen(*ids: str, **more: str) -> AIMessage:
    call: Any = {"name": "Selection", "args": {"facts": list(ids), **more}, "id": "1"}
    return AIMessage("", tool_calls=[call])


def texts(model: ScriptedModel, number: int) -> str:
    return "\n".join(message.text for message in model.requests[number])


def test_the_answer_comes_with_its_proof() -> None:
    inference, _ = reasoning(TWO_STEPS)

    result = inference.invoke(ASKED)

    assert result.answer is True
    assert not result.abstained
    assert result.stop_reason == "halted"
    assert [(step.id, step.step, step.uses) for step in result.trace] == [
        ("f1", "given", ()),
        ("f3", "given", ()),
        ("f4", "given", ()),
        ("d1", "infer", ("f1", "f3")),
        ("d2", "infer", ("f4", "d1")),
    ]
    assert result.trace[-1].text == "Bob is cold."
    assert result.usage.calls == 6
    assert set(result.usage.by_step) == {"select", "infer", "halt"}


async def test_the_same_comes_of_ainvoke() -> None:
    inference, _ = reasoning(TWO_STEPS * 2)

    assert await inference.ainvoke(ASKED) == inference.invoke(ASKED)


def test_what_the_answer_does_not_rest_on_is_not_in_the_proof() -> None:
    detour = ["Facts: f2, f3", "Al is not red.", "Unknown", "Facts: f1, f3", "Bob is red."]
    inference, _ = reasoning([*detour, "Answer: yes"])

    result = inference.invoke({**ASKED, "question": "Is Bob red?"})

    assert [step.id for step in result.trace] == ["f1", "f3", "d2"]


def test_an_inference_sees_the_selected_facts_and_nothing_else() -> None:
    inference, model = reasoning(TWO_STEPS)

    inference.invoke(ASKED)

    assert model.requests[1][-1].text == "Bob is big.\nBig things are red."
    assert model.requests[4][-1].text == "Red things are cold.\nBob is red."
    assert "Is Bob cold?" not in texts(model, 1)


def test_the_halter_sees_the_question_and_the_newest_fact() -> None:
    inference, model = reasoning(TWO_STEPS)

    inference.invoke(ASKED)

    assert model.requests[2][-1].text == "Question: Is Bob cold?\nFact: Bob is red."
    assert "yes or no" in model.requests[2][0].text


def test_selections_share_their_beginning_and_grow_at_the_end() -> None:
    inference, model = reasoning(TWO_STEPS)

    inference.invoke(ASKED)

    first, second = texts(model, 0), texts(model, 3)
    assert first.endswith("Inferred so far:\nnothing")
    assert second == first.removesuffix("nothing") + "d1: Bob is red."


def test_the_schema_holds_the_ids_of_known_facts_and_no_other() -> None:
    steps = [chosen("f1", "f3"), "Bob is red.", "Unknown", chosen("f4", "d1"), "Bob is cold."]
    inference, model = reasoning([*steps, "Answer: yes"], output=None)

    assert inference.invoke(ASKED).answer is True

    ids = [
        model.keywords[n]["tools"][0]["function"]["parameters"]["properties"]["facts"]["items"]
        for n in (0, 3)
    ]
    assert [each["enum"] for each in ids] == [
        ["f1", "f2", "f3", "f4"],
        ["f1", "f2", "f3", "f4", "d1"],
    ]


def test_a_reserving_schema_stays_the_same_and_a_fact_to_come_is_refused() -> None:
    steps = [chosen("f1", "d1"), chosen("f1", "f3"), "Bob is red.", "Answer: yes"]
    inference, model = reasoning(steps, output="structured", schema_ids="reserved", max_steps=2)

    result = inference.invoke(ASKED)

    assert result.answer is True
    schemas = [model.keywords[n]["tools"] for n in (0, 1)]
    assert schemas[0] == schemas[1]
    assert "'d1', 'd2']" in str(schemas[0])
    assert "d1 is not the id of a fact above." in texts(model, 1)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (chosen("f1", "f9"), "f9 is not the id of a fact above."),
        (chosen("f8", "f9"), "f8, f9 are not ids of facts above."),
        (AIMessage("f1 and f3"), "The schema was not filled in"),
        (chosen(facts="f1"), "The schema was not filled in"),
    ],
)
def test_a_selection_that_cannot_be_used_is_asked_for_once_again(bad: AIMessage, told: str) -> None:
    steps = [bad, chosen("f1", "f3"), "Bob is red.", "Answer: yes"]
    inference, model = reasoning(steps, output="structured")

    assert inference.invoke(ASKED).answer is True
    assert told in texts(model, 1)
    assert "refused" not in texts(model, 2)


def test_selections_that_stay_useless_are_counted_and_end_in_abstention() -> None:
    inference, model = reasoning(["Facts: f9"], max_steps=9)
    model.when_exhausted = "repeat_last"

    result = inference.invoke(ASKED)

    assert result.stop_reason == "no_progress"
    assert result.answer is None
    assert result.abstained
    assert "2 selections could not be used" in result.reason
    assert model.calls == 4


def test_no_new_fact_twice_ends_in_abstention_and_is_told_to_the_model() -> None:
    steps = ["Facts: f1, f2", "Nothing.", "Facts: f1, f3", "BIG things are  red", "Unknown"]
    inference, model = reasoning(steps)

    result = inference.invoke(ASKED)

    assert result.stop_reason == "no_progress"
    assert result.trace == ()
    assert "Nothing new follows from f1, f2." in texts(model, 2)
    assert model.calls == 5


def test_progress_in_between_allows_another_failure() -> None:
    fails = ["Facts: f1, f2", "nothing"], ["Facts: f2, f3", "nothing"]
    inference, _ = reasoning([*fails[0], *TWO_STEPS[:3], *fails[1], *TWO_STEPS[3:]])

    assert inference.invoke(ASKED).answer is True


def test_the_same_selection_is_not_inferred_from_again() -> None:
    steps = [*TWO_STEPS[:3], "Facts: f3, f1", *TWO_STEPS[3:]]
    inference, model = reasoning(steps)

    result = inference.invoke(ASKED)

    assert result.answer is True
    assert model.calls == 7
    assert "Nothing new follows from f3, f1." in texts(model, 4)


def test_a_given_fact_that_is_the_answer_is_halted_at() -> None:
    inference, _ = reasoning(["Facts: f1", "Bob is big.", "Answer: yes"])

    result = inference.invoke({**ASKED, "question": "Is Bob big?"})

    assert result.answer is True
    assert [step.id for step in result.trace] == ["f1"]


def test_a_model_that_finds_nothing_to_follow_abstains_at_once() -> None:
    inference, model = reasoning(["Facts: none"])

    assert inference.invoke(ASKED).stop_reason == "no_progress"
    assert model.calls == 1


def test_the_cap_ends_in_abstention_with_what_was_inferred() -> None:
    inference, model = reasoning(TWO_STEPS[:3], max_steps=1)

    result = inference.invoke(ASKED)

    assert (result.answer, result.abstained, result.stop_reason) == (None, True, "max_steps")
    assert [step.id for step in result.trace] == ["f1", "f3", "d1"]
    assert model.calls == 3


def test_an_answer_that_cannot_be_read_is_not_one() -> None:
    inference, _ = reasoning([*TWO_STEPS[:2], "Answer: perhaps"], max_steps=1)

    assert inference.invoke(ASKED).abstained


def test_a_check_refuses_what_does_not_follow() -> None:
    steps = ["Facts: f1, f3", "Al is red.", "Facts: f1, f4", "Bob is red.", "Answer: yes"]
    asked: list[Any] = []

    def follows(inference: Any) -> bool:
        asked.append(inference)
        return "Bob" in inference["conclusion"]

    inference, _ = reasoning(steps, check=follows)

    result = inference.invoke(ASKED)

    assert [step.text for step in result.trace if step.step == "infer"] == ["Bob is red."]
    assert asked[0] == {
        "facts": ["Bob is big.", "Big things are red."],
        "conclusion": "Al is red.",
    }


async def test_a_check_may_be_asynchronous_or_a_chain_whose_usage_counts() -> None:
    prompt = ChatPromptTemplate([("user", "{facts}\nDoes it follow: {conclusion}")])
    judge = prompt | ScriptedModel(["yes", "yes"]) | RunnableLambda(lambda m: m.text == "yes")

    async def follows(_: Any) -> bool:
        return False

    inference, _ = reasoning(TWO_STEPS, check=judge)
    strict, _ = reasoning(["Facts: f1", "A.", "Facts: f2", "B."], check=follows)

    result = await inference.ainvoke(ASKED)

    assert result.answer is True
    assert result.usage.by_step["check"].output == 2
    assert (await strict.ainvoke(ASKED)).stop_reason == "no_progress"


def test_a_merged_halter_answers_along_with_the_selection() -> None:
    steps = ["Facts: f1, f3", "Bob is red.", "Facts: d1, f4", "Bob is cold."]
    inference, model = reasoning([*steps, "Facts: d2\nAnswer: yes"], halting="merged")

    result = inference.invoke(ASKED)

    assert result.answer is True
    assert [step.id for step in result.trace] == ["f1", "f3", "f4", "d1", "d2"]
    assert model.calls == 5
    assert "yes or no" in texts(model, 0)


def test_a_merged_answer_needs_facts_and_may_be_structured() -> None:
    steps = [chosen(answer="yes"), chosen("f1", answer=""), "Bob is big.", chosen("f1", answer="Y")]
    inference, model = reasoning(
        [*steps, chosen("f1", answer="yes")], halting="merged", output=None
    )

    result = inference.invoke({**ASKED, "question": "Is Bob big?"})

    assert result.answer is True
    assert [step.id for step in result.trace] == ["f1"]
    assert "An answer needs the facts that it rests on." in texts(model, 1)
    assert "'Y' is no answer: write yes or no." in texts(model, 4)


def test_a_merged_halter_may_answer_after_the_last_step_and_abstains_if_it_does_not() -> None:
    steps = ["Facts: f1, f3", "Bob is red."]
    answered, _ = reasoning([*steps, "Facts: d1\nAnswer: yes"], halting="merged", max_steps=1)
    silent, _ = reasoning([*steps, "Facts: d1, f4"], halting="merged", max_steps=1)

    assert answered.invoke(ASKED).answer is True
    assert silent.invoke(ASKED).stop_reason == "max_steps"


@pytest.mark.parametrize(
    "asked",
    [
        {"question": "Is Bob red?", "facts": [Document(FACTS[0]), FACTS[2]]},
        {"question": "Is Bob red?", "context": f"{FACTS[0]} {FACTS[2]}"},
        f"{FACTS[0]} {FACTS[2]}\nIs Bob red?",
        [("user", f"{FACTS[0]}\n{FACTS[2]}\nIs Bob red?")],
    ],
)
def test_facts_are_given_or_split_from_the_context(asked: Any) -> None:
    inference, model = reasoning(["Facts: f1, f2", "Bob is red.", "Answer: yes"])

    assert inference.invoke(asked).answer is True
    assert "f1: Bob is big.\nf2: Big things are red.\n\nQuestion: Is Bob red?" in texts(model, 0)


def test_the_splitter_can_be_replaced() -> None:
    inference, model = reasoning(["Facts: none"], split=lambda context: context.split(";"))

    inference.invoke({"question": "A?", "context": "A; B"})

    assert "f1: A\nf2: B" in texts(model, 0)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("Is Bob red?", "expected 'facts'"),
        ({"question": "A?", "context": 3}, "expected 'facts'"),
        ({"question": "A?", "facts": "Bob is big."}, "to be a list"),
        ({"question": "A?", "facts": [3]}, "strings or documents"),
        ({"question": "A?", "facts": []}, "at least one fact"),
    ],
)
def test_an_input_without_usable_facts_is_refused(asked: Any, says: str) -> None:
    inference, model = reasoning(TWO_STEPS)

    with pytest.raises(ConfigurationError, match=says):
        inference.invoke(asked)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_steps": 0}, "above 0"),
        ({"halting": "never"}, "'separate' or 'merged'"),
        ({"schema_ids": "all"}, "'known' or 'reserved'"),
        ({"output": "json"}, "'structured', 'text' or None"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        reasoning(TWO_STEPS, **options)


def test_a_model_without_structured_output_writes_text() -> None:
    recorded = RecordedQuestion(question="Is Bob cold?", samples=("Facts: none",))
    replay = ReplayModel([recorded], when_exhausted="cycle")

    for model in (replay, CachedChatModel(replay, cache=MemoryCache())):
        result = SelectionInference(model).invoke(ASKED)
        assert result.reason.startswith("the model found no fact")
    with pytest.raises(ConfigurationError, match="no structured output"):
        SelectionInference(replay, output="structured")
    with pytest.raises(ConfigurationError, match="no structured output"):
        SelectionInference(replay.bind(stop=["\n"]), output="structured")


def test_prompts_of_ones_own_get_the_other_keys_of_the_input() -> None:
    prompt = ChatPromptTemplate([("user", "{mood}: {facts} {question} {inferred}")])
    inference, model = reasoning(["Facts: none"], select_prompt=prompt)

    inference.invoke({**ASKED, "mood": "Kindly"})

    assert texts(model, 0).startswith("Kindly: f1: Bob is big.")


@pytest.mark.parametrize("calls", range(6))
def test_a_spent_budget_abstains_with_what_was_inferred(calls: int) -> None:
    inference, model = reasoning(TWO_STEPS)
    handler = BudgetHandler(BudgetGuard([Budget("few", calls=calls)]))

    result = inference.invoke(ASKED, {"callbacks": [handler]})

    assert result.stop_reason == "budget"
    assert (result.answer, result.abstained) == (None, True)
    assert [step.id for step in result.trace if step.step == "infer"] == ["d1", "d2"][
        : (calls + 1) // 3
    ]
    assert result.usage.calls == model.calls == calls


def test_a_check_that_the_budget_refuses_ends_with_what_was_inferred() -> None:
    prompt = ChatPromptTemplate([("user", "{facts}\nDoes it follow: {conclusion}")])
    judge = prompt | ScriptedModel(["yes"] * 4) | RunnableLambda(lambda m: m.text == "yes")
    inference, _ = reasoning(TWO_STEPS, check=judge)
    handler = BudgetHandler(BudgetGuard([Budget("few", calls=2)]))

    result = inference.invoke(ASKED, {"callbacks": [handler]})

    assert (result.stop_reason, result.answer) == ("budget", None)
    assert [step.id for step in result.trace if step.step == "infer"] == []


async def test_a_check_whose_verdict_would_have_to_be_awaited_is_refused() -> None:
    async def never(_: Any) -> bool:
        return False

    class Later:
        def __await__(self) -> Any:
            yield

    for check in (lambda about: never([about]), lambda _: Later()):
        inference, _ = reasoning(TWO_STEPS, check=check)
        with pytest.raises(ConfigurationError, match="give the async function itself"):
            inference.invoke(ASKED)
        inference, _ = reasoning(TWO_STEPS, check=check)
        with pytest.raises(ConfigurationError, match="give the async function itself"):
            await inference.ainvoke(ASKED)


async def test_a_spent_budget_is_an_error_if_the_caller_likes() -> None:
    inference, _ = reasoning(TWO_STEPS, on_budget="raise")
    handler = AsyncBudgetHandler(BudgetGuard([Budget("few", calls=2)]))

    with pytest.raises(BudgetExceededError):
        await inference.ainvoke(ASKED, {"callbacks": [handler]})


def test_a_run_that_failed_goes_on_from_its_checkpoint_and_pays_nothing_again() -> None:
    steps = [*TWO_STEPS[:4], Failure(error=ConnectionError("down")), *TWO_STEPS[4:]]
    inference, model = reasoning(steps)
    graph = inference.as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    with pytest.raises(ConnectionError, match="down"):
        graph.invoke({"messages": [("user", "Is Bob cold?")], "variables": ASKED}, config)
    state = graph.invoke(None, config)

    assert state["result"]["answer"] is True
    assert state["messages"][-1].text == "Answer: yes"
    assert model.calls == 7


def test_a_second_question_of_a_thread_starts_from_the_given_facts() -> None:
    inference, model = reasoning([*TWO_STEPS, "Facts: none"])
    graph = inference.as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    graph.invoke({"messages": [("user", "Is Bob cold?")], "variables": {"facts": FACTS}}, config)
    state = graph.invoke({"messages": [("user", "Is Al cold?")]}, config)

    assert state["result"]["trace"] == ()
    assert texts(model, 6).endswith("Question: Is Al cold?\n\nInferred so far:\nnothing")


async def test_a_stream_grows_by_inferences_and_ends_with_the_result() -> None:
    inference, _ = reasoning(TWO_STEPS * 2)

    parts = list(inference.stream(ASKED))
    aparts = [part async for part in inference.astream(ASKED)]

    assert parts == aparts
    known = [len(part.trace) for part in parts[:-1]]
    assert known == sorted(known)
    assert [step.id for step in parts[-2].trace] == ["d1", "d2"]
    assert parts[-1].answer is True
    assert all(one.usage.calls <= other.usage.calls for one, other in pairwise(parts))


def test_runs_side_by_side_do_not_mix_their_facts() -> None:
    def answer(messages: list[Any]) -> str:
        asked = messages[-1].text
        name = "Bob" if "Bob" in asked else "Al"
        if asked.startswith("Facts:"):
            return "Facts: f1, f2"
        return f"{name} is red." if "Question" not in asked else f"Answer: {name}"

    inference, model = reasoning([answer], answer=extract.text)
    model.when_exhausted = "repeat_last"
    asked: list[Any] = [
        {"question": f"Who is red, {n}?", "facts": [f"{n} is big.", "Big things are red."]}
        for n in ["Bob", "Al"] * 10
    ]

    results = inference.batch(asked)

    assert [result.answer for result in results] == ["Bob", "Al"] * 10
    assert all(result.usage.calls == 3 for result in results)


async def test_a_cancelled_run_leaves_no_task() -> None:
    asked = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    model = ScriptedModel(TWO_STEPS, latency_s=1.0, async_sleep=wait_for_ever)
    before = asyncio.all_tasks()
    run = asyncio.create_task(SelectionInference(model, output="text").ainvoke(ASKED))
    await asked.wait()

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert asyncio.all_tasks() == before


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=12), st.data())
def test_a_proof_holds_all_that_its_facts_rest_on_and_nothing_else(
    links: list[list[int]], data: st.DataObject
) -> None:
    facts = numbered(["A", "B"])
    for number, uses in enumerate(links, start=1):
        ids = tuple(facts[each % len(facts)].id for each in uses)
        facts.append(TraceStep(id=f"d{number}", step="infer", text=f"{number}", uses=ids))
    goal = data.draw(st.sampled_from(facts)).id

    proof = proof_of([goal], facts)

    before: set[str] = set()
    for step in proof:
        assert set(step.uses) <= before
        before.add(step.id)
    used = {each for step in proof for each in step.uses} | {goal}
    assert before == used


@given(st.text(max_size=60))
def test_a_selection_read_from_any_text_names_known_facts_or_has_a_problem(text: str) -> None:
    for written in (text, f"Facts: {text}", f"Facts: f1 {text}"):
        selection = read_selection(written, ["f1", "f2"])

        assert set(selection.ids) <= {"f1", "f2"}
        assert selection.problem is None or not selection.ids


def test_a_context_of_several_lines_is_split_by_lines() -> None:
    assert sentences("A is B. C is D.\n\n E ") == ["A is B. C is D.", "E"]
