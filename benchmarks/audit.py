"""Does an audit's prediction come true, and how long does it take for a million calls?

Planted logs: each has its own mix, drawn at random, of same requests (popularity by Zipf's law),
like questions (an intent in several wordings), questions that never come again, static starts of
some length, broken by a time in the second line or not, failures, gaps and bursts. Half of the logs
report tokens and what was read from the provider's cache; the other half says nothing, and the
audit has to count.

The audit sees the first half of a log only. The held-back second half is played through the real
`MemoryCache` and `SemanticCache`, both empty at first as they were in the first half, in front of
a simulation of the provider's prompt cache by its published rule, which compares by 32 characters
where the audit does by 256; lines that change stand behind the rest in the optimised run, as
`[prompt_cache] volatile` has it. That is fair because neither half knows of the other, and hard
because the halves differ by chance. A prediction holds if the saving played lies in its interval.

Easy prompts: what moving truly easy questions (labels known) to a small model saves, against the
audit's bound.

Long conversations: what a real `ContextWindow` saves, behind the same simulation, on the same log.
It counts and keeps by groups of messages, where the audit goes by shares of characters.

The million: a log made on the fly, in a temporary folder, packed; time and memory of one process.
"""

import gzip
import json
import random
import resource
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

from langchain_core.load import dumps
from langchain_core.messages import AIMessage, convert_to_messages, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration
from measure import arguments, table

from langchain_tokenopt import counter_for
from langchain_tokenopt.accounting import GenaiPrices, Usage, cost_of
from langchain_tokenopt.advisor import read_log
from langchain_tokenopt.advisor.audit import AuditOptions, audit
from langchain_tokenopt.caches import MemoryCache, SemanticCache
from langchain_tokenopt.demo.traffic import bundled_traffic
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.prompts import ContextWindow, rule_for
from langchain_tokenopt.reasoning.sequential import wilson_interval
from langchain_tokenopt.testing import PromptCache

PRICES = GenaiPrices()
EMBEDDINGS = StaticEmbeddings()
TTL_S = 86_400.0
WORDINGS = (
    "How do I {}?", "How can I {}?", "What is the way to {}?", "How to {}?",
    "Can you tell me how to {}?", "What must I do to {}?",
)  # fmt: skip
VERBS = "change renew return track insure gift cancel block unlock move share print".split()
THINGS = "card order parcel invoice address account contract password voucher ticket".split()
EASY = (
    "Is this review positive or negative: {}?",
    "Which category does this ticket belong to, billing or shipping: {}?",
    "Does this message contain spam: {}? Answer yes or no.",
)
HARD = (
    "Write a Python function that sorts {} by two keys.",
    "Prove that the sum over {} converges.",
    "Why does this code with {} raise a KeyError?",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Mix:
    """What a log is made of."""

    calls: int
    model: str
    intents: int
    zipf: float
    unique: float
    reworded: float
    gap_s: float
    prefix_words: int
    is_broken: bool
    reports: bool
    failures: float


def main() -> None:
    """Print a table for each question."""
    given = arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="tokenopt-bench-") as folder:
        planted(Path(folder), logs=1 if given.quick else 60)
        demo(Path(folder))
        easy(Path(folder), logs=1 if given.quick else 20)
        contexts(Path(folder), logs=1 if given.quick else 10)
        million(Path(folder), calls=1_000 if given.quick else 1_000_000)


def planted(folder: Path, *, logs: int) -> None:
    """Audit first halves, play second halves."""
    found: dict[str, list[tuple[bool, float, float]]] = {}
    for seed in range(logs):
        chance = random.Random(seed)
        mix = mix_of(chance)
        rows = rows_of(mix, chance)
        half = len(rows) // 2
        log = written(folder / "half.jsonl", rows[:half])
        options = AuditOptions(embeddings=EMBEDDINGS)
        report = audit(log, options)
        played = play(read_log(written(folder / "rest.jsonl", rows[half:])).calls)
        for name, share, truth in (
            ("same requests, alone", report.finding("exact_cache"), played["exact"]),
            ("like questions, beyond them", report.finding("semantic_cache"), played["near"]),
            ("provider's prompt cache, alone", report.finding("prompt_cache"), played["prompt"]),
        ):
            assert share is not None
            found.setdefault(name, []).append((share.share.covers(truth), share.share.value, truth))
        found.setdefault("together", []).append(
            (report.combined.covers(played["all"]), report.combined.value, played["all"])
        )
    rows_shown = []
    for name, cases in found.items():
        hits = sum(holds for holds, _, _ in cases)
        interval = wilson_interval(hits, len(cases))
        off = sum(abs(said - true) for _, said, true in cases) / len(cases)
        bias = sum(said - true for _, said, true in cases) / len(cases)
        rows_shown.append(
            [
                name,
                f"{hits} of {len(cases)}",
                f"{hits / len(cases):.0%} ({interval.low:.0%} to {interval.high:.0%})",
                f"{100 * sum(true for _, _, true in cases) / len(cases):.1f}",
                f"{100 * off:.1f}",
                f"{100 * bias:+.1f}",
            ]
        )
    table(
        f"Planted logs, {logs}: the second half's saving against the interval from the first",
        ["saving", "held", "share (95%)", "mean saving, %", "mean miss, points", "bias, points"],
        rows_shown,
    )


def demo(folder: Path) -> None:
    """Audit the first half of the demo's day, and all of it."""
    calls = bundled_traffic().calls
    rows = [
        {
            "id": call.id,
            "created_at": call.at.isoformat() if call.at else None,
            "request": {
                "model": call.model,
                "messages": convert_to_openai_messages(list(call.messages)),
            },
            "response": {"choices": [{"message": said(call.answer.text if call.answer else "")}]},
        }
        for call in calls
    ]
    half = len(rows) // 2
    shown = []
    for name, seen, then in (
        ("first half, second half played", rows[:half], rows[half:]),
        ("all of it, all of it played", rows, rows),
    ):
        report = audit(written(folder / "demo.jsonl", seen), AuditOptions(embeddings=EMBEDDINGS))
        played = play(read_log(written(folder / "then.jsonl", then)).calls)
        for what, share, truth in (
            ("same requests", report.finding("exact_cache"), played["exact"]),
            ("like questions", report.finding("semantic_cache"), played["near"]),
        ):
            assert share is not None
            shown.append([name, what, str(share.share), f"{truth:.1%}", told(share.share, truth)])
        shown.append(
            [
                name, "together", str(report.combined), f"{played['all']:.1%}",
                told(report.combined, played["all"]),
            ]
        )  # fmt: skip
    table("The demo's log", ["seen", "saving", "predicted", "played", "held"], shown)


def told(share: Any, truth: float) -> str:
    return "yes" if share.covers(truth) else "no"


def easy(folder: Path, *, logs: int) -> None:
    """Compare the bound of a smaller model with what labels allow."""
    found = []
    for seed in range(logs):
        chance = random.Random(1_000 + seed)
        share = chance.uniform(0.1, 0.9)
        rows, labels = [], []
        for n in range(800):
            is_easy = chance.random() < share
            question = chance.choice(EASY if is_easy else HARD).format(words(chance, 6))
            rows.append(row_of(n, "gpt-5.1", "Be brief.", question, "Yes.", at=1.79e9 + 30 * n))
            # Half of what looks easy is not, for the small model: only a label knows.
            labels.append(is_easy and chance.random() < 0.5)
        log = written(folder / "easy.jsonl", rows)
        options = AuditOptions(embeddings=EMBEDDINGS, small="gpt-5-mini")
        finding = audit(log, options).finding("smaller_model")
        assert finding is not None
        calls = read_log(log).calls
        now = [float(price_of(call, call.model, 0)) for call in calls]
        small = [float(price_of(call, "gpt-5-mini", 0)) for call in calls]
        saved = sum(a - b for a, b, ok in zip(now, small, labels, strict=True) if ok)
        found.append((finding.share.value, saved / sum(now)))
    held = sum(bound >= true for bound, true in found)
    table(
        f"A smaller model, {logs} logs with known labels: the bound against what labels allow",
        ["bound held", "mean bound, %", "mean saving by labels, %"],
        [
            [
                f"{held} of {logs}",
                f"{100 * sum(b for b, _ in found) / logs:.1f}",
                f"{100 * sum(t for _, t in found) / logs:.1f}",
            ]
        ],
    )


def contexts(folder: Path, *, logs: int) -> None:
    """Compare what is said of a context window with what a real one saves."""
    rows_shown = []
    for reports in (True, False):
        found = []
        for seed in range(logs):
            chance = random.Random(2_000 + seed)
            log = written(folder / "long.jsonl", conversations(chance, reports=reports))
            finding = audit(log, AuditOptions(embeddings=EMBEDDINGS)).finding("context")
            assert finding is not None
            calls = read_log(log).calls
            whole = spent_on(calls, window=None)
            cut = spent_on(calls, window=ContextWindow(calls[0].model, max_tokens=8_000))
            found.append((finding.share, float(1 - cut / whole)))
        miss = sum(abs(said.value - true) for said, true in found) / logs
        told = [said.covers(true) for said, true in found if said.low is not None]
        rows_shown.append(
            [
                "told" if reports else "not told",
                f"{sum(told)} of {len(told)}",
                f"{100 * sum(said.value for said, _ in found) / logs:.1f}",
                f"{100 * sum(t for _, t in found) / logs:.1f}",
                f"{100 * miss:.1f}",
            ]
        )
    table(
        f"Long conversations, {logs} logs each: the audit against a real `ContextWindow`",
        ["reads in the log", "held", "mean said, %", "mean played, %", "mean miss, points"],
        rows_shown,
    )


def conversations(chance: random.Random, *, reports: bool) -> list[Row]:
    """Return calls of conversations that grow far beyond the bound, one after the other."""
    provider = Provider("gpt-5.1")
    rows: list[Row] = []
    at = 1.79e9
    for _ in range(5):
        messages: list[Row] = [{"role": "system", "content": words(chance, 60)}]
        for _ in range(chance.randint(15, 40)):
            at += chance.uniform(5, 100)
            provider.now = at
            messages.append({"role": "user", "content": words(chance, 40)})
            answer = words(chance, 120)
            row = row_of(len(rows), "gpt-5.1", "", "", answer, at=at)
            row["request"]["messages"] = list(messages)
            if reports:
                tokens = request_tokens(messages, provider)
                row["response"]["usage"] = {
                    "prompt_tokens": tokens,
                    "completion_tokens": provider.count(answer),
                    "prompt_tokens_details": {"cached_tokens": provider.read(messages, tokens)},
                }
            rows.append(row)
            messages.append(said(answer))
    return rows


def spent_on(calls: Sequence[Any], *, window: ContextWindow | None) -> Decimal:
    """Play conversations through a window, in front of the provider's cache."""
    provider = Provider(calls[0].model)
    total = Decimal(0)
    for call in calls:
        provider.now = call.at.timestamp()
        kept = call.messages if window is None else window.fit(call.messages).messages
        messages = convert_to_openai_messages(list(kept))
        tokens = request_tokens(messages, provider)
        read = provider.read(messages, tokens)
        total += price_of(replace(call, messages=tuple(kept)), call.model, read, tokens=tokens)
    return total


def request_tokens(messages: Sequence[Row], provider: "Provider") -> int:
    """Return the tokens of a request as OpenAI counts them: each message has four of its own."""
    return 3 + sum(4 + provider.count(message["content"]) for message in messages)


def million(folder: Path, *, calls: int) -> None:
    """Time one audit of many calls."""
    log = folder / "many.jsonl.gz"
    chance = random.Random(7)
    prefixes = [words(chance, 450), words(chance, 120), words(chance, 20)]
    size = 0
    with gzip.open(log, "wt", compresslevel=1, encoding="utf-8") as file:
        at = 1.79e9
        for n in range(calls):
            at += chance.expovariate(1 / 2.0)
            kind = chance.choices((0, 1, 2), (3, 4, 3))[0]
            popular = chance.random() < 0.5
            question = (
                f"How do I {VERBS[int(chance.paretovariate(0.8)) % 12]} number "
                f"{int(chance.paretovariate(0.7)) % 10**6}?"
                if popular
                else words(chance, 12)
            )
            model = ("gpt-5.1", "gpt-5-mini", "gpt-5-mini")[kind]
            row = row_of(n, model, prefixes[kind], question, f"Answer {n % 97}.", at=at)
            row["response"]["usage"] = {
                "prompt_tokens": len(prefixes[kind]) // 4 + 20,
                "completion_tokens": 12,
            }
            text = json.dumps(row) + "\n"
            size += len(text)
            file.write(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, used = time.perf_counter(), time.process_time()
    report = audit(log, AuditOptions(small="gpt-5-nano", folder=folder))
    seconds, used = time.perf_counter() - started, time.process_time() - used
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert report.calls == calls
    table(
        "One audit, one process",
        ["calls", "log, MB", "packed, MB", "seconds", "CPU seconds", "peak memory, MiB", "before"],
        [
            [
                f"{calls:,}",
                f"{size / 1e6:,.0f}",
                f"{log.stat().st_size / 1e6:,.0f}",
                f"{seconds:,.0f}",
                f"{used:,.0f}",
                f"{most / 1024:,.0f}",
                f"{before / 1024:,.0f}",
            ]
        ],
    )


def mix_of(chance: random.Random) -> Mix:
    """Draw what a log is made of."""
    return Mix(
        calls=chance.randint(1_000, 2_400),
        model=chance.choice(("gpt-5.1", "gpt-5-mini", "gpt-4.1-mini", "gpt-4o")),
        intents=chance.randint(20, len(VERBS) * len(THINGS)),
        zipf=chance.uniform(0.4, 1.4),
        unique=chance.uniform(0.0, 0.6),
        reworded=chance.choice((0.0, chance.uniform(0.1, 0.8))),
        gap_s=chance.choice((1.0, 10.0, 120.0)),
        prefix_words=chance.choice((0, 100, 900, 1_800)),
        is_broken=chance.random() < 0.4,
        reports=chance.random() < 0.5,
        failures=chance.choice((0.0, 0.03)),
    )


def rows_of(mix: Mix, chance: random.Random) -> list[Row]:
    """Return the rows of a log."""
    asks = [f"{verb} my {thing}" for verb in VERBS for thing in THINGS]
    chance.shuffle(asks)
    asks = asks[: mix.intents]
    steps = list(accumulate((n + 1) ** -mix.zipf for n in range(len(asks))))
    rules = words(chance, mix.prefix_words)
    lengths = {ask: chance.randint(5, 60) for ask in asks}
    provider = Provider(mix.model)
    rows = []
    at = 1.79e9
    for n in range(mix.calls):
        at += chance.expovariate(1 / mix.gap_s)
        provider.now = at
        if chance.random() < mix.unique:
            question, answer = words(chance, 9), words(chance, chance.randint(5, 60))
        else:
            ask = asks[bisect(steps, chance.random() * steps[-1])]
            is_reworded = chance.random() < mix.reworded
            wording = chance.choice(WORDINGS) if is_reworded else WORDINGS[0]
            question = wording.format(ask)
            answer = f"To {ask}: " + words(random.Random(ask), lengths[ask])
        clock = datetime.fromtimestamp(at, UTC)
        head = f"\nCurrent time: {clock:%Y-%m-%d %H:%M:%S}" if mix.is_broken else ""
        row = row_of(n, mix.model, f"You help.{head}\n{rules}", question, answer, at=at)
        if chance.random() < mix.failures:
            row["response"] = {"error": {"code": "rate_limit_exceeded"}}
        elif mix.reports:
            messages = row["request"]["messages"]
            tokens = sum(provider.count(m["content"]) for m in messages)
            row["response"]["usage"] = {
                "prompt_tokens": tokens,
                "completion_tokens": provider.count(answer),
                "prompt_tokens_details": {"cached_tokens": provider.read(messages, tokens)},
            }
        rows.append(row)
    return rows


def words(chance: random.Random, count: int) -> str:
    return " ".join(f"{chance.choice(VERBS)}{chance.randint(0, 4000)}" for _ in range(count))


def said(text: str) -> Row:
    return {"role": "assistant", "content": text}


def row_of(n: int, model: str, system: str, question: str, answer: str, *, at: float) -> Row:
    """Return a row as OpenAI's SDK users log them."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {
        "id": f"call-{n}",
        "created_at": at,
        "request": {"model": model, "messages": messages},
        "response": {"choices": [{"message": said(answer), "finish_reason": "stop"}]},
    }


def written(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Provider:
    """A provider's prompt cache, by its rule, at the time of the log."""

    def __init__(self, model: str, *, longest: bool = False) -> None:
        self.model = model
        self.now = 0.0
        self.count: Callable[[str], int] = counter_for(model).count_text
        rule = rule_for(model)
        lives = [each.seconds for each in rule.lifetimes if each.write_factor <= 1]
        self._cache = PromptCache(
            minimum=rule.minimum_tokens,
            step=rule.step_tokens,
            lifetime_s=max(lives) if longest else rule.lifetimes[0].seconds,
            clock=lambda: self.now,
        )

    def read(self, messages: Sequence[Row], tokens: int) -> int:
        """Return the tokens that are read."""
        body = {"model": self.model, "messages": messages}
        return self._cache.read(body, input_tokens=tokens, count_text=self.count)[0]


def price_of(call: Any, model: str, read: int, *, tokens: int | None = None) -> Decimal:
    """Return what a call costs with so many tokens read from the provider's cache."""
    count = counter_for(call.model).count_text
    if tokens is None:
        tokens = sum(count(message.text) for message in call.messages)
    usage = Usage(
        plain_input=tokens - read,
        cache_read=read,
        output=count(call.answer.text) if call.answer is not None else 0,
    )
    price = PRICES(model=model, provider=None, tier=None, usage=usage, at=call.at)
    assert price is not None
    return cost_of(usage, price).total


def play(calls: Sequence[Any]) -> dict[str, float]:
    """Return what the real caches save of these calls, each alone and all together."""
    plain = spent(calls)
    exact = spent(calls, exact=True)
    both = spent(calls, exact=True, near=True)
    return {
        "exact": float(1 - exact / plain),
        "near": float((exact - both) / plain),
        "prompt": float(1 - spent(calls, laid_out=True) / plain),
        "all": float(1 - spent(calls, exact=True, near=True, laid_out=True) / plain),
    }


def spent(
    calls: Sequence[Any], *, exact: bool = False, near: bool = False, laid_out: bool = False
) -> Decimal:
    """Play calls through caches, all empty at first, and return the dollars."""
    provider = Provider(calls[0].model, longest=laid_out)
    same = MemoryCache(max_entries=None, ttl_s=TTL_S, clock=lambda: provider.now)
    like = SemanticCache(EMBEDDINGS, ttl_s=TTL_S, clock=lambda: provider.now)
    total = Decimal(0)
    for call in calls:
        provider.now = call.at.timestamp()
        prompt, about = dumps(list(call.messages)), f"model={call.model}"
        used = [cache for cache, on in ((same, exact), (like, near)) if on]
        if any(cache.lookup(prompt, about) for cache in used):
            continue
        if call.error is not None:
            continue
        messages = convert_to_openai_messages(
            list(laid(call.messages) if laid_out else call.messages)
        )
        tokens = sum(provider.count(message["content"]) for message in messages)
        total += price_of(call, call.model, provider.read(messages, tokens))
        for cache in used:
            cache.update(prompt, about, [ChatGeneration(message=AIMessage(call.answer.text))])
    return total


def laid(messages: Sequence[Any]) -> Sequence[Any]:
    """Move the line that changes to the last message, as the middleware does."""
    system, *rest = messages
    lines = system.text.split("\n")
    moved = [line for line in lines if line.startswith("Current time:")]
    kept = "\n".join(line for line in lines if line not in moved)
    *middle, last = rest
    text = "\n".join((*moved, last.text))
    return convert_to_messages([("system", kept), *middle, ("user", text)])


if __name__ == "__main__":
    main()
