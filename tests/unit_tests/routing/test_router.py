"""The router before any call: what it learns, that it is saved whole, and what it refuses."""

import asyncio
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from pydantic import TypeAdapter
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.gate_model import mark_of
from langchain_tokenopt.routing.router import GainRouter, fit_router

SUMS = [f"What is {n} + {n + 3}?" for n in range(60)]
PROOFS = [f"Prove by induction that statement {n} holds for all primes." for n in range(60)]
GAINS = [0.0] * 60 + [1.0] * 60


class OneAxis(Embeddings):
    """Proofs on one axis, the rest on the other."""

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float("rove" in text), float("rove" not in text)] for text in texts]

    @override
    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def test_questions_where_the_strong_model_gains_get_the_lower_score() -> None:
    router = fit_router(SUMS + PROOFS, GAINS)

    easy, hard = router.scores(["What is 8 + 9?", "Prove that there are infinitely many primes."])

    assert hard < easy - 0.2


def test_it_learns_the_gain_and_not_whether_the_small_model_is_right() -> None:
    # Riddles are answered by neither model, sums by both, proofs by the strong one alone.
    riddles = [f"What have I in pocket {n}?" for n in range(60)]
    router = fit_router(SUMS + riddles + PROOFS, [0.0] * 120 + [1.0] * 60)

    riddle, proof = router.scores(["What have I in pocket 7?", "Prove by induction that 7 holds."])

    assert riddle > proof + 0.2


def test_noise_is_not_learnt() -> None:
    draws = random.Random(0)
    questions = [f"{draws.random()} {draws.random()}" for _ in range(200)]
    router = fit_router(questions, [float(draws.random() < 0.3) for _ in questions])

    scores = router.scores([f"{draws.random()}" for _ in range(50)])

    assert max(scores) - min(scores) < 0.2


def test_an_embedding_is_read_where_it_was_fitted_with_one() -> None:
    router = fit_router(SUMS + PROOFS, GAINS, embeddings=OneAxis())

    assert router.dimensions == 2
    assert router.score("xyz", embeddings=OneAxis()) > router.score("rove", embeddings=OneAxis())


def test_other_embeddings_or_none_are_refused() -> None:
    router = fit_router(SUMS + PROOFS, GAINS, embeddings=OneAxis())

    with pytest.raises(ConfigurationError, match="of 2 dimensions, got 0"):
        router.score("2 + 2?")
    with pytest.raises(ConfigurationError, match="of 2 dimensions, got 5"):
        router.score("2 + 2?", embeddings=DeterministicFakeEmbedding(size=5))


@pytest.mark.parametrize("embeddings", [None, OneAxis()])
def test_the_asynchronous_score_is_the_same(embeddings: Embeddings | None) -> None:
    router = fit_router(SUMS + PROOFS, GAINS, embeddings=embeddings)

    for question in ("What is 8 + 9?", "Prove it.", ""):
        later = asyncio.run(router.ascore(question, embeddings=embeddings))
        assert later == router.score(question, embeddings=embeddings)


def test_a_saved_router_scores_the_same() -> None:
    router = fit_router(SUMS + PROOFS, GAINS)
    codec = TypeAdapter(GainRouter)

    again = codec.validate_json(codec.dump_json(router))

    assert again.score("What is 8 + 9?") == router.score("What is 8 + 9?")
    assert mark_of(SUMS[0]) in again.fitted_on


def test_a_score_is_the_same_in_every_process() -> None:
    code = (
        "from langchain_tokenopt.routing.router import fit_router\n"
        "sums = [f'What is {n} + {n + 3}?' for n in range(60)]\n"
        "proofs = [f'Prove statement {n}.' for n in range(60)]\n"
        "router = fit_router(sums + proofs, [0.0] * 60 + [1.0] * 60)\n"
        "print(round(router.score('Prove that 8 + 9 is a sum.'), 6))\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(told) == 1


ROUTER = fit_router(SUMS + PROOFS, GAINS)


@given(st.text(max_size=500))
def test_any_text_gets_a_score_from_0_to_1(text: str) -> None:
    assert 0 <= ROUTER.score(text) <= 1


def test_no_questions_get_no_scores() -> None:
    assert ROUTER.scores([]) == []


@pytest.mark.parametrize(
    ("questions", "gains", "told"),
    [
        (SUMS[:49], GAINS[:49], "at least 50 questions"),
        (SUMS, GAINS, "60 questions and 120 gains"),
        (SUMS, [2.0] * 60, "from -1 to 1, got 2.0 to 2.0"),
        (SUMS, [float("nan")] * 60, "from -1 to 1"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    questions: list[str], gains: list[float], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        fit_router(questions, gains)


def test_coefficients_that_do_not_match_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="fit again"):
        GainRouter(weights=(1.0,), intercept=0.0, means=(), scales=(), dimensions=0)
