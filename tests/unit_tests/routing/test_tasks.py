"""Kinds of tasks: how they are told, what they cost, and where they start."""

import math
import string
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from langchain_tokenopt.tokens import counter_for

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


async def test_no_questions_have_no_kinds() -> None:
    assert CLASSIFIER.classify_all([]) == []
    assert await CLASSIFIER.aclassify_all([]) == []


class InAPlane(Embeddings):
    """Embeds a number of degrees as the point at that angle."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        turns = [math.radians(float(text)) for text in texts]
        return [[math.cos(turn), math.sin(turn)] for turn in turns]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def angles(name: str, *degrees: float) -> TaskProfile:
    return TaskProfile(name=name, examples=tuple(map(str, degrees)))


def test_a_narrow_kind_takes_only_what_is_as_close_as_its_examples() -> None:
    wide = angles("wide", 90, 110, 130, 150, 170)
    narrow = angles("narrow", 0, 1, 2, 3, 4)
    classifier = TaskClassifier(InAPlane(), [wide, narrow])

    assert classifier.classify("2.5").task == "narrow"
    near = classifier.classify("-40")  # nearer than the outermost of `wide` are to the others
    assert (near.task, near.reason[:12]) == (None, "like no kind")
    assert classifier.classify("140").task == "wide"


def test_each_of_three_examples_is_measured_by_the_two_others() -> None:
    kinds = [angles("low", 0, 10, 60), angles("high", 200, 210, 260)]
    classifier = TaskClassifier(InAPlane(), kinds, abstain=0)

    least = (math.cos(math.radians(60)) + math.cos(math.radians(50))) / 2  # of 60 to 0 and 10
    near, far = classifier.classify("72"), classifier.classify("74")

    assert near.likeness > least > far.likeness
    assert (near.task, far.task) == ("low", None)


class OfLetters(Embeddings):
    """Embeds a word as the sum of its letters, each of which has a direction of its own."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(letter in text) for letter in string.ascii_lowercase] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def test_what_is_as_much_like_two_kinds_is_left_undecided() -> None:
    kinds = [
        TaskProfile(name="a", examples=("ap", "aq", "ar", "as")),
        TaskProfile(name="b", examples=("bt", "bu", "bv", "bw")),
    ]

    matches = TaskClassifier(OfLetters(), kinds).classify_all(["a", "b", "ab"])

    assert [match.task for match in matches] == ["a", "b", None]
    assert matches[2].reason.startswith("as much like")


@pytest.mark.parametrize("abstain", [0.0, 0.2])
def test_examples_that_do_not_tell_kinds_apart_decide_nothing(abstain: float) -> None:
    kinds = [angles("odd", 1, 3, 5, 7), angles("even", 0, 2, 4, 6)]
    classifier = TaskClassifier(InAPlane(), kinds, abstain=abstain)

    matches = classifier.classify_all([str(degrees) for degrees in range(60, 120, 10)])

    assert {match.task for match in matches} == {None}


@pytest.mark.parametrize("abstain", [-0.1, 1.0])
def test_a_share_to_abstain_that_is_none_is_refused(abstain: float) -> None:
    with pytest.raises(ConfigurationError, match="abstain is a share"):
        TaskClassifier(StaticEmbeddings(), abstain=abstain)


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


def test_an_estimate_names_each_tier_and_says_what_of_it_is_estimated() -> None:
    asked = [HumanMessage("Is it spam?")]
    models = {"small": "gpt-5-mini", "large": "claude-sonnet-4-5", "new": "unknown"}

    at = TASKS[0].estimate(asked, models=models, price=price)

    assert list(at) == ["small", "large", "new"]
    assert {tier: each.input_estimated for tier, each in at.items()} == {
        tier: counter_for(model).estimated for tier, model in models.items()
    }
    assert at["large"].input_estimated
    assert at["large"].cost == Decimal(at["large"].input_tokens + 10 * TASKS[0].output_tokens)
    assert at["new"].cost is None


def test_tools_that_are_offered_are_input() -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "query",
            "description": "Query the table of orders.",
            "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}},
        },
    }
    asked, models = [HumanMessage("How many?")], {"small": "gpt-5-mini"}

    plain = TASKS[0].estimate(asked, models=models, price=price)["small"]
    offered = TASKS[0].estimate(asked, models=models, price=price, tools=[tool])["small"]

    assert offered.input_tokens > plain.input_tokens


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=50))
def test_lengths_are_the_mean_of_what_was_seen_in_any_order(seen: list[int]) -> None:
    there, back = TaskLengths(), TaskLengths()
    for tokens in seen:
        there.observe("code", "gpt-5-mini", tokens)
    for tokens in reversed(seen):
        back.observe("code", "gpt-5-mini", tokens)
    profile = TaskProfile(name="code", examples=("Sort it.",))

    assert there.expected(profile, "gpt-5-mini") == back.expected(profile, "gpt-5-mini")
    assert there.expected(profile, "gpt-5-mini") == (round(sum(seen) / len(seen)), len(seen))
    assert there.expected(profile, "gpt-5.1") == (profile.output_tokens, 0)


def test_a_length_below_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not below 0, got -1"):
        TaskLengths().observe("code", "gpt-5-mini", -1)


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
