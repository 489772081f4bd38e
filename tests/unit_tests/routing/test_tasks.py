"""Kinds of tasks: how they are told, what they cost, and where they start."""

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage

from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing import Cascade, Tier
from langchain_tokenopt.routing.profiles import (
    TASKS,
    TaskLengths,
    TaskProfile,
    estimate_cost,
)
from langchain_tokenopt.routing.tasks import TaskClassifier, by_task
from langchain_tokenopt.testing import ScriptedModel

CLASSIFIER = TaskClassifier(StaticEmbeddings())


@pytest.mark.parametrize(
    ("question", "task"),
    [
        ("Write a Go function that reads a file.", "code"),
        ("Summarise this blog post in two sentences.", "summarisation"),
        ("Is this product review positive or negative?", "classification"),
        ("Write a short story about a dragon and a lighthouse.", "creative writing"),
        ("Prove that the sum of two even numbers is even.", "complex reasoning"),
    ],
)
async def test_a_question_is_told_by_its_likeness_to_examples(question: str, task: str) -> None:
    assert CLASSIFIER.classify(question).task == task
    assert await CLASSIFIER.aclassify(question) == CLASSIFIER.classify(question)


@pytest.mark.parametrize("question", ["Wo ist der Bahnhof?", "zxcv qwer", "42"])
def test_what_is_like_no_kind_is_left_undecided(question: str) -> None:
    match = CLASSIFIER.classify(question)

    assert match.task is None
    assert "like" in match.reason


def test_many_questions_are_embedded_at_once() -> None:
    class Counting(StaticEmbeddings):
        calls = 0

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            Counting.calls += 1
            return super().embed_documents(texts)

    classifier = TaskClassifier(Counting())

    matches = classifier.classify_all(["Write a SQL query.", "Summarise this text."] * 5)

    assert len(matches) == 10
    assert Counting.calls == 2  # the examples, and the questions


def test_profiles_of_ones_own_are_told_apart() -> None:
    mine = [
        TaskProfile(name="returns", examples=("Send it back?", "Refund my order.", "Return this.")),
        TaskProfile(name="hours", examples=("When do you open?", "Opening hours?", "Open Sunday?")),
    ]

    classifier = TaskClassifier(StaticEmbeddings(), mine, abstain=0)

    assert classifier.classify("What are the opening hours on Sunday?").task == "hours"


@pytest.mark.parametrize(
    ("profiles", "says"),
    [
        (TASKS[:1], "two or more kinds"),
        ([TASKS[0], TASKS[0]], "different names"),
        ([TASKS[0], TaskProfile(name="x", examples=("a", "b"))], "too few examples"),
    ],
)
def test_kinds_that_cannot_be_told_apart_are_refused(profiles: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        TaskClassifier(StaticEmbeddings(), profiles)


@pytest.mark.parametrize(
    "wrong", [{"examples": ()}, {"examples": (" ",)}, {"complexity": 2}, {"output_tokens": 0}]
)
def test_a_profile_that_says_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        TaskProfile(**{"name": "x", "examples": ("a",), **wrong})


def price(model: str, read: int, written: int) -> Decimal | None:
    return None if model == "unknown" else Decimal(read + 10 * written)


def test_a_cost_is_counted_input_and_expected_output() -> None:
    profile, asked = TASKS[0], [HumanMessage("Is it spam?")]
    lengths = TaskLengths()

    before = estimate_cost(asked, profile, model="gpt-5-mini", price=price, lengths=lengths)
    lengths.observe(profile.name, "gpt-5-mini", 30)
    after = estimate_cost(asked, profile, model="gpt-5-mini", price=price, lengths=lengths)

    assert (before.output_tokens, before.seen) == (profile.output_tokens, 0)
    assert (after.output_tokens, after.seen) == (30, 1)
    assert after.cost == Decimal(after.input_tokens + 300)
    unknown = estimate_cost(asked, profile, model="unknown", price=price)
    assert unknown.cost is None


def model_of(name: str) -> ScriptedModel:
    return ScriptedModel([name], when_exhausted="repeat_last")


async def test_kinds_of_tasks_start_at_their_tiers() -> None:
    start = by_task(CLASSIFIER, {"code": "large", "complex reasoning": "large"})
    cascade = Cascade(
        [Tier("small", model_of("small")), Tier("large", model_of("large"))], start=start
    )

    code = cascade.invoke("Write a Python function that sorts a list.")
    other = await cascade.ainvoke("Summarise this email thread.")

    assert (code.text, other.text) == ("large", "small")
    assert code.response_metadata["tokenopt_cascade"]["route"] == "like examples of code"


async def test_asynchronous_graphs_embed_without_blocking() -> None:
    class OnlyAsync(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise AssertionError("the event loop would be blocked")

        def embed_query(self, text: str) -> list[float]:
            raise AssertionError("the event loop would be blocked")

        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            return StaticEmbeddings().embed_documents(texts)

    start = by_task(TaskClassifier(OnlyAsync()), {"code": "large"})
    cascade = Cascade(
        [Tier("small", model_of("small")), Tier("large", model_of("large"))], start=start
    )

    assert (await cascade.ainvoke("Write a Python function.")).text == "large"


def test_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no kind of task is called poetry"):
        by_task(CLASSIFIER, {"poetry": "large"})
