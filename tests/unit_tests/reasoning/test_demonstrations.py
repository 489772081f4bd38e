"""Demonstrations: unlike questions, whose answers were checked."""

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from langchain_tokenopt.accounting import AsyncBudgetHandler, Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import ChainOfThought, Demonstrations, extract
from langchain_tokenopt.testing import ScriptedModel

FRUIT = [f"How many apples are in {n} boxes of 4 apples?" for n in range(2, 8)]
DATES = [f"How many days are in {n} weeks of the calendar?" for n in range(2, 8)]
GOLDS = [Decimal(4 * n) for n in range(2, 8)] + [Decimal(7 * n) for n in range(2, 8)]


def right(messages: list[BaseMessage]) -> str:
    words = messages[-1].text.split()
    n = int(next(word for word in words if word.isdigit()))
    return f"So many.\nAnswer: {n * (4 if 'boxes' in words else 7)}"


def demonstrations(script: Any = right, **options: Any) -> tuple[Demonstrations, ScriptedModel]:
    model = ScriptedModel([script], when_exhausted="repeat_last")
    given = {"embeddings": StaticEmbeddings(), "answer": extract.number, "k": 2, **options}
    return Demonstrations(model=model, **given), model


def test_there_is_one_example_of_each_kind_of_question() -> None:
    how, model = demonstrations()

    chosen = how.choose(FRUIT + DATES, golds=GOLDS)

    assert {("apples" in example.question) for example in chosen.examples} == {True, False}
    assert model.calls == chosen.usage.calls == 2
    assert chosen.reason == ""


async def test_the_same_comes_of_achoose() -> None:
    how, _ = demonstrations()

    assert await how.achoose(FRUIT + DATES, golds=GOLDS) == how.choose(FRUIT + DATES, golds=GOLDS)


def test_what_was_chosen_stands_in_the_prompt() -> None:
    how, model = demonstrations()
    chosen = how.choose(FRUIT + DATES, golds=GOLDS)

    ChainOfThought(model, examples=chosen.examples).invoke("And in 9 boxes?")

    texts = [message.text for message in model.requests[-1]]
    assert all(example.text in texts for example in chosen.examples)


def test_a_chain_with_a_wrong_answer_is_no_example_and_the_next_question_is_tried() -> None:
    answers = iter(["Answer: 1", "Answer: 2"])
    how, _ = demonstrations(lambda messages: next(answers, None) or right(messages), k=1)

    chosen = how.choose(FRUIT, golds=GOLDS[:6])

    assert len(chosen.examples) == 1
    assert [why.split(" is not ")[0] for _, why in chosen.rejected] == [
        "the answer 1",
        "the answer 2",
    ]


def test_a_chain_without_an_answer_is_no_example() -> None:
    answers = iter(["I cannot say."])
    how, _ = demonstrations(lambda messages: next(answers, None) or right(messages), k=1)

    chosen = how.choose(FRUIT, golds=GOLDS[:6])

    assert len(chosen.examples) == 1
    assert [why for _, why in chosen.rejected] == ["no answer could be read"]


def test_where_no_answer_is_known_samples_must_agree() -> None:
    answers = iter(["Answer: 1", "Answer: 2", "Answer: 5", "Answer: 5"])
    how, model = demonstrations(lambda _: next(answers), k=1)

    chosen = how.choose(FRUIT)

    assert chosen.examples[0].text == "Answer: 5"
    assert chosen.rejected[0][1] == "2 samples do not agree"
    assert model.calls == 4


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_question_tokens": 3}, "the question has"),
        ({"max_steps": 1}, "the chain has 2 lines"),
    ],
)
def test_what_would_cost_too_much_in_every_call_is_rejected(options: Any, why: str) -> None:
    how, model = demonstrations(k=1, tries=2, **options)

    chosen = how.choose(FRUIT, golds=GOLDS[:6])

    assert chosen.examples == ()
    assert [reason.startswith(why) for _, reason in chosen.rejected] == [True, True]
    assert "1 of 1 clusters had no question" in chosen.reason
    assert model.calls == (0 if "question" in why else 2)


async def test_a_spent_budget_ends_the_search_with_what_was_found() -> None:
    how, model = demonstrations()
    guard = BudgetGuard([Budget("few", calls=1)])

    chosen = how.choose(FRUIT + DATES, golds=GOLDS, config={"callbacks": [BudgetHandler(guard)]})
    later = await how.achoose(
        FRUIT + DATES, golds=GOLDS, config={"callbacks": [AsyncBudgetHandler(guard)]}
    )

    assert (len(chosen.examples), len(later.examples), model.calls) == (1, 0, 1)
    assert "few" in chosen.reason


@pytest.mark.parametrize(
    ("questions", "golds", "says"),
    [
        (["one?"], None, "at least 2 questions"),
        ("one?", None, "at least 2 questions"),
        (FRUIT, [1], "one right answer a question"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(questions: Any, golds: Any, says: str) -> None:
    how, _ = demonstrations()

    with pytest.raises(ConfigurationError, match=says):
        how.choose(questions, golds=golds)


@pytest.mark.parametrize("options", [{"k": 0}, {"tries": 0}, {"agree": 1}])
def test_numbers_that_choose_nothing_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected k and tries of at least 1"):
        demonstrations(**options)
