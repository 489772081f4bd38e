"""Least-to-most: plans, what each step sees, and what comes of trouble."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langgraph.checkpoint.memory import InMemorySaver

from langchain_tokenopt.accounting import AsyncBudgetHandler, Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning import Example, LeastToMost, Plan, SubQuestion, extract, read_plan
from langchain_tokenopt.reasoning.plan import problems_of, settled
from langchain_tokenopt.testing import ScriptedModel

QUESTION = "Ann is twice 4, Bob is 3. How old are they together, doubled?"
PLAN = (
    "a: How old is Ann, twice 4?\nb: How old is Bob, 3?\ns (a, b): Their sum?\nq (s): the question"
)
ANSWERS = {
    "How old is Ann, twice 4?": "Answer: 8",
    "How old is Bob, 3?": "Answer: 3",
    "Their sum?": "8 + 3 = 11.\nAnswer: 11",
    QUESTION: "11 doubled is 22.\nAnswer: 22",
}


def asked(messages: list[BaseMessage]) -> str:
    """Return the question of a step, without what is known."""
    return str(messages[-1].text).rsplit("\n\n", 1)[-1]


def answering(plan: Any = PLAN, **changed: Any) -> ScriptedModel:
    """Plans first, then answers each question as it should be."""
    answers = {**ANSWERS, **changed}

    def answer(messages: list[BaseMessage]) -> Any:
        is_plan = "Split the question" in str(messages[0].text)
        return plan if is_plan else answers[asked(messages)]

    return ScriptedModel([answer], when_exhausted="repeat_last")


def thinking(model: ScriptedModel, **options: Any) -> LeastToMost:
    return LeastToMost(model, **{"answer": extract.number, "output": "text", **options})


def test_steps_are_answered_in_waves_and_see_only_what_they_depend_on() -> None:
    model = answering()

    result = thinking(model).invoke(QUESTION)

    assert (result.answer, result.stop_reason) == (Decimal(22), "answered")
    assert [(step.id, step.uses) for step in result.trace[1:]] == [
        ("a", ()), ("b", ()), ("s", ("a", "b")), ("q", ("s",)),
    ]  # fmt: skip
    seen = {asked(request): str(request[-1].text) for request in model.requests[1:]}
    assert seen["Their sum?"].startswith(
        "Known:\na: How old is Ann, twice 4? 8\nb: How old is Bob, 3? 3\n\n"
    )
    assert "Ann, twice 4" not in seen[QUESTION].removesuffix(QUESTION)
    assert result.usage.calls == 5
    assert set(result.usage.by_step) == {"plan", "solve"}


async def test_the_same_comes_of_ainvoke_and_of_a_stream() -> None:
    technique = thinking(answering())

    result = technique.invoke(QUESTION)

    assert await technique.ainvoke(QUESTION) == result
    assert list(technique.stream(QUESTION))[-1] == result
    assert [part async for part in technique.astream(QUESTION)][-1] == result


async def test_steps_that_do_not_depend_on_each_other_run_side_by_side() -> None:
    running, most = [0], [0]

    async def wait(_: float) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running[0] -= 1

    model = answering()
    model = model.model_copy(update={"latency_s": 1.0, "async_sleep": wait})

    assert (await thinking(model).ainvoke(QUESTION)).answer == 22
    assert most[0] == 2


def test_an_empty_plan_is_a_plain_chain_of_thought() -> None:
    model = answering("none")

    result = thinking(model).invoke(QUESTION)

    assert (result.answer, result.usage.calls, result.reason) == (22, 2, "")


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        ("I would first think.", "No line such as"),
        ("a: A?\na: B?\nq: the question", "The id a is used 2 times."),
        ("a (z): A?\nq (a): the question", "a depends on z, which is no step."),
        ("a (b): A?\nb (a): B?\nq: the question", "The steps a, b wait for each other."),
        ("a: A?\nb (a): Something else?", "The last step must be the question itself"),
        ("a: The question\nq (a): the question", "a is the question itself"),
        ("a (q): A?\nq (a): the question", "No step can depend on the last one."),
        ("\n".join(f"s{n}: S?" for n in range(9)) + "\nq: the question", "10 steps are too many"),
    ],
)
def test_a_plan_with_faults_is_asked_for_once_more_with_what_is_wrong(
    plan: str, fault: str
) -> None:
    plans = iter([plan, PLAN])
    answers = dict(ANSWERS)
    model = ScriptedModel(
        [
            lambda messages: (
                next(plans)
                if "Split the question" in str(messages[0].text)
                else answers[asked(messages)]
            )
        ],
        when_exhausted="repeat_last",
    )

    result = thinking(model).invoke(QUESTION)

    assert result.answer == 22
    assert fault in str(model.requests[1][-1].text)
    assert "Write a plan without these faults." in str(model.requests[1][-1].text)


def test_two_plans_with_faults_lead_to_a_plain_chain_and_that_is_said() -> None:
    model = answering("a: A?\na: B?\nq: the question")

    result = thinking(model).invoke(QUESTION)

    assert result.answer == 22
    assert "plain chain of thought, since no plan could be used" in result.reason
    assert result.usage.calls == 3


def test_a_plan_is_filled_into_a_schema_where_the_model_can() -> None:
    steps = [
        {"id": "a", "question": "How old is Ann, twice 4?", "depends_on": []},
        {"id": "q", "question": "the question", "depends_on": ["a"]},
    ]
    call: Any = {"name": "Plan", "args": {"steps": steps}, "id": "1"}
    filled = AIMessage("", tool_calls=[call])

    result = thinking(answering(filled), output=None).invoke(QUESTION)

    assert (result.answer, [step.id for step in result.trace]) == (22, ["plan", "a", "q"])


def test_a_step_that_fails_leaves_what_is_known_and_its_dependents_unasked() -> None:
    model = answering(**{"How old is Bob, 3?": ConnectionError("down")})

    result = thinking(model).invoke(QUESTION)

    assert (result.abstained, result.stop_reason) == (True, "error")
    assert {step.id: step.step for step in result.trace} == {
        "plan": "plan", "a": "solve", "b": "failed",
    }  # fmt: skip
    assert "down" in result.reason
    assert result.usage.failed_calls == 1
    with pytest.raises(ConnectionError):
        thinking(
            answering(**{"How old is Bob, 3?": ConnectionError("down")}), on_error="raise"
        ).invoke(QUESTION)


def test_where_nothing_is_known_the_error_is_raised() -> None:
    with pytest.raises(ConnectionError):
        thinking(answering("none", **{QUESTION: ConnectionError("down")})).invoke(QUESTION)
    with pytest.raises(ConnectionError):
        thinking(answering(ConnectionError("down"))).invoke(QUESTION)


def test_a_run_that_failed_goes_on_without_paying_for_what_was_answered() -> None:
    broken = [True]

    def bob(messages: list[BaseMessage]) -> Any:
        if "Split the question" in str(messages[0].text):
            return PLAN
        if asked(messages).startswith("How old is Bob") and broken:
            broken.clear()
            return ConnectionError("down")
        return ANSWERS[asked(messages)]

    model = ScriptedModel([bob], when_exhausted="repeat_last")
    graph = thinking(model, on_error="raise").as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    with pytest.raises(ConnectionError):
        graph.invoke({"messages": [("user", QUESTION)]}, config)
    state = graph.invoke(None, config)

    assert state["result"]["answer"] == 22
    questions = [asked(request) for request in model.requests[1:]]
    assert questions.count("How old is Ann, twice 4?") == 1
    assert questions.count("How old is Bob, 3?") == 2


async def test_a_first_wave_that_failed_whole_is_asked_again_from_its_checkpoint() -> None:
    broken = {"How old is Ann, twice 4?", "How old is Bob, 3?"}

    def answer(messages: list[BaseMessage]) -> Any:
        if "Split the question" in str(messages[0].text):
            return PLAN
        if asked(messages) in broken:
            broken.remove(asked(messages))
            return ConnectionError("down")
        return ANSWERS[asked(messages)]

    model = ScriptedModel([answer], when_exhausted="repeat_last")
    graph = thinking(model).as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    with pytest.raises(ConnectionError, match="down"):
        await graph.ainvoke({"messages": [("user", QUESTION)]}, config)
    state = await graph.ainvoke(None, config)

    assert state["result"]["answer"] == 22
    assert state["result"]["stop_reason"] == "answered"
    assert [step["id"] for step in state["result"]["trace"]] == ["plan", "a", "b", "s", "q"]
    assert model.calls == 7


def test_a_second_question_of_a_thread_gets_a_plan_of_its_own() -> None:
    model = answering()
    graph = thinking(model).as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    first = graph.invoke({"messages": [("user", QUESTION)]}, config)
    second = graph.invoke({"messages": [("user", QUESTION)]}, config)

    assert second["result"]["answer"] == 22
    assert second["result"]["trace"] == first["result"]["trace"]
    assert len(second["usage"]) == model.calls - len(first["usage"]) == 5


def test_prompts_can_be_replaced_and_get_the_other_keys_of_the_input() -> None:
    model = answering()
    prompt = ChatPromptTemplate([("system", "Be {mood}."), ("user", "{known}\n\n{question}")])
    technique = thinking(model, step_prompt=prompt, answer_prompt=prompt)

    assert technique.invoke({"question": QUESTION, "mood": "kind"}).answer == 22

    assert [str(request[0].text) for request in model.requests[1:]] == ["Be kind."] * 4


def allowed(calls: int) -> BudgetGuard:
    return BudgetGuard([Budget("few", calls=calls)])


@pytest.mark.parametrize(
    ("calls", "known"), [(0, []), (1, []), (2, ["a"]), (3, ["a", "b"]), (4, ["a", "b", "s"])]
)
async def test_a_budget_without_room_for_the_question_leaves_what_is_known(
    calls: int, known: list[str]
) -> None:
    model = answering()
    technique = thinking(model)

    result = technique.invoke(
        QUESTION, {"callbacks": [BudgetHandler(allowed(calls))], "max_concurrency": 1}
    )
    used = model.calls
    aresult = await technique.ainvoke(
        QUESTION, {"callbacks": [AsyncBudgetHandler(allowed(calls))], "max_concurrency": 1}
    )

    assert used == result.usage.calls == calls
    assert (result.answer, result.abstained, result.stop_reason) == (None, True, "budget")
    assert [step.id for step in result.trace if step.step == "solve"] == known
    assert aresult.trace == result.trace


def test_a_step_that_the_budget_refuses_leaves_the_question_asked_with_what_is_known() -> None:
    long = "How old is Bob, who is 3, " + "as everybody knows, " * 200 + "of course?"
    plan = f"a: How old is Ann, twice 4?\nb: {long}\nq (a, b): the question"
    model = answering(plan)
    guard = BudgetGuard([Budget("some", tokens=2_000)], output_tokens=200)
    config: Any = {"callbacks": [BudgetHandler(guard)], "max_concurrency": 1}

    result = thinking(model).invoke(QUESTION, config)

    assert (result.answer, result.stop_reason) == (22, "budget")
    assert "asked with what was known" in result.reason
    assert {step.id: step.step for step in result.trace[1:]} == {
        "a": "solve", "b": "refused", "q": "solve",
    }  # fmt: skip
    assert "Known:\na: How old is Ann, twice 4? 8\n\n" in str(model.requests[-1][-1].text)
    assert "Bob, who" not in str(model.requests[-1][-1].text)


def test_a_last_step_without_an_answer_is_an_abstention_and_that_is_said() -> None:
    result = thinking(answering(**{QUESTION: "I cannot say."})).invoke(QUESTION)

    assert (result.answer, result.abstained) == (None, True)
    assert result.reason == "no answer could be read out of the text"


def test_a_refused_step_is_raised_where_the_caller_likes() -> None:
    for calls in (0, 2, 4):
        handler = BudgetHandler(allowed(calls))
        with pytest.raises(BudgetExceededError):
            thinking(answering(), on_budget="raise").invoke(QUESTION, {"callbacks": [handler]})


async def test_fifty_runs_share_one_budget_and_do_not_pass_it() -> None:
    guard = allowed(120)
    model = answering()
    technique = thinking(model)

    results = await asyncio.gather(
        *(
            technique.ainvoke(QUESTION, {"callbacks": [AsyncBudgetHandler(guard)]})
            for _ in range(50)
        )
    )

    assert model.calls == guard.statuses()[0].spent.calls <= 120
    assert sum(result.usage.calls for result in results) == model.calls


async def test_a_cancelled_run_leaves_no_task_behind() -> None:
    waiting = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    model = answering().model_copy(update={"latency_s": 1.0, "async_sleep": wait_for_ever})
    before = asyncio.all_tasks()
    run = asyncio.create_task(thinking(model).ainvoke(QUESTION))
    await waiting.wait()

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert asyncio.all_tasks() == before


def test_examples_of_plans_and_of_answers_stand_in_their_prompts() -> None:
    plan = read_plan("a: A?\nq (a): the question")
    model = answering()

    thinking(
        model,
        plan_examples=[Example("Whole?", str(plan))],
        examples=[Example("1 + 1?", "Answer: 2")],
    ).invoke(QUESTION)

    assert str(model.requests[0][2].text) == "a: A?\nq (a): the question"
    assert all("1 + 1?" in [str(m.text) for m in request] for request in model.requests[1:])
    assert all("Whole?" not in [str(m.text) for m in request] for request in model.requests[1:])


def test_earlier_turns_are_seen_by_the_plan_and_the_last_step_only() -> None:
    model = answering()
    turns = [HumanMessage("Hello."), AIMessage("Hi!"), HumanMessage(QUESTION)]

    assert thinking(model).invoke(turns).answer == 22

    seen = ["Hello." in [str(m.text) for m in request] for request in model.requests]
    assert [seen[0], seen[-1], any(seen[1:-1])] == [True, True, False]


def test_tokens_of_the_answer_alone_are_streamed() -> None:
    graph = thinking(answering()).as_graph()

    stream = graph.stream({"messages": [("user", QUESTION)]}, stream_mode="messages")
    text = "".join(message.text for message, _ in stream)  # type: ignore[union-attr]  # pairs

    assert text == ANSWERS[QUESTION]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_steps": 0}, "max_steps is a number above 0"),
        ({"on_error": "ignore"}, "on_error is 'best' or 'raise'"),
        ({"output": "json"}, "output is 'structured', 'text' or None"),
        ({"on_budget": "ignore"}, "on_budget is 'best' or 'raise'"),
    ],
)
def test_wrong_options_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        thinking(answering(), **options)


ids = st.sampled_from("abcde")


@given(st.lists(st.tuples(ids, st.lists(ids, max_size=3)), max_size=7))
def test_a_plan_without_faults_can_be_answered_to_its_end(steps: list[Any]) -> None:
    asked_first = [
        SubQuestion(id=each, question=f"{each}?", depends_on=tuple(uses)) for each, uses in steps
    ]
    last = SubQuestion(id="q", question="the question", depends_on=())
    plan = Plan(steps=(*asked_first, last))
    if problems_of(plan, question="Q?", max_steps=8):
        return

    ready = settled(plan, question="Q?")
    solved: set[str] = set()
    for wave in ready.waves():
        assert {step.id for step in ready.ready(solved)} == set(wave)
        solved |= set(wave)

    assert ready.waves()[-1] == ("q",)
    assert solved == {step.id for step in ready.steps}


@given(st.text(max_size=200))
def test_no_text_breaks_the_reading_of_a_plan(text: str) -> None:
    plan = read_plan(text)

    if plan is not None and plan.steps:
        assert read_plan(str(plan)) == plan
