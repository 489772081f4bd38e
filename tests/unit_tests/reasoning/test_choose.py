"""Which technique is chosen, for how many tokens, and what is said where it cannot be told."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_tokenopt.calls import Usage
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.bench import EvaluatedSample
from langchain_tokenopt.reasoning.choose import (
    TechniqueChoice,
    achoose_technique,
    choose_technique,
    default_techniques,
)
from langchain_tokenopt.reasoning.metrics import LabelledSample, typed_equality
from langchain_tokenopt.reasoning.objective import FewestTokens, HighestScore, Objective
from langchain_tokenopt.reasoning.race import Race
from langchain_tokenopt.reasoning.result import ReasoningUsage, StepUsage
from langchain_tokenopt.reasoning.sequential import Interval
from langchain_tokenopt.testing import ScriptedModel

SAMPLES = [LabelledSample(f"question {i}", "yes") for i in range(300)]


def technique(share: float, *, words: int, salt: str = "") -> ScriptedModel:
    """Return a model that is right on about so many questions, in so many words."""

    def answer(messages: list[Any]) -> str:
        right = random.Random(messages[-1].text + salt).random() < share
        return "so " * (words - 1) + "\nAnswer: " + ("yes" if right else "no")

    return ScriptedModel([answer], when_exhausted="repeat_last")


def choose(techniques: Any, **options: Any) -> TechniqueChoice:
    return choose_technique(techniques, **{"samples": SAMPLES, "budget": 200_000, **options})


def test_the_cheapest_that_is_as_good_is_chosen_and_the_rest_of_the_samples_left() -> None:
    short, long = technique(0.9, words=5), technique(0.9, words=50)

    choice = choose({"long": long, "short": short})

    assert (choice.name, choice.certain) == ("short", True)
    assert choice.technique is short
    assert short.calls < 200
    assert choice.usage.total_tokens == sum(e.spent.total_tokens for e in choice.evaluations)


def test_a_technique_that_earns_its_tokens_is_chosen() -> None:
    choice = choose({"short": technique(0.5, words=5), "long": technique(0.95, words=50)})

    assert (choice.name, choice.certain) == ("long", True)
    assert "shown to be below that of long by more than 5.0%" in choice.dropped["short"]
    assert len(choice.evaluations[0].rows) < 100


def test_a_bad_one_is_dropped_while_the_others_go_on() -> None:
    bad, short, long = (technique(s, words=w) for s, w in ((0.2, 60), (0.9, 5), (0.9, 50)))

    choice = choose({"bad": bad, "short": short, "long": long})

    assert choice.name == "short"
    assert bad.calls < short.calls / 2


def test_the_best_under_a_cap_of_tokens_is_chosen() -> None:
    techniques = {
        "bad": technique(0.3, words=5),
        "good": technique(0.8, words=20, salt="other"),
        "dear": technique(0.99, words=200),
    }

    capped = choose(techniques, objective=HighestScore(max_tokens=100))
    free = choose(techniques, objective=HighestScore())
    none = choose(techniques, objective=HighestScore(max_tokens=3))

    assert (capped.name, capped.certain) == ("good", True)
    assert capped.dropped["dear"] == "uses more than 100 tokens a question"
    assert free.name == "dear"
    assert (none.name, none.technique, none.certain) == (None, None, False)
    assert none.report().startswith("Nothing is chosen. None of them can be taken.")


def test_too_few_samples_are_called_too_few() -> None:
    choice = choose(
        {"a": technique(0.8, words=5), "b": technique(0.8, words=9, salt="b")},
        samples=SAMPLES[:20],
    )

    assert not choice.certain
    assert "the 20 samples were too few to tell: its score may be up to" in choice.reason
    assert choice.report().startswith("Chosen, not certain: ")


def test_the_report_shows_scores_and_tokens_with_intervals() -> None:
    report = str(choose({"short": technique(0.5, words=5), "long": technique(0.95, words=50)}))

    assert report.startswith("Chosen: long. The others are shown not to be the answer.")
    row = next(line for line in report.splitlines() if line.startswith("| long"))
    assert row.count(" to ") == 2
    assert "**chosen**" in row
    assert "of 200,000 tokens were used" in report


def test_a_scarce_budget_halves_and_says_so() -> None:
    techniques = {f"t{i}": technique(i / 8, words=20 + i, salt=str(i)) for i in range(8)}

    choice = choose(techniques, budget=3_000)

    assert choice.usage.total_tokens <= 3_000
    assert not choice.certain
    assert any("ranked in the lower half" in why for why in choice.dropped.values())
    assert choice.name is not None
    assert len(choice.evaluations[int(choice.name[1:])].rows) > 3_000 / (8 * 30)


def test_one_that_the_budget_cannot_pay_does_not_keep_the_others_from_running() -> None:
    dear = technique(0.9, words=20).bind(max_tokens=50_000)

    choice = choose({"dear": dear, "short": technique(0.9, words=5)}, budget=10_000)

    assert choice.name == "short"
    assert choice.dropped == {"dear": "the budget could not pay for its first sample"}


def test_a_budget_for_nothing_chooses_nothing() -> None:
    model = technique(0.9, words=5)

    choice = choose({"only": model}, budget=10)

    assert (choice.name, choice.certain, model.calls) == (None, False, 0)


@settings(max_examples=25)
@given(budget=st.integers(1, 20_000), seed=st.integers(0, 99))
def test_the_budget_is_never_exceeded(budget: int, seed: int) -> None:
    rng = random.Random(seed)
    techniques = {
        name: technique(rng.random(), words=rng.randint(1, 60), salt=name) for name in "abc"
    }

    choice = choose(techniques, budget=budget, samples=SAMPLES[:60])

    assert choice.usage.total_tokens <= budget


async def test_the_same_comes_of_achoose_technique() -> None:
    def both() -> dict[str, ScriptedModel]:
        return {"short": technique(0.5, words=5), "long": technique(0.95, words=50)}

    one = choose_technique(both(), SAMPLES, budget=50_000)
    other = await achoose_technique(both(), SAMPLES, budget=50_000)

    assert (one.name, one.reason, one.usage) == (other.name, other.reason, other.usage)
    assert one.report() == other.report()


def test_the_order_of_the_samples_is_the_callers() -> None:
    model = technique(0.9, words=5)
    choose({"only": model}, samples=SAMPLES[:8], order=random.Random(7))

    asked = [request[-1].text for request in model.requests]

    assert sorted(asked) == sorted(str(sample.input) for sample in SAMPLES[:8])
    assert asked != sorted(asked)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: choose({}), "at least one technique"),
        (lambda: choose({"a": technique(1, words=3)}, samples=[]), "at least one labelled"),
        (lambda: choose({"a": technique(1, words=3)}, budget=0), "above 0"),
        (lambda: FewestTokens(margin=0), "above 0"),
        (lambda: HighestScore(max_tokens=0), "above 0"),
        (lambda: HighestScore(margin=-0.1), "difference of scores"),
        (lambda: Race(["a"], objective=FewestTokens(), confidence=2), "between 0 and 1"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_the_default_techniques_can_be_chosen_from_and_may_lose_to_none() -> None:
    def answer(messages: list[Any]) -> str:
        brief = "Do not explain" in messages[0].text
        return "Answer: 4" if brief else "Let me think about it step by step.\nAnswer: 4"

    model = ScriptedModel([answer], when_exhausted="repeat_last")
    samples = [LabelledSample("2 + 2?", "4")] * 200

    choice = choose_technique(
        default_techniques(model, answer=extract.number),
        samples,
        budget=200_000,
        metric=typed_equality(extract.number),
    )

    assert (choice.name, choice.certain) == ("none", True)
    tokens = {found.name: found.tokens or 0 for found in choice.evaluations}
    assert tokens["none"] < tokens["full"] < tokens["self_consistency"]


TEN_TOKENS = ReasoningUsage(rows=(StepUsage(step="s", model="m", usage=Usage(output=10)),))


def row(*, right: bool) -> EvaluatedSample:
    return EvaluatedSample(sample=SAMPLES[0], score=float(right), usage=TEN_TOKENS)


@pytest.mark.parametrize("objective", [FewestTokens(margin=0.02), HighestScore(margin=0.0)])
def test_equals_are_seldom_told_apart_however_often_one_looks(objective: Objective) -> None:
    rng, wrong = random.Random(3), 0
    for _ in range(60):
        rows: dict[str, list[EvaluatedSample]] = {"a": [], "b": []}
        race = Race(list(rows), objective=objective, confidence=0.8)
        for _ in range(20):
            for kept in rows.values():
                kept.extend(row(right=rng.random() < 0.5) for _ in range(8))
            race.look(rows)
        wrong += bool(race.dropped)

    assert wrong <= 0.2 * 60


def rows_of(tokens: int, n: int = 16, *, right: bool = True) -> list[EvaluatedSample]:
    used = ReasoningUsage(
        rows=(StepUsage(step="s", model="m", usage=Usage(output=tokens)),),
    )
    return [EvaluatedSample(sample=SAMPLES[0], score=float(right), usage=used) for _ in range(n)]


def test_where_nothing_uses_fewer_tokens_the_start_stays() -> None:
    rows = {"start": rows_of(10), "other": rows_of(10)}
    race = Race(list(rows), objective=FewestTokens(), start="start")
    race.look(rows)

    verdict = race.winner()

    assert verdict is not None
    assert (verdict.name, verdict.certain) == ("start", True)
    assert verdict.reason == "nothing else uses fewer tokens"
    assert race.guess() == verdict
    assert race.difference("start", "start") == Interval(0.0, 0.0)


def test_a_start_that_the_budget_cannot_pay_stays_and_nothing_is_shown() -> None:
    race = Race(["start", "other"], objective=FewestTokens(), start="start")
    race.leave_out("start", "the budget could not pay for its first sample")

    verdict = race.winner()

    assert verdict is not None
    assert (verdict.name, verdict.certain) == ("start", False)
    assert verdict.reason == "the budget could not pay for its first sample"


def test_without_a_sample_of_each_nothing_can_be_guessed() -> None:
    race = Race(["a", "b"], objective=HighestScore())
    race.look({"a": rows_of(10)})

    verdict = race.guess()

    assert (verdict.name, verdict.certain) == (None, False)
    assert verdict.reason == "the budget could not pay for one sample of each"


def test_where_all_seem_above_the_cap_none_is_guessed() -> None:
    rows = {"a": rows_of(10, n=4), "b": rows_of(12, n=4)}
    race = Race(list(rows), objective=HighestScore(max_tokens=5))
    race.look(rows)

    verdict = race.guess()

    assert (verdict.name, verdict.certain) == (None, False)
    assert verdict.reason == "all use more than 5 tokens a question"
