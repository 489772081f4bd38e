"""ReplayModel: recorded samples, drawn the same way every time."""

import asyncio
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from langchain_tokenopt.errors import ConfigurationError, LogFormatError, ScriptExhaustedError
from langchain_tokenopt.testing import RecordedQuestion, ReplayModel
from langchain_tokenopt.tokens import counter_for

TEN = tuple(f"sample {n}" for n in range(10))


def drawn(model: ReplayModel, question: str, times: int) -> list[str]:
    return [model.invoke(question).text for _ in range(times)]


def test_samples_are_drawn_without_repeating_one() -> None:
    model = ReplayModel([RecordedQuestion(question="q?", samples=TEN)])

    assert sorted(drawn(model, "q?", 10)) == sorted(TEN)


def test_the_same_seed_draws_the_same_whatever_else_is_asked() -> None:
    questions = [RecordedQuestion(question=q, samples=TEN) for q in ("q?", "other?")]
    alone = ReplayModel(questions, seed=1)
    mixed = ReplayModel(questions[::-1], seed=1)
    drawn(mixed, "other?", 4)

    assert drawn(alone, "q?", 5) == drawn(mixed, "q?", 5)
    assert drawn(ReplayModel(questions, seed=2), "q?", 10) != drawn(
        ReplayModel(questions, seed=1), "q?", 10
    )


def test_threads_and_tasks_draw_each_sample_once() -> None:
    model = ReplayModel([RecordedQuestion(question="q?", samples=TEN)])

    with ThreadPoolExecutor(5) as pool:
        first = list(pool.map(lambda _: model.invoke("q?").text, range(5)))

    async def ask() -> list[str]:
        return [a.text for a in await asyncio.gather(*(model.ainvoke("q?") for _ in range(5)))]

    assert sorted(first + asyncio.run(ask())) == sorted(TEN)


def test_n_samples_are_billed_for_one_prompt() -> None:
    recorded = RecordedQuestion(
        question="q?", samples=TEN, input_tokens=100, output_tokens=tuple(range(10))
    )
    model = ReplayModel([recorded])

    result = model.generate([[HumanMessage("q?")]], n=10).generations[0]

    usages = [generation.message.usage_metadata for generation in result]  # type: ignore[union-attr]
    assert {generation.text for generation in result} == set(TEN)
    assert usages[0] == {"input_tokens": 100, "output_tokens": 45, "total_tokens": 145}


def test_usage_is_recorded_where_it_was_and_counted_where_not() -> None:
    samples = ("one two",)
    full = RecordedQuestion(question="q?", samples=samples, input_tokens=7, output_tokens=(3,))
    part = RecordedQuestion(question="q?", samples=samples, input_tokens=7)

    recorded = ReplayModel([full]).invoke("q?")
    partly = ReplayModel([part]).invoke("q?")
    counted = ReplayModel([full], usage="counted", model_name="gpt-4o").invoke("q?")

    assert recorded.usage_metadata == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    assert recorded.response_metadata["usage_source"] == "recorded"
    assert partly.response_metadata["usage_source"] == "partly recorded"
    assert counted.response_metadata["usage_source"] == "counted"
    assert counted.usage_metadata is not None
    assert counted.usage_metadata["output_tokens"] == counter_for("gpt-4o").count_text("one two")


def test_the_question_is_found_inside_a_prompt_and_the_longest_wins() -> None:
    model = ReplayModel(
        [
            RecordedQuestion(question="2 + 2", samples=("short",)),
            RecordedQuestion(question="2 + 2 + 2", samples=("long",)),
        ]
    )

    assert model.invoke("Think step by step. 2 + 2 + 2 = ?").text == "long"


def test_an_unknown_question_is_an_error() -> None:
    model = ReplayModel([RecordedQuestion(question="q?", samples=("a",))])

    with pytest.raises(ScriptExhaustedError, match="none of the 1 recorded questions"):
        model.invoke("something else")


def test_more_samples_than_recorded_are_refused_or_drawn_again() -> None:
    recorded = [RecordedQuestion(question="q?", samples=("a", "b"))]
    strict, cycling = ReplayModel(recorded), ReplayModel(recorded, when_exhausted="cycle")
    drawn(strict, "q?", 2)

    with pytest.raises(ScriptExhaustedError, match="3 samples were asked for and 2 recorded"):
        strict.invoke("q?")
    four = drawn(cycling, "q?", 4)
    assert four[:2] == four[2:]


def test_a_stream_adds_up_to_the_sample() -> None:
    text = "first line\nsecond line\n\nfourth"
    model = ReplayModel([RecordedQuestion(question="q?", samples=(text, text))])

    chunks = list(model.stream("q?"))

    assert "".join(chunk.text for chunk in chunks) == text
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"samples": ()}, "at least one sample"),
        ({"samples": ("a",), "output_tokens": (1, 2)}, "one output token count"),
    ],
)
def test_a_record_that_cannot_be_replayed_is_refused(arguments: dict, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        RecordedQuestion(question="q?", **arguments)


def test_a_question_recorded_twice_is_refused() -> None:
    record = RecordedQuestion(question="q?", samples=("a",))

    with pytest.raises(ConfigurationError, match="recorded twice"):
        ReplayModel([record, record])


def test_recordings_are_read_from_json_lines(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    rows = [
        {
            "question": "q?",
            "gold": 4,
            "in_tokens": 5,
            "models": {"m": {"samples": ["4"], "out_tokens": [1]}, "other": {"text": "5"}},
        },
        {"question": "r?", "models": {"other": {"text": "6"}}},
    ]
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    plain.write_text(lines)
    packed.write_bytes(gzip.compress(lines.encode()))

    model = ReplayModel.from_jsonl(plain, model="m")
    other = ReplayModel.from_jsonl(packed, model="other")

    assert [q.question for q in model.recorded] == ["q?"]
    assert model.recorded[0].gold == "4"
    assert model.invoke("q?").usage_metadata == {
        "input_tokens": 5,
        "output_tokens": 1,
        "total_tokens": 6,
    }
    assert other.invoke("r?").text == "6"


@pytest.mark.parametrize("line", ["not json", '["question"]', '{"samples": ["a"]}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"question": "q?", "samples": ["a"]}\n \n' + line + "\n")

    with pytest.raises(LogFormatError, match="line 3"):
        ReplayModel.from_jsonl(file)


def test_a_file_of_several_models_needs_one_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"question": "q?", "models": {"b": {"text": "1"}, "a": {"text": "2"}}}\n')

    with pytest.raises(ConfigurationError, match="one of a, b"):
        ReplayModel.from_jsonl(file)
    with pytest.raises(ConfigurationError, match="holds no samples of c"):
        ReplayModel.from_jsonl(file, model="c")


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("cascade/gsm8k_dev.jsonl.gz", "mixtral-8x7b"),
        ("cascade/routerarena_dev.jsonl.gz", "claude-3-haiku-20240307"),
        ("reasoning/ms_fcot_codex_date_ltm_40_dev.jsonl.gz", None),
        ("reasoning/mm_openai_gsm8k_4models_dev.jsonl.gz", "175b_verification"),
        ("reasoning/ms_tot_gpt4_game24_cot_100_dev.jsonl.gz", None),
        ("reasoning/tot_gpt4_game24_bfs_b5_dev.jsonl.gz", None),
    ],
)
def test_the_recorded_data_replays(recorded_data: Path, file: str, model: str | None) -> None:
    replay = ReplayModel.from_jsonl(recorded_data / file, model=model)
    first = replay.recorded[0]

    answer = replay.invoke(first.question)

    assert answer.text in first.samples
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
