"""How far are forecasts of spend off, and how often do their intervals hold? And answers' lengths?

Spend: generated series of 70, 28 and 14 days with weekly patterns, trends, a shift of level, zero
days, gaps and bursts, of which the next 14 are forecast; and the arrivals of the Mooncake trace
(one hour of a chat service), as tokens in spans of 30 seconds, with no pattern. Errors are MASE:
the mean absolute error by that of the seasonal naive forecast within the history (of the last
value where there is no season). Baselines take their intervals from their own past errors.
Intervals are of 80%; those of shares are Wilson's, over series, since days of one series are not
independent.

Answers: predicted before the call on halves of recorded calls that the model did not see, five
splits by question; the trace's later half by its earlier one. Needs `--data` or TOKENOPT_DATA for
the recorded parts.
"""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from measure import data_arguments, has_recorded, json_rows, table

from langchain_tokenopt.advisor.forecast import SpendSeries, forecast
from langchain_tokenopt.advisor.output_length import (
    OutputExample,
    PromptFacts,
    measure_output_length,
)
from langchain_tokenopt.advisor.output_length_fit import fit_output_length
from langchain_tokenopt.reasoning.sequential import mean_interval, wilson_interval

AHEAD = 14
CONFIDENCE = 0.8
WEEK = (1.0, 1.1, 1.05, 1.0, 0.95, 0.4, 0.35)


@dataclass(frozen=True)
class Forecasted:
    """Days to come: the middle, the ends, and the ends of their sum."""

    middle: list[float]
    low: list[float]
    high: list[float]
    sum_low: float
    sum_high: float


Way = Callable[[Sequence[float | None], int | None], Forecasted]


def ours(history: Sequence[float | None], season: int | None) -> Forecasted:
    """Return the forecast of the package."""
    found = forecast(
        SpendSeries(
            name="",
            begins=date(2026, 1, 5),
            amounts=tuple(None if v is None else Decimal(f"{v:.6f}") for v in history),
        ),
        days=AHEAD,
        confidence=CONFIDENCE,
        season=season,
    )
    return Forecasted(
        middle=[float(day.expected) for day in found.days],
        low=[float(day.low) for day in found.days],
        high=[float(day.high) for day in found.days],
        sum_low=float(found.low),
        sum_high=float(found.high),
    )


def naive(guess: Callable[[Sequence[float], int], float]) -> Way:
    """Return a way that guesses each day, with intervals from the errors that it made before."""

    def way(history: Sequence[float | None], season: int | None) -> Forecasted:
        known = filled(history)
        middle = [guess(known, n) for n in range(AHEAD)]
        errors: list[list[float]] = [[] for _ in range(AHEAD)]
        sums: list[float] = []
        for end in range(max(len(known) // 2, 7), len(known)):
            past, later = known[:end], known[end : end + AHEAD]
            guesses = [guess(past, n) for n in range(len(later))]
            for n, (real, guessed) in enumerate(zip(later, guesses, strict=True)):
                errors[n].append(real - guessed)
            sums.append(statistics.fmean(later) - statistics.fmean(guesses))
        pooled = [error for some in errors for error in some] or [0.0]
        low, high = quantile(pooled, 0.1), quantile(pooled, 0.9)
        whole = sum(middle)
        return Forecasted(
            middle=middle,
            low=[max(m + low, 0.0) for m in middle],
            high=[m + high for m in middle],
            sum_low=whole + AHEAD * quantile(sums or [0.0], 0.1),
            sum_high=whole + AHEAD * quantile(sums or [0.0], 0.9),
        )

    return way


def filled(history: Sequence[float | None]) -> list[float]:
    """Return a history whose gaps hold what was last known."""
    last, found = 0.0, []
    for value in history:
        last = last if value is None else value
        found.append(last)
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return a nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


WAYS: dict[str, Way] = {
    "ours": ours,
    "seasonal naive": naive(lambda known, n: known[-7 + n % 7]),
    "last value": naive(lambda known, _: known[-1]),
    "mean of 28 days": naive(lambda known, _: statistics.fmean(known[-28:])),
}


def generated(kind: str, days: int, seed: int) -> tuple[list[float | None], list[float]]:
    """Return a history and what comes after it."""
    drawn = random.Random(seed)
    level, values = 100.0, []
    for day in range(days + AHEAD):
        level *= math.exp({"trend": 0.01, "walk": drawn.gauss(0, 0.06)}.get(kind, 0.0))
        value = level * drawn.lognormvariate(0, 0.3 if kind == "flat" else 0.15)
        value *= 1.0 if kind == "flat" else WEEK[day % 7]
        value *= 2.2 if kind == "shift" and day >= 0.6 * days else 1.0
        value *= 0.0 if kind == "zero days" and drawn.random() < 0.2 else 1.0
        value *= 4.0 if kind == "bursts" and drawn.random() < 0.05 else 1.0
        values.append(value)
    lost = [kind == "gaps" and drawn.random() < 0.15 for _ in range(days)]
    history = [None if gone else v for v, gone in zip(values[:days], lost, strict=True)]
    return history, values[days:]


KINDS = ("weekly", "flat", "trend", "walk", "shift", "zero days", "gaps", "bursts")


def spans(data: Path, *, seconds: int) -> list[float]:
    """Return the trace's tokens in each span."""
    found: dict[int, float] = {}
    for row in json_rows(data / "cache" / "mooncake_conversation_trace.jsonl.gz"):
        span = row["timestamp"] // (1_000 * seconds)
        found[span] = found.get(span, 0.0) + row["input_length"] + row["output_length"]
    return [found.get(n, 0.0) / 1e6 for n in range(max(found))]  # the last span is cut off


Case = tuple[Sequence[float | None], Sequence[float], int | None]


def show_spend(title: str, sets: dict[str, list[Case]], ways: dict[str, Way]) -> None:
    """Print errors and coverage of each way on each set."""
    rows = []
    for name, cases in sets.items():
        for way_name, way in ways.items():
            errors, covered, whole = [], [], 0
            for history, later, season in cases:
                found = way(history, season)
                known = filled(history)
                lag = season or 1
                scale = statistics.fmean(
                    abs(a - b) for a, b in zip(known[lag:], known, strict=False)
                )
                off = statistics.fmean(abs(a - b) for a, b in zip(found.middle, later, strict=True))
                errors.append(off / max(scale, 1e-9))
                inside = [
                    low <= real <= high
                    for low, real, high in zip(found.low, later, found.high, strict=True)
                ]
                covered.append(statistics.fmean(inside))
                whole += found.sum_low <= sum(later) <= found.sum_high
            rows.append(
                [
                    name,
                    way_name,
                    mean(errors),
                    mean(covered, percent=True),
                    share(whole, len(cases)),
                ]
            )
    head = ["series", "way", "MASE", "days within 80%", "sums within 80%"]
    table(title, head, rows)


def mean(values: Sequence[float], *, percent: bool = False) -> str:
    """Return a mean with Student's interval."""
    found, interval = statistics.fmean(values), mean_interval(values)
    form = "{:.1%}" if percent else "{:.2f}"
    if interval is None:
        return form.format(found)
    low, high = (
        min(max(end, 0.0), 1.0 if percent else math.inf) for end in (interval.low, interval.high)
    )
    return f"{form} ({form} to {form})".format(found, low, high)


def share(found: int, of: int) -> str:
    """Return a share with its interval."""
    interval = wilson_interval(found, of)
    return f"{found / of:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def mooncake(data: Path) -> list[OutputExample]:
    """Return the trace's calls, which have no text."""
    return [
        OutputExample(
            facts=PromptFacts(input_tokens=row["input_length"]),
            output_tokens=row["output_length"],
        )
        for row in json_rows(data / "cache" / "mooncake_conversation_trace.jsonl.gz")
    ]


def recorded(data: Path, file: str) -> list[OutputExample]:
    """Return the calls of a file of questions; a feature is the question's set."""
    found = []
    for row in json_rows(data / "cascade" / file):
        for model, answer in row["models"].items():
            # Verified answers were picked out of a hundred, so are no single calls.
            if model.endswith("_verification") or not answer["out_tokens"][0]:
                continue
            name = row["id"].removeprefix("ra-").rpartition("_")[0]
            facts = PromptFacts(
                input_tokens=answer.get("in_tokens") or row["in_tokens"],
                model=model,
                feature=name,
                text=row["question"],
            )
            found.append(OutputExample(facts=facts, output_tokens=answer["out_tokens"][0]))
    return found


def show_answers(sets: dict[str, list[OutputExample]], *, splits: int) -> None:
    """Print errors of predictions beside those of what is typical."""
    rows = []
    for name, examples in sets.items():
        found: dict[str, list[tuple[float, float, float]]] = {}
        texts = sorted({each.facts.text for each in examples})
        for seed in range(splits if len(texts) > 1 else 1):
            if len(texts) > 1:
                random.Random(seed).shuffle(texts)
                chosen = set(texts[: len(texts) // 2])
                known = [each for each in examples if each.facts.text in chosen]
                new = [each for each in examples if each.facts.text not in chosen]
            else:
                known, new = examples[: len(examples) // 2], examples[len(examples) // 2 :]
            measured = measure_output_length(fit_output_length(known, seed=seed), new)
            found.setdefault("ours", []).append(
                (measured.mean_error, measured.covered, measured.mean_width)
            )
            for way, key in (("median of all", lambda _: ""), ("median of feature and model", _of)):
                found.setdefault(way, []).append(typical(known, new, key))
            whole = statistics.fmean(each.output_tokens for each in known)
            off = statistics.fmean(abs(each.output_tokens - whole) for each in new)
            found.setdefault("mean of all", []).append((off, math.nan, math.nan))
        for way, values in found.items():
            errors, covered, widths = (statistics.fmean(each) for each in zip(*values, strict=True))
            cells = ["-", "-"] if math.isnan(covered) else [f"{covered:.1%}", f"{widths:.0f}"]
            spread = [off for off, _, _ in values]
            rows.append(
                [name, way, f"{errors:.1f} ({min(spread):.1f} to {max(spread):.1f})", *cells]
            )
    head = ["calls", "way", "mean error in tokens (splits)", "within 90%", "width in tokens"]
    table("Tokens of answers, before the call", head, rows)


def _of(example: OutputExample) -> str:
    return f"{example.facts.feature}\n{example.facts.model}"


def typical(
    known: Sequence[OutputExample],
    new: Sequence[OutputExample],
    key: Callable[[OutputExample], str],
) -> tuple[float, float, float]:
    """Return error, coverage and width of the quantiles of each group, of all for small ones."""
    groups: dict[str, list[int]] = {}
    for each in known:
        groups.setdefault(key(each), []).append(each.output_tokens)
    everything = [each.output_tokens for each in known]
    errors, covered, widths = [], [], []
    for each in new:
        own = groups.get(key(each), everything)
        low, high = (quantile(own if len(own) >= 20 else everything, q) for q in (0.05, 0.95))
        errors.append(abs(each.output_tokens - statistics.median(own)))
        covered.append(low <= each.output_tokens <= high)
        widths.append(high - low)
    return statistics.fmean(errors), statistics.fmean(covered), statistics.fmean(widths)


def main() -> None:
    """Print tables."""
    given = data_arguments(__doc__)
    times = 2 if given.quick else 100
    for days in (28,) if given.quick else (70, 28, 14):
        sets: dict[str, list[Case]] = {
            kind: [(*generated(kind, days, seed), 7) for seed in range(times)] for kind in KINDS
        }
        title = f"Spend after {days} days, {times} series of each kind"
        show_spend(title, sets, WAYS)
    if not has_recorded(given.data, "cache"):
        return
    values = spans(given.data, seconds=30)
    step = 20 if given.quick else 2
    cases: list[Case] = [
        (values[:end], values[end : end + AHEAD], None)
        for end in range(28, len(values) - AHEAD + 1, step)
    ]
    unseasonal = {name: way for name, way in WAYS.items() if name != "seasonal naive"}
    title = f"Mooncake, tokens in 30 s: {len(cases)} origins of one hour, which are not independent"
    show_spend(title, {"Mooncake": cases}, unseasonal)
    answers = {"RouterArena": recorded(given.data, "routerarena_dev.jsonl.gz")}
    if not given.quick:
        answers["GSM8K"] = recorded(given.data, "gsm8k_dev.jsonl.gz")
        answers["Mooncake"] = mooncake(given.data)
    show_answers(answers, splits=1 if given.quick else 5)


if __name__ == "__main__":
    main()
