"""How quick and how exact are token counts?

Peers: tiktoken with OpenAI's own file (rebuilt offline from the vocabulary in toktok-rs and checked
by its digest), and langchain-core's `count_tokens_approximately`. Target: at least 4 times tiktoken
with the extra `fast`, with the same counts.
"""

import base64
import hashlib
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiktoken
import toktok
from langchain_core.messages import HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from measure import alternate, arguments, ratio, shown, table

from langchain_tokenopt.tokens.estimator import Estimator
from langchain_tokenopt.tokens.fast import ToktokEncoding
from langchain_tokenopt.tokens.official import OFFICIAL_FILES

HERE = Path(__file__).resolve().parent
SOURCES = sorted((HERE.parent / "langchain_tokenopt").rglob("*.py"))
PROSE = (HERE.parent / "langchain_tokenopt" / "demo" / "handbook.md").read_text()
SAMPLES = {
    "English prose": PROSE,
    "Python": "\n".join(file.read_text() for file in SOURCES[:20]),
    "JSON": (HERE.parent / "langchain_tokenopt" / "demo" / "traffic.jsonl").read_text()[:60_000],
    "Chinese": "退货在收到包裹后三十天内免费。请保留包装。我们会在五个工作日内退款。" * 200,
    "Russian": "Возврат посылки бесплатный в течение тридцати дней после получения. " * 200,
    "German": "Die Rückgabe eines Pakets ist innerhalb von dreißig Tagen kostenlos. " * 200,
}


def official() -> tiktoken.Encoding:
    """Return tiktoken's o200k_base without a network."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        encoding = toktok._encoding("o200k_base")
        content = b"".join(
            base64.b64encode(encoding.decode_single_token_bytes(n)) + b" %d\n" % n
            for n in range(len(encoding.token_byte_values()))
        )
        file = OFFICIAL_FILES["o200k_base"]
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert file.path is not None
        file.path.write_bytes(content)
        return tiktoken.get_encoding("o200k_base")


def pieces(text: str, length: int, count: int) -> list[str]:
    """Cut distinct texts, so that nothing can be remembered."""
    starts = [random.randrange(max(len(text) - length, 1)) for _ in range(count)]
    return [text[start : start + length] for start in starts]


def speed(reference: tiktoken.Encoding, *, rounds: int) -> None:
    """Compare counts a second on texts of three lengths."""
    ours = ToktokEncoding("o200k_base")
    mixed = "\n".join(SAMPLES.values())
    random.seed(7)
    rows = []
    for name, length, count in (
        ("40 characters", 40, 500),
        ("230", 230, 200),
        ("20,000", 20_000, 5),
    ):
        texts = pieces(mixed, length, count)
        assert all(ours.count(t) == len(reference.encode_ordinary(t)) for t in texts)
        estimate = Estimator("o200k_base")
        taken = alternate(
            {
                "ours": _each(ours.count, texts),
                "tiktoken": _each(lambda text: len(reference.encode_ordinary(text)), texts),
                "estimate": _each(estimate.count, texts),
            },
            rounds=rounds,
            times=1,
        )
        size = sum(len(text.encode()) for text in texts)
        rates = {k: f"{size / min(v) / 1e6:,.1f} MB/s" for k, v in taken.items()}
        rows.append(
            [
                name,
                rates["ours"],
                rates["tiktoken"],
                shown(ratio(taken["tiktoken"], taken["ours"])),
                rates["estimate"],
            ]
        )
    table(
        "Counting in o200k_base (target: at least 4 times tiktoken); every count is the same",
        ["texts of", "fast (toktok-rs)", "tiktoken", "times quicker (95%)", "our estimator"],
        rows,
    )


def _each(count: Callable[[str], int], texts: list[str]) -> Callable[[], object]:
    return lambda: [count(text) for text in texts]


def errors(reference: tiktoken.Encoding, *, count: int) -> None:
    """Compare estimates with the counts."""
    estimate = Estimator("o200k_base")

    def approximate(text: str) -> int:
        return count_tokens_approximately([HumanMessage(text)], extra_tokens_per_message=0.0)

    rows = []
    for name, text in SAMPLES.items():
        texts = pieces(text, 600, count)
        exact = [len(reference.encode_ordinary(each)) for each in texts]
        row: list[Any] = [name]
        for counter in (estimate.count, approximate):
            off = [counter(t) / n - 1 for t, n in zip(texts, exact, strict=True)]
            row.append(f"{statistics.mean(off):+.0%}, {statistics.mean(map(abs, off)):.0%}")
        rows.append(row)
    table(
        "Estimates of texts of 600 characters: mean error, mean absolute error",
        ["texts", "our estimator", "core count_tokens_approximately"],
        rows,
    )


def main() -> None:
    """Measure speed and error."""
    quick = arguments(__doc__).quick
    reference = official()
    speed(reference, rounds=5 if quick else 40)
    errors(reference, count=20 if quick else 200)


if __name__ == "__main__":
    main()
