"""Counts of text: equal to tiktoken's where tiktoken is the truth, labelled otherwise."""

import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.tokens import (
    Calibration,
    counter_for,
    encoding_of,
    fast,
    load_encoding,
    official,
)
from langchain_tokenopt.tokens import choice as choosing
from langchain_tokenopt.tokens.choice import choose_encoding
from langchain_tokenopt.tokens.encodings import TextEncoding, Unavailable
from langchain_tokenopt.tokens.estimator import Estimator
from langchain_tokenopt.tokens.known_ids import KNOWN_IDS, first_mismatch
from langchain_tokenopt.tokens.memo import RememberedCounts

ENCODINGS = ("o200k_base", "cl100k_base")
HERE = Path(__file__).resolve()
TEXTS = [
    "",
    " ",
    "The quick brown fox jumps over the lazy dog.",
    "don't I'LL we've",
    "def f(x):\n    return {'a': x ** 2}\n\n\n",
    '{"id": 12345, "tags": ["a", "b"], "nested": {"ok": true, "none": null}}',
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "https://example.test/a/b?c=d&e=%20#f",
    "Ünïcödé façade naïve Straße",
    "数学の問題を解いてください。答えは４です。",
    "안녕하세요 세계",
    "Привет, как дела?",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "ภาษาไทย",
    "🙂👍🏽👨‍👩‍👧‍👦🇩🇪",
    "<|endoftext|><|im_start|>system",
    "\r\n\t\v\f\u00a0\u2003\u200b\u2028",
    "a\x00b\x01\ufffd",
    "1234567890 3.14159 1,000,000 0x1F",
    "HTTPServerErrorXMLHttpRequest snake_case_name",
    "\u01c5\u02b0\u0300e\u0301",
    HERE.read_text(),
]


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which encoders were chosen."""
    monkeypatch.setattr(choosing, "_loaded", {})


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_counts_equal_tiktokens(
    text: str, name: str, reference: dict[str, tiktoken.Encoding]
) -> None:
    assert load_encoding(name).count(text) == len(reference[name].encode_ordinary(text))


@pytest.mark.parametrize("name", ENCODINGS)
def test_counts_of_any_text_equal_tiktokens(
    name: str, reference: dict[str, tiktoken.Encoding]
) -> None:
    @given(st.text())
    def law(text: str) -> None:
        assert load_encoding(name).count(text) == len(reference[name].encode_ordinary(text))

    law()


def every_block_of_unicode() -> Iterator[str]:
    """Yield 768 texts: the characters of each block bare, between words, and in runs."""
    for start in range(0, 0x10000, 0x100):
        characters = [chr(n) for n in range(start, start + 0x100) if not 0xD800 <= n < 0xE000]
        yield "".join(characters)
        yield " a".join(characters[::7])
        yield "".join(character * 3 for character in characters[::11])


@pytest.mark.parametrize("name", ENCODINGS)
def test_counts_of_every_block_of_unicode_equal_tiktokens(
    name: str, reference: dict[str, tiktoken.Encoding]
) -> None:
    encoding = load_encoding(name)

    wrong = [
        text
        for text in every_block_of_unicode()
        if encoding.count(text) != len(reference[name].encode_ordinary(text))
    ]

    assert wrong == []


@pytest.mark.parametrize("name", ENCODINGS)
def test_tiktokens_own_files_count_the_same_without_the_extra(
    name: str,
    official_files: Path,
    reference: dict[str, tiktoken.Encoding],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(official_files))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})

    encoding: Any = official.open_encoding(name)

    assert encoding.name == f"tiktoken/{name}"
    assert [encoding.count(text) for text in TEXTS] == [
        len(reference[name].encode_ordinary(text)) for text in TEXTS
    ]


def test_lone_surrogates_count_as_tiktoken_counts_them(
    reference: dict[str, tiktoken.Encoding],
) -> None:
    text = "a\ud83d b \udc00\ud83d\ude42"

    assert load_encoding("o200k_base").count(text) == len(
        reference["o200k_base"].encode_ordinary(text)
    )


# --- no network, no panic, no hang ------------------------------------------------------------


class NoNetworkError(AssertionError):
    """Something tried to open a connection."""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NoNetworkError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("fresh_choice", "no_network")
def test_without_files_and_extra_counts_are_estimated_and_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setitem(sys.modules, "toktok", None)
    monkeypatch.delitem(sys.modules, "langchain_tokenopt.tokens.fast", raising=False)

    with caplog.at_level(logging.WARNING):
        counters = [counter_for("gpt-5"), counter_for("gpt-4o")]
        counts = [counter.count_text("The quick brown fox") for counter in counters]

    assert all(count > 0 for count in counts)
    assert [(c.name, c.estimated) for c in counters] == [("estimate", True)] * 2
    told = [r.message for r in caplog.records]
    assert len(told) == 1
    assert 'pip install "langchain-tokenopt[fast]"' in told[0]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_openais_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    file = official.OFFICIAL_FILES["o200k_base"]
    assert file.path is not None
    file.path.write_bytes(b"aGVsbG8= 0\n")

    refused = official.open_encoding("o200k_base")

    assert isinstance(refused, Unavailable)
    assert refused.broken
    assert "is not OpenAI's file" in refused.reason


def test_a_vocabulary_that_tiktoken_may_not_keep_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})

    assert official.open_encoding("o200k_base") == Unavailable(
        reason="TIKTOKEN_CACHE_DIR is empty, so tiktoken keeps no files"
    )


@pytest.mark.usefixtures("no_network")
def test_a_vocabulary_that_is_not_there_is_absent_not_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})

    absent = official.open_encoding("cl100k_base")

    assert isinstance(absent, Unavailable)
    assert not absent.broken
    assert "cannot be read" in absent.reason


def test_without_the_extra_the_files_of_tiktoken_are_used(
    official_files: Path, fresh_choice: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(official_files))
    monkeypatch.setitem(sys.modules, "toktok", None)
    monkeypatch.delitem(sys.modules, "langchain_tokenopt.tokens.fast", raising=False)

    counter = counter_for("gpt-5")

    assert (counter.name, counter.estimated) == ("tiktoken/o200k_base", False)


class PanicException(BaseException):
    """What a panic of Rust code raises."""


class Fragile:
    """An encoder that panics at long texts, as tiktoken's did at other texts before."""

    name = "fragile"

    def encode_ordinary(self, text: str) -> list[int]:
        if len(text) > 1_000:
            raise PanicException
        return [0] * len(text)


def test_a_panic_is_met_by_counting_in_pieces() -> None:
    fragile: Any = Fragile()

    assert official.TiktokenEncoding(fragile).count("ab " * 5_000) == 15_000


def test_an_interrupt_while_counting_is_no_panic() -> None:
    class Interrupted(Fragile):
        def encode_ordinary(self, text: str) -> list[int]:
            raise KeyboardInterrupt

    interrupted: Any = Interrupted()

    with pytest.raises(KeyboardInterrupt):
        official.TiktokenEncoding(interrupted).count("ab " * 5_000)


def test_cutting_long_runs_changes_the_count_by_a_token_or_two(
    reference: dict[str, tiktoken.Encoding],
) -> None:
    text = "word " * 1_000 + "a" * 120_000 + " end"
    exact = len(reference["o200k_base"].encode_ordinary(text))

    counted = official.TiktokenEncoding(reference["o200k_base"]).count(text)

    assert abs(counted - exact) <= 2 * 2  # two cuts


@pytest.mark.parametrize("engine", ["fast", "tiktoken", "estimate"])
@pytest.mark.parametrize("character", ["a", " ", "\n", "1", "!", "\u00e9", "\u6570", "\U0001f642"])
def test_a_million_equal_characters_neither_panic_nor_hang(
    engine: str,
    character: str,
    reference: dict[str, tiktoken.Encoding],
    capfd: pytest.CaptureFixture[str],
) -> None:
    encodings: dict[str, Any] = {
        "fast": fast.ToktokEncoding("o200k_base"),
        "tiktoken": official.TiktokenEncoding(reference["o200k_base"]),
        "estimate": Estimator("o200k_base"),
    }
    count = encodings[engine].count(character * 1_000_000)

    assert 0 < count <= 3_000_000
    assert capfd.readouterr().err == ""  # where Rust reports a panic, even one that is caught


# --- encoders are not believed ----------------------------------------------------------------


class Bytes:
    """An encoder that lost its vocabulary: one token a byte, and no error."""

    name = "bytes"
    exact = True

    def ids(self, text: str) -> list[int]:
        return list(text.encode())

    def count(self, text: str) -> int:
        return len(text.encode())


def test_an_encoder_that_lost_its_vocabulary_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Bytes()
    assert first_mismatch("o200k_base", broken.ids, broken.count) is not None
    monkeypatch.setattr(fast, "ToktokEncoding", lambda name: broken)

    chosen = choose_encoding("o200k_base", engines=[fast.open_encoding])

    assert isinstance(chosen, Estimator)
    assert "not counting with a broken encoder" in caplog.text


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_known_ids_are_tiktokens(name: str, reference: dict[str, tiktoken.Encoding]) -> None:
    assert len(KNOWN_IDS[name]) >= 18
    for text, ids in KNOWN_IDS[name].items():
        assert tuple(reference[name].encode_ordinary(text)) == ids


def test_the_first_engine_that_has_the_encoding_is_taken() -> None:
    def absent(name: str) -> TextEncoding | Unavailable:
        return Unavailable(reason="not here")

    def present(name: str) -> TextEncoding | Unavailable:
        return Bytes()

    assert choose_encoding("o200k_base", engines=[absent, present]).name == "bytes"


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("gpt-5-mini", "o200k_base", True),
        ("gpt-6-sol", "o200k_base", True),
        ("openai/gpt-4o", "o200k_base", True),
        ("ft:gpt-4o:acme::1", "o200k_base", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("gpt-3.5-turbo-0125", "cl100k_base", True),
        ("text-embedding-3-large", "cl100k_base", True),
        ("o3", "o200k_base", True),
        ("text-davinci-003", "p50k_base", True),
        ("davinci", "r50k_base", True),
        ("text-davinci-edit-001", "p50k_edit", True),
        ("gpt2", "gpt2", True),
        ("gpt-oss-120b", "o200k_harmony", True),
        ("", "o200k_base", False),
        ("claude-sonnet-4-5", "o200k_base", False),
        ("gemini-2.5-pro", "o200k_base", False),
        (None, "o200k_base", True),
    ],
)
def test_a_model_reads_its_encoding(model: str | None, encoding: str, exact: bool) -> None:
    found = encoding_of(model)

    assert (found.name, found.exact) == (encoding, exact)
    assert counter_for(model).count_text("hello world") > 0


@pytest.mark.parametrize("model", ["text-davinci-003", "davinci", "gpt2", "text-davinci-edit-001"])
def test_an_old_model_whose_vocabulary_is_nowhere_here_is_estimated(model: str) -> None:
    counter = counter_for(model)

    assert counter.estimated
    assert counter.count_text("The quick brown fox jumps over the lazy dog.") == pytest.approx(
        10, abs=3
    )


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4", "gpt-3.5-turbo", "o1", "gpt-4.1-mini"])
def test_a_model_reads_what_tiktoken_says(model: str) -> None:
    assert encoding_of(model).name == tiktoken.encoding_name_for_model(model)


# --- estimates --------------------------------------------------------------------------------

SAMPLES = {
    "English": (
        "The return of a parcel is free within thirty days of its arrival. Please keep the "
        "packaging and write the number of your order on the form that came with it."
    ),
    "code": HERE.read_text()[2_000:4_000],
    "JSON": '{"order": {"id": "A-1042", "items": [{"sku": "B7", "n": 2}], "paid": true}}' * 5,
    "Chinese": "退货在收到包裹后三十天内免费。请保留包装。在表格上写下您的订单号码。" * 3,
    "Vietnamese": "Tôi muốn đặt lại mật khẩu của tài khoản này, xin hãy giúp tôi nhé. " * 3,
    "Russian": "Возврат посылки бесплатный в течение тридцати дней после её получения." * 3,
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_an_estimate_is_near_the_count(
    kind: str, name: str, reference: dict[str, tiktoken.Encoding]
) -> None:
    text = SAMPLES[kind]
    exact = len(reference[name].encode_ordinary(text))

    assert Estimator(name).count(text) == pytest.approx(exact, rel=0.35)


def test_a_calibration_moves_estimates_to_what_was_reported() -> None:
    calibration = Calibration()
    counter = counter_for("claude-sonnet-4-5", calibration=calibration)
    before = counter.count_text("word " * 100)

    for _ in range(50):
        calibration.observe("claude-sonnet-4-5", counted=1_000, reported=1_300)

    assert counter.count_text("word " * 100) == pytest.approx(1.3 * before, rel=0.02)
    assert counter_for("gpt-5", calibration=calibration).count_text("word " * 100) == before


@pytest.mark.parametrize(("counted", "reported"), [(0, 10), (10, 0), (-1, 10), (10, -5)])
def test_a_calibration_learns_nothing_from_a_missing_number(counted: int, reported: int) -> None:
    calibration = Calibration()

    calibration.observe("claude-sonnet-4-5", counted=counted, reported=reported)

    assert calibration.ratio("claude-sonnet-4-5") == 1.0


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1))
def test_a_calibrations_ratio_stays_among_those_observed(seen: list[tuple[int, int]]) -> None:
    calibration = Calibration()
    for counted, reported in seen:
        calibration.observe("m", counted=counted, reported=reported)

    ratios = [reported / counted for counted, reported in seen]
    assert min(ratios) * 0.999 <= calibration.ratio("m") <= max(ratios) * 1.001


@pytest.mark.parametrize("weight", [0, -0.1, 1.1, float("nan")])
def test_a_calibration_of_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(ConfigurationError, match="weight must be above 0"):
        Calibration(weight=weight)


@given(st.text())
def test_an_estimate_is_some_tokens_at_least_one_and_at_most_a_few_a_character(text: str) -> None:
    counted = Estimator("o200k_base").count(text)

    assert (counted > 0) == bool(text)
    assert counted <= 3 * len(text)


def test_an_exact_count_is_never_calibrated() -> None:
    calibration = Calibration()
    calibration.observe("gpt-5", counted=100, reported=300)

    calibrated = counter_for("gpt-5", calibration=calibration)

    assert calibrated.count_text("word " * 9) == counter_for("gpt-5").count_text("word " * 9)


def test_a_counter_learns_from_what_a_provider_reported() -> None:
    from langchain_core.messages import HumanMessage

    calibration = Calibration()
    counter = counter_for("claude-sonnet-4-5", calibration=calibration)
    request = [HumanMessage("word " * 200)]
    counted = counter.count_messages(request)

    for _ in range(50):
        counter.learn(request, reported=2 * counted)

    assert counter.count_messages(request) == pytest.approx(2 * counted, rel=0.02)


# --- what is remembered -----------------------------------------------------------------------


class Noting(Bytes):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def count(self, text: str) -> int:
        self.asked += 1
        return len(text)


def texts(n: int) -> Iterator[str]:
    return (f"{number} {'x' * 600}" for number in range(n))


def test_long_texts_are_counted_once_and_the_oldest_forgotten() -> None:
    encoding = Noting()
    remembered = RememberedCounts(encoding, max_entries=10)

    for text in [*texts(10), *texts(10)]:
        assert remembered.count(text) == len(text)
    assert encoding.asked == 10
    for text in texts(12):
        remembered.count(text)
    assert encoding.asked == 12
    assert len(remembered._counts) == 10


def test_an_encoding_that_tiktoken_has_no_file_of_is_told_so() -> None:
    found = official.open_encoding("p99k_base")

    assert isinstance(found, Unavailable)
    assert found.reason == "tiktoken's file of p99k_base is not known"
