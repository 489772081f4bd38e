"""One call that reasons, and what every technique has: graph, streams, usage, budgets."""

import asyncio
from decimal import Decimal
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_tokenopt.accounting import AsyncBudgetHandler, Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning import ChainOfThought, Example, Structured, extract
from langchain_tokenopt.testing import Failure, ScriptedModel

QUESTION = "How many apples are in 3 boxes of 4?"
THOUGHT = "3 boxes of 4 are 12.\nAnswer: 12"


def chain(answers: list[Any], **options: Any) -> tuple[ChainOfThought, ScriptedModel]:
    model = ScriptedModel(answers)
    return ChainOfThought(model, **{"answer": extract.number, **options}), model


def test_the_answer_its_text_and_its_usage_are_returned() -> None:
    thinking, model = chain([THOUGHT])

    result = thinking.invoke(QUESTION)

    assert result.answer == Decimal(12)
    assert result.text == THOUGHT
    assert result.stop_reason == "answered"
    assert result.usage.calls == 1
    assert list(result.usage.by_step) == ["think"]
    assert result.usage.by_model["scripted"] == result.usage.total
    assert "step by step" in model.requests[0][0].text


async def test_the_same_comes_of_ainvoke() -> None:
    thinking, _ = chain([THOUGHT, THOUGHT])

    assert await thinking.ainvoke(QUESTION) == thinking.invoke(QUESTION)


@pytest.mark.parametrize(
    "given",
    [
        QUESTION,
        [("user", QUESTION)],
        [HumanMessage(QUESTION)],
        {"question": QUESTION},
        {"messages": [HumanMessage(QUESTION)]},
        ChatPromptTemplate([("user", QUESTION)]).invoke({}),
    ],
)
def test_every_form_of_input_is_understood(given: Any) -> None:
    thinking, model = chain([THOUGHT])

    assert thinking.invoke(given).answer == 12
    assert model.requests[0][-1].text == QUESTION


def test_an_input_without_a_question_is_refused() -> None:
    thinking, model = chain([THOUGHT])

    with pytest.raises(ConfigurationError, match="expected 'question' or 'messages'"):
        thinking.invoke({"text": QUESTION})
    with pytest.raises(ConfigurationError, match="at least one message"):
        thinking.invoke([])
    assert model.calls == 0


@pytest.mark.parametrize(
    ("style", "says"),
    [("full", "Think step by step."), ("draft", "5 words"), ("none", "Do not explain")],
)
def test_the_style_is_in_the_prompt(style: Literal["full", "draft", "none"], says: str) -> None:
    thinking, model = chain([THOUGHT], style=style, token_hint=60)

    thinking.invoke(QUESTION)

    assert says in model.requests[0][0].text
    assert "less than 60 tokens" in model.requests[0][0].text


def test_examples_stand_before_the_question_and_may_hold_braces() -> None:
    thinking, model = chain([THOUGHT], examples=[Example("1 + {x}?", "Answer: {y}")])

    thinking.invoke(QUESTION)

    kinds = [type(message) for message in model.requests[0]]
    assert kinds == [SystemMessage, HumanMessage, AIMessage, HumanMessage]
    assert model.requests[0][1].text == "1 + {x}?"


def test_a_prompt_of_ones_own_gets_the_other_keys_of_the_input() -> None:
    prompt = ChatPromptTemplate([("system", "Be {mood}."), ("user", "{question}")])
    thinking, model = chain([THOUGHT], prompt=prompt)

    thinking.invoke({"question": QUESTION, "mood": "kind"})

    assert model.requests[0][0].text == "Be kind."
    with pytest.raises(ConfigurationError, match="the prompt needs mood"):
        thinking.invoke(QUESTION)


def test_a_text_without_an_answer_is_an_abstention() -> None:
    thinking, _ = chain(["I cannot say."])

    result = thinking.invoke(QUESTION)

    assert result.abstained
    assert result.answer is None
    assert "no answer could be read" in result.reason


class Colour(BaseModel):
    name: str
    shade: Literal["light", "dark"]


def filled_in(**arguments: Any) -> AIMessage:
    call = {"name": "Reasoned", "args": arguments, "id": "1"}
    return AIMessage("", tool_calls=[call])  # type: ignore[list-item]  # a plain dict is one


def test_a_structured_answer_is_of_its_type_and_reasoned_before() -> None:
    answer = {"name": "blue", "shade": "dark"}
    model = ScriptedModel([filled_in(reasoning="the sea", answer=answer)])

    result = ChainOfThought(model, answer=Structured(Colour)).invoke("The sea's colour?")

    assert result.answer == Colour(name="blue", shade="dark")
    fields = model.keywords[0]["tools"][0]["function"]["parameters"]["properties"]
    assert list(fields) == ["reasoning", "answer"]
    assert result.usage.total.output > 0


def test_a_structured_answer_needs_a_chat_model() -> None:
    with pytest.raises(ConfigurationError, match=r"need a chat model, got .*Binding; bind"):
        ChainOfThought(ScriptedModel(["?"]).bind(stop=["#"]), answer=Structured(Colour))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"style": "loud"}, "style is one of full, draft, none, got 'loud'"),
        ({"token_hint": 0}, "token_hint is a number of tokens above 0, got 0"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        chain([THOUGHT], **options)


def test_a_structured_answer_that_does_not_fit_is_an_abstention() -> None:
    model = ScriptedModel([filled_in(reasoning="?", answer="blue"), "blue"])
    thinking = ChainOfThought(model, answer=Structured(Colour))

    assert "answer" in thinking.invoke("The sea's colour?").reason
    assert "did not fill in" in thinking.invoke("The sea's colour?").reason


def test_an_error_of_the_model_is_raised_as_it_is() -> None:
    thinking, _ = chain([ConnectionError("down")])

    with pytest.raises(ConnectionError, match="down"):
        thinking.invoke(QUESTION)


def spent() -> dict[str, Any]:
    return {"callbacks": [BudgetHandler(BudgetGuard([Budget("none", calls=0)]))]}


async def test_a_refused_call_is_a_result_or_an_error_as_the_caller_likes() -> None:
    thinking, model = chain([THOUGHT])
    raising, _ = chain([THOUGHT], on_budget="raise")
    handler = AsyncBudgetHandler(BudgetGuard([Budget("none", calls=0)]))

    assert thinking.invoke(QUESTION, spent()).stop_reason == "budget"
    assert (await thinking.ainvoke(QUESTION, {"callbacks": [handler]})).abstained
    with pytest.raises(BudgetExceededError):
        raising.invoke(QUESTION, spent())
    assert model.calls == 0


def test_the_graph_answers_in_the_messages_and_starts_anew_each_turn() -> None:
    thinking, _ = chain([THOUGHT, "Answer: 13"])
    graph = thinking.as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    graph.invoke({"messages": [("user", QUESTION)]}, config)
    state = graph.invoke({"messages": [("user", "And one more?")]}, config)

    assert [message.text for message in state["messages"]][1::2] == [THOUGHT, "Answer: 13"]
    assert state["result"]["answer"] == 13
    assert len(state["usage"]) == 1


def test_a_run_that_failed_goes_on_from_its_checkpoint() -> None:
    thinking, model = chain([ConnectionError("down"), THOUGHT])
    graph = thinking.as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    with pytest.raises(ConnectionError):
        graph.invoke({"messages": [("user", QUESTION)]}, config)
    state = graph.invoke(None, config)

    assert state["result"]["answer"] == 12
    assert model.calls == 2


async def test_a_stream_ends_with_the_result() -> None:
    thinking, _ = chain([THOUGHT], answer=extract.number)
    athinking, _ = chain([THOUGHT])

    parts = list(thinking.stream(QUESTION))
    aparts = [part async for part in athinking.astream(QUESTION)]

    assert parts == aparts
    assert parts[0].stop_reason is None
    assert parts[-1].answer == 12


def test_only_the_answer_can_be_asked_for() -> None:
    thinking, _ = chain([THOUGHT])

    assert thinking.answer.invoke(QUESTION) == 12


def test_tokens_of_the_answer_are_streamed_by_the_graph() -> None:
    thinking, _ = chain([THOUGHT])

    stream = thinking.as_graph().stream({"messages": [("user", QUESTION)]}, stream_mode="messages")
    pieces = [message.text for message, _ in stream]  # type: ignore[misc, union-attr]  # pairs

    assert len(pieces) > 3
    assert "".join(pieces) == THOUGHT


def test_a_cached_answer_uses_nothing_and_is_counted_as_cached() -> None:
    model: BaseChatModel = CachedChatModel(ScriptedModel([THOUGHT]), cache=MemoryCache())
    thinking = ChainOfThought(model, answer=extract.number)
    thinking.invoke(QUESTION)

    usage = thinking.invoke(QUESTION).usage

    assert (usage.calls, usage.cached_calls, usage.total.total_tokens) == (0, 1, 0)


def test_a_broken_stream_is_an_error_with_its_usage_in_the_state() -> None:
    thinking, _ = chain([Failure(error=ConnectionError("cut"), after_chunks=2, text="3 boxes of")])

    with pytest.raises(ConnectionError, match="cut"):
        thinking.invoke(QUESTION)


async def test_a_cancelled_run_leaves_no_task() -> None:
    asked = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    model = ScriptedModel([THOUGHT], latency_s=1.0, async_sleep=wait_for_ever)
    before = asyncio.all_tasks()
    run = asyncio.create_task(ChainOfThought(model).ainvoke(QUESTION))
    await asked.wait()

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert asyncio.all_tasks() == before
