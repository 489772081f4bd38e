"""What the search for a prompt finds, keeps apart, spends and says."""

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import ChainOfThought, Example, chain_of_thought_prompt, extract
from langchain_tokenopt.reasoning.metrics import LabelledSample, typed_equality
from langchain_tokenopt.reasoning.objective import FewestTokens, HighestScore
from langchain_tokenopt.reasoning.optimize import PromptOptimizer
from langchain_tokenopt.reasoning.optimize_moves import demonstrated, shortened, written
from langchain_tokenopt.reasoning.optimize_result import OptimizedPrompt
from langchain_tokenopt.reasoning.prompt_parts import (
    messages_for,
    parts_of,
    read_prompt,
    write_prompt,
)
from langchain_tokenopt.testing import ScriptedModel

NUMBER = typed_equality(extract.number)
WORDY = (
    "You are a most friendly assistant. Add the two numbers. Always stay polite and formal. "
    "Check every digit. Explain your work at length."
)
START = ChatPromptTemplate([("system", WORDY), ("human", "{question}")])
SAMPLES = [LabelledSample(f"{i} + {i * 7 % 31}?", str(i + i * 7 % 31)) for i in range(600)]


def add(messages: list[Any]) -> str:
    """Answer rightly as often as the instruction and the examples have what matters."""
    instruction = messages[0].text if messages[0].type == "system" else ""
    question = messages[-1].text
    share = 0.2 + 0.5 * ("Add" in instruction) + 0.25 * ("digit" in instruction)
    share += 0.2 * (len(messages) > 2)
    right = random.Random(question).random() < share
    total = sum(int(part) for part in question.rstrip("?").split(" + "))
    words = "so " * (30 if "length" in instruction else 5)
    return f"{words}\nAnswer: {total if right else -1}"


def adder(**options: Any) -> ScriptedModel:
    return ScriptedModel([add], when_exhausted="repeat_last", **options)


def writer(*answers: Any) -> ScriptedModel:
    return ScriptedModel(list(answers), when_exhausted="repeat_last", model_name="writer")


def optimizer(model: Any = None, **options: Any) -> PromptOptimizer:
    return PromptOptimizer(model or adder(), **{"budget": 150_000, "metric": NUMBER, **options})


def instruction_of(prompt: ChatPromptTemplate) -> str:
    return parts_of(prompt).instruction


def test_sentences_that_do_nothing_are_left_out_and_those_that_matter_stay() -> None:
    found = optimizer().optimize(START, SAMPLES)

    kept = instruction_of(found.prompt)
    assert "Add the two numbers." in kept
    assert "Check every digit." in kept
    assert "length" not in kept
    assert found.changed
    assert found.certain
    before, after = found.held_out
    assert (after.tokens or 0) < 0.6 * (before.tokens or 0)


def test_what_a_proposer_wrote_can_win_and_its_tokens_count() -> None:
    model = adder()
    proposer = writer("<prompt>Add. Check each digit.</prompt>\n<prompt>Be brief.</prompt>")

    found = optimizer(model, proposer=proposer, rounds=1).optimize(START, SAMPLES)

    assert instruction_of(found.prompt) == "Add. Check each digit."
    assert 0 < found.proposer_usage.total_tokens < found.usage.total_tokens
    assert WORDY in proposer.requests[0][-1].text


def test_the_highest_score_under_a_cap_is_found_by_examples() -> None:
    plain = ChatPromptTemplate([("system", "Add the two numbers."), ("human", "{question}")])

    found = optimizer(objective=HighestScore(max_tokens=60)).optimize(plain, SAMPLES)

    assert len(parts_of(found.prompt).examples) >= 1
    assert found.certain
    before, after = found.held_out
    assert (after.score or 0) > (before.score or 0) + 0.1
    assert (after.tokens or 0) <= 60


def test_wrong_answers_are_shown_to_the_proposer_when_the_score_is_to_rise() -> None:
    plain = ChatPromptTemplate([("system", "Add."), ("human", "{question}")])
    proposer = writer("<prompt>Add. Check every digit.</prompt>")

    found = optimizer(proposer=proposer, objective=HighestScore(), rounds=1).optimize(
        plain, SAMPLES
    )

    asked = [request[-1].text for request in proposer.requests]
    assert sum("Right answer: " in text for text in asked) == 1
    assert any(tried.how == "rewritten" for tried in found.tried)


def test_a_cap_that_the_start_breaks_is_said_with_how_the_scores_compare() -> None:
    proposer = writer("<prompt>Add.</prompt>")

    found = optimizer(proposer=proposer, objective=HighestScore(max_tokens=25)).optimize(
        START, SAMPLES
    )

    assert found.changed
    assert not found.certain
    assert "uses more than 25 tokens a question; the score of what was found differs" in (
        found.reason
    )
    assert len(found.held_out[1].rows) >= 64


def test_a_winner_by_luck_is_not_taken_if_it_fails_on_held_out_samples() -> None:
    def lucky(messages: list[Any]) -> str:
        held_out = "held" in messages[-1].text
        return "Answer: 1" if messages[0].type == "system" or not held_out else "Answer: 0"

    model = ScriptedModel([lucky], when_exhausted="repeat_last")
    search = [LabelledSample(f"question {i}", "1") for i in range(100)]
    held_out = [LabelledSample(f"held {i}", "1") for i in range(100)]
    start = ChatPromptTemplate([("system", "Stay."), ("human", "{question}")])

    found = optimizer(model).optimize(start, search, held_out=held_out)

    assert not found.changed
    assert found.reason.startswith("what won the search did not on held-out samples")
    assert found.report().startswith("The prompt stays as it is. What won")


def test_too_few_held_out_samples_are_said_to_be_too_few() -> None:
    found = optimizer().optimize(START, SAMPLES[:60])

    assert found.changed
    assert not found.certain
    assert "too few to tell: its score may be up to" in found.reason
    assert found.report().startswith("The prompt changes, which is not certain.")


def test_search_and_comparison_never_share_a_question_and_examples_are_not_asked_in_races() -> None:
    model = adder()
    held_out = SAMPLES[:100]

    found = optimizer(model).optimize(START, SAMPLES[100:300], held_out=held_out)

    examples = {e.question for t in found.tried for e in parts_of(t.prompt).examples}
    assert examples
    raced = {row.sample.input for tried in found.tried for row in tried.evaluation.rows}
    compared = {row.sample.input for each in found.held_out for row in each.rows}
    assert not examples & raced
    assert not compared & (raced | examples)
    assert compared <= {sample.input for sample in held_out}


def test_a_question_on_both_sides_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="both searched on and held out"):
        optimizer().optimize(START, SAMPLES[:20], held_out=SAMPLES[19:30])
    with pytest.raises(ConfigurationError, match="at least 4 samples to search on"):
        optimizer().optimize(START, SAMPLES[:3], held_out=SAMPLES[5:9])


@pytest.mark.parametrize(
    "options", [{"budget": 0}, {"rounds": 0}, {"width": 0}, {"confidence": 0.0}]
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        optimizer(**options).optimize(START, SAMPLES)


@settings(max_examples=15)
@given(
    budget=st.integers(1, 30_000),
    width=st.integers(1, 6),
    at_once=st.sampled_from([1, 4]),
    saving=st.booleans(),
)
def test_the_budget_is_never_exceeded_whatever_is_found(
    budget: int, width: int, at_once: int, saving: bool
) -> None:
    model, proposer = adder(), writer("<prompt>Add. Check each digit.</prompt>")
    search = optimizer(
        model,
        budget=budget,
        width=width,
        proposer=proposer,
        objective=FewestTokens() if saving else HighestScore(max_tokens=40),
    )

    found = search.optimize(START, SAMPLES[:200], config={"max_concurrency": at_once})

    assert found.usage.total_tokens <= budget
    assert isinstance(found.prompt, ChatPromptTemplate)
    assert str(found)


def test_a_budget_for_no_call_leaves_the_prompt() -> None:
    model = adder()

    found = optimizer(model, budget=20).optimize(START, SAMPLES)

    assert (found.prompt, found.changed, model.calls) == (START, False, 0)
    assert found.reason == "the budget could not pay for one sample"


def test_a_budget_for_few_calls_tries_nothing_rather_than_little_of_all() -> None:
    found = optimizer(budget=3_000).optimize(START, SAMPLES)

    assert not found.changed
    assert found.tried == ()
    assert found.reason == "there was nothing to try that the budget could pay for"


def test_failures_of_the_model_and_the_proposer_are_told_and_not_raised() -> None:
    flaky = ScriptedModel([add, add, add, ConnectionError("down")], when_exhausted="cycle")

    found = optimizer(flaky, proposer=writer(TimeoutError("slow"))).optimize(
        START, SAMPLES[:80], config={"max_concurrency": 1}
    )

    assert any("proposer failed: TimeoutError: slow" in note for note in found.notes)
    assert "samples failed in the search, such as ConnectionError: down" in found.report()


async def test_the_same_comes_of_aoptimize() -> None:
    proposer = ["<prompt>Add. Check each digit.</prompt>"]
    one = optimizer(proposer=writer(*proposer)).optimize(START, SAMPLES[:200])
    other = await optimizer(proposer=writer(*proposer)).aoptimize(START, SAMPLES[:200])

    assert one.prompt == other.prompt
    assert one.report() == other.report()


async def test_a_cancelled_search_leaves_no_task() -> None:
    asked = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    model = adder(latency_s=1.0, async_sleep=wait_for_ever)
    search = asyncio.create_task(optimizer(model).aoptimize(START, SAMPLES))
    await asked.wait()

    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search

    assert asyncio.all_tasks() == before


def test_a_technique_is_optimised_through_a_function_of_its_prompt() -> None:
    model = adder()
    start = ChatPromptTemplate([("system", WORDY), MessagesPlaceholder("messages")])

    found = optimizer(
        lambda prompt: ChainOfThought(model, answer=extract.number, prompt=prompt)
    ).optimize(start, SAMPLES)

    assert found.changed
    assert isinstance(found.prompt.messages[-1], MessagesPlaceholder)
    thinking = ChainOfThought(model, answer=extract.number, prompt=found.prompt)
    assert thinking.invoke("2 + 2?").answer is not None


def test_a_proposer_that_the_budget_cannot_pay_is_told_of() -> None:
    proposer = writer("<prompt>Add.</prompt>").bind(max_tokens=1_000_000)

    found = optimizer(proposer=proposer).optimize(START, SAMPLES[:60])

    assert "The budget could not pay for a call of the proposer." in found.notes
    assert found.proposer_usage.total_tokens == 0
    assert any(tried.how.startswith("without") for tried in found.tried)


def test_a_proposer_that_writes_nothing_usable_is_told_of() -> None:
    found = optimizer(adder().bind(stop=["#"]), proposer=writer("Sure!")).optimize(
        START, SAMPLES[:60]
    )

    assert len(found.notes) >= 1
    assert "What the proposer wrote could not be used" in found.report()


def test_given_examples_are_tried_too() -> None:
    given = Example("1 + 1?", "Answer: 2")

    found = optimizer(objective=HighestScore(), examples=[given], rounds=1).optimize(
        START, SAMPLES[:60]
    )

    assert any(given in parts_of(tried.prompt).examples for tried in found.tried)


def test_the_report_shows_what_was_tried_and_spent() -> None:
    report = str(optimizer().optimize(START, SAMPLES))

    assert "| start | " in report
    assert "without 'Always stay polite and formal.'" in report
    assert "of 150,000 tokens were used, 0 of them by the proposer." in report


# --- prompts in parts and in files ----------------------------------------------------------------


def test_a_prompt_is_the_same_after_it_was_taken_apart() -> None:
    prompt = chain_of_thought_prompt(extract.number, examples=[Example("1 + {x}?", "{y}")])

    parts = parts_of(prompt)

    assert parts.examples == (Example("1 + {x}?", "{y}"),)
    assert "".join(parts.sentences()) == parts.instruction
    messages = [("user", "2 + 2?")]
    assert parts.prompt().format_messages(messages=messages) == prompt.format_messages(
        messages=messages
    )


def test_partial_variables_and_other_messages_stay() -> None:
    prompt = ChatPromptTemplate(
        [("system", "Be {mood}. Add."), ("human", "1 + 1?"), ("ai", "2"), ("human", "{question}")]
    ).partial(mood="kind")

    parts = parts_of(prompt)

    assert parts.examples == (Example("1 + 1?", "2"),)
    assert parts.prompt().format_messages(question="?")[0].text == "Be kind. Add."
    assert parts.without([0]) is None
    shorter = parts.without([1])
    assert shorter is not None
    assert shorter.prompt().format_messages(question="?")[0].text == "Be kind."


def test_braces_that_a_proposer_writes_stand_for_themselves() -> None:
    parts = parts_of(ChatPromptTemplate([("system", "Be {mood}."), ("human", "{question}")]))

    rewritten = parts.rewritten('Write {{"a": 1}} or {question.__class__}, {mood}.')

    assert rewritten is not None
    filled = rewritten.prompt().format_messages(mood="kind", question="?")
    assert filled[0].text == 'Write {{"a": 1}} or {question.__class__}, kind.'
    assert parts.rewritten("Be nice.") is None


@given(st.text(max_size=80))
def test_no_text_of_a_proposer_breaks_a_prompt(text: str) -> None:
    parts = parts_of(START).rewritten(text)

    assert parts is not None
    if parts.instruction:
        filled = parts.prompt().format_messages(question="?")
        assert filled[0].text == text.strip()


def test_a_prompt_without_a_system_message_or_with_a_fixed_one_is_taken_apart() -> None:
    bare = ChatPromptTemplate([("human", "{question}")])
    fixed = ChatPromptTemplate([SystemMessage("Write {x}."), ("human", "{question}")])

    assert parts_of(bare).instruction == ""
    rewritten = parts_of(bare).rewritten("Add.")
    assert rewritten is not None
    assert [m.text for m in rewritten.prompt().format_messages(question="?")] == ["Add.", "?"]
    assert parts_of(fixed).prompt().format_messages(question="?")[0].text == "Write {x}."


def test_messages_that_are_no_fixed_texts_are_no_examples() -> None:
    blocks = HumanMessage([{"type": "text", "text": "1 + 1?"}])
    for asked, said in ((blocks, "2"), (HumanMessage("1 + 1?"), "{answer}")):
        prompt = ChatPromptTemplate([("system", "Add."), asked, ("ai", said), ("human", "{q}")])
        assert parts_of(prompt).examples == ()


def test_a_prompt_is_filled_by_its_variables_or_by_a_question() -> None:
    prompt = ChatPromptTemplate([("system", "Be {mood}."), ("human", "{question}")])

    by_name = messages_for(prompt, {"mood": "kind", "question": "2 + 2?", "more": 1})
    by_question = messages_for(prompt.partial(mood="kind"), "2 + 2?")

    assert by_name == by_question == [SystemMessage("Be kind."), HumanMessage("2 + 2?")]


def test_each_move_changes_one_thing_and_loses_no_variable() -> None:
    ones = [Example("1 + 1?", "Answer: 2"), Example("A longer question: 2 + 2?", "A: 4, of course")]
    base = replace(
        parts_of(ChatPromptTemplate([("system", "Be {mood}. Add. Stay here."), ("human", "{q}")])),
        examples=tuple(ones),
    )
    text = "<prompt>Be nice.</prompt>\n<prompt> </prompt>\n<prompt>Add, {mood}.</prompt>"

    shorter = list(shortened(base, harmless=()))
    longer = list(demonstrated(base, [ones[0], Example("3 + 3?", "Answer: 6")], most=8))

    assert [each.parts.instruction for each in written(base, text)] == ["Add, {mood}."]
    assert [each.how for each in shorter] == [
        "without examples",
        "without 'Stay here.'",
        "without 'Add.'",
        "without example 'A longer question: 2 + 2?'",
        "without example '1 + 1?'",
    ]
    assert shorter[-1].parts.examples == (ones[1],)
    assert [each.how for each in longer] == ["with 1 more example", "examples in the other order"]
    assert longer[-1].parts.examples == (ones[1], ones[0])
    for each in (*shorter, *longer):
        each.parts.prompt().format_messages(mood="kind", q="?")


def test_a_system_message_that_is_no_text_is_refused() -> None:
    blocks = SystemMessage([{"type": "text", "text": "Add."}])

    with pytest.raises(ConfigurationError, match="system message that is a text"):
        optimizer().optimize(ChatPromptTemplate([blocks, ("human", "{question}")]), SAMPLES)
    mustache = ChatPromptTemplate([("system", "Be {{mood}}.")], template_format="mustache")
    with pytest.raises(ConfigurationError, match="system message that is a text"):
        parts_of(mustache)


def test_a_found_prompt_comes_back_from_its_file(tmp_path: Path) -> None:
    found: OptimizedPrompt = optimizer().optimize(START, SAMPLES)
    found.save(tmp_path / "prompt.json")

    assert read_prompt(tmp_path / "prompt.json") == found.prompt


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"tokenopt_prompt": 2, "prompt": {}}',
        '{"tokenopt_prompt": 1, "prompt": {}}',
        json.dumps(
            {
                "tokenopt_prompt": 1,
                "prompt": {
                    "lc": 1,
                    "type": "constructor",
                    "id": ["langchain", "chat_models", "openai", "ChatOpenAI"],
                    "kwargs": {},
                },
            }
        ),
    ],
)
def test_a_file_that_holds_no_prompt_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "prompt.json").write_text(text)

    with pytest.raises(ConfigurationError, match=r"prompt\.json"):
        read_prompt(tmp_path / "prompt.json")


def test_fixed_messages_are_kept_in_a_file(tmp_path: Path) -> None:
    prompt = ChatPromptTemplate(
        [HumanMessage("1 + {1}?"), AIMessage("2"), MessagesPlaceholder("messages")]
    )

    write_prompt(tmp_path / "prompt.json", prompt)

    assert read_prompt(tmp_path / "prompt.json") == prompt
