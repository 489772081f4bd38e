"""What each technique would save on a call log, with evidence, and all of them together."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from langchain_core.embeddings import Embeddings

from langchain_tokenopt.accounting import PriceSource
from langchain_tokenopt.advisor.audit_batchable import BatchableReplay
from langchain_tokenopt.advisor.audit_combine import Replay
from langchain_tokenopt.advisor.audit_contexts import ContextReplay
from langchain_tokenopt.advisor.audit_duplicates import ExactReplay, NearReplay, windows_of
from langchain_tokenopt.advisor.audit_errors import ErrorReplay
from langchain_tokenopt.advisor.audit_evidence import mask
from langchain_tokenopt.advisor.audit_facts import PICO, CallFacts, FactsOf
from langchain_tokenopt.advisor.audit_findings import combined_of, findings_of
from langchain_tokenopt.advisor.audit_intervals import LEAST_BLOCKS, blocks_of
from langchain_tokenopt.advisor.audit_ledger import is_ledger, ledger_facts
from langchain_tokenopt.advisor.audit_prefixes import (
    Breaks,
    PrefixRules,
    Templates,
    longest_free,
)
from langchain_tokenopt.advisor.audit_report import AuditReport, Finding, UnpricedModel
from langchain_tokenopt.advisor.audit_settings import Advice, settings_text
from langchain_tokenopt.advisor.audit_spill import Spill
from langchain_tokenopt.advisor.audit_tasks import TaskReplay
from langchain_tokenopt.advisor.log import LoggedCall, LogProblem, iterate_log
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError, LogFormatError, MissingExtraError
from langchain_tokenopt.prompts import CacheRules

_MOST_PROBLEMS = 10
_OF_PRICES = ("prompt_cache", "batch")  # they make tokens cheaper, not fewer
_NO_PRICES = (
    "no model of this log has a known price: all amounts are tokens, input and output alike. What "
    "a provider's prompt cache, batches or a smaller model save is a matter of prices and not "
    "told; give yours (`AuditOptions(prices=...)`, `--prices`)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """How a log is looked at.

    >>> AuditOptions(burst=1)
    Traceback (most recent call last):
    ...
    langchain_tokenopt.errors.ConfigurationError: burst must be at least 2, got 1
    """

    small: str | None = None
    """A smaller model to compare with; without one, no smaller model is looked at."""
    ttl_s: float | None = 86_400.0
    """How long the caches may serve an answer; `None` for ever."""
    max_entries: int = 1_000_000
    """Answers that the exact cache holds."""
    max_error_rate: float = 0.01
    """Of the semantic cache: wrong answers among all requests."""
    max_context_tokens: int = 8_000
    """Above it, a conversation counts as over-long."""
    burst: int = 30
    """Calls of one kind in a minute that count as batchable."""
    most_compared: int = 20_000
    """Calls that the semantic cache plays; of a longer log, four stretches of it."""
    most_classified: int = 5_000
    """Questions that are sorted by kind of task; of a longer log, a random share of it."""
    prices: PriceSource | None = None
    """By default the installed genai-prices snapshot."""
    rules: CacheRules | None = None
    """How providers cache; by default the rules that come with the package."""
    embeddings: Embeddings | None = None
    """By default `StaticEmbeddings`, of the extra `local`; without it, like questions and kinds of
    tasks are not looked for, and the report says so."""
    folder: Path | None = None
    """Where the temporary file lies."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        least = {
            "max_entries": 1, "max_context_tokens": 1, "burst": 2, "most_compared": 1,
            "most_classified": 1,
        }  # fmt: skip
        wrong = [
            f"{name} must be at least {bound}, got {getattr(self, name)}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        if not 0 < self.max_error_rate <= 0.5:
            wrong.append(
                f"max_error_rate must be above 0 and at most 0.5, got {self.max_error_rate}"
            )
        if self.ttl_s is not None and self.ttl_s <= 0:
            wrong.append(f"ttl_s must be more than 0 seconds, or None, got {self.ttl_s}")
        if wrong:
            raise ConfigurationError("; ".join(wrong))


def audit(path: str | Path, options: AuditOptions | None = None) -> AuditReport:
    """Return what each technique would save on a log, and all of them together.

    The log may be OpenAI-style JSON Lines, a LangSmith or a Langfuse export (also as `.gz`), or the
    file of a `UsageLedger`, which has no prompts, so that little can be found in it. It is read
    once; hashes, numbers and last questions of its calls go into a temporary file, so that it may
    be larger than memory. No model is asked. Where no price is known at all, tokens are told.

    Args:
        path: The log.
        options: How to look at it.

    Raises:
        LogFormatError: The file cannot be opened, or not one call can be read from it.
        LedgerFileError: It is a database, but no readable ledger.
        StoreError: The disk of the temporary file is full.

    >>> import json, tempfile
    >>> def row(n):
    ...     asked = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": f"{n % 5}?"}]}
    ...     answer = {"choices": [{"message": {"role": "assistant", "content": "Yes."}}]}
    ...     return {"request": asked, "response": answer, "created_at": 1_700_000_000 + n}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Path(folder) / "calls.json"
    ...     written = log.write_text(json.dumps([row(n) for n in range(100)]))
    ...     report = audit(log)
    >>> report.calls, round(report.finding("exact_cache").share.value, 2)
    (100, 0.95)
    """
    return _Audit(Path(path), options or AuditOptions()).report()


class _Audit:
    """One run: what was read of the log, then the replay, then the findings."""

    def __init__(self, path: Path, options: AuditOptions) -> None:
        self._path = path
        self._options = options
        self._facts = FactsOf(prices=options.prices, small=options.small)
        self._breaks = Breaks()
        self._problems: list[LogProblem] = []
        self._problem_count = 0
        self._has_times = True
        self._is_ledger = is_ledger(path)
        self._notes: list[str] = []

    def report(self) -> AuditReport:
        """Read, replay, and tell."""
        with Spill(self._options.folder) as spill:
            spill.add_all(self._read())
            if not spill.calls:
                first = f"; the first problem is at {self._problems[0]}" if self._problems else ""
                raise LogFormatError(f"no call could be read from {self._path}{first}")
            replay = self._replay(spill.calls, counts_tokens=spill.lacks_prices())
            replay.play(spill.in_time_order())
        return self._told(replay)

    def _read(self) -> Iterator[CallFacts]:
        if self._is_ledger:
            yield from ledger_facts(self._path, self._facts)
            return
        for row in iterate_log(self._path):
            if isinstance(row, LoggedCall):
                facts = self._facts(row)
                self._breaks.look(row, facts)
                self._has_times = self._has_times and row.at is not None
                yield facts
            else:
                self._problem_count += 1
                if len(self._problems) < _MOST_PROBLEMS:
                    self._problems.append(replace(row, reason=mask(row.reason)))

    def _replay(self, count: int, *, counts_tokens: bool) -> Replay:
        options = self._options
        blocks = blocks_of(count)
        rules = PrefixRules(options.rules)
        embeddings = options.embeddings or StaticEmbeddings()
        near = self._near(embeddings)
        looks = near is not None and options.small is not None and not counts_tokens
        return Replay(
            count=count,
            blocks=blocks,
            windows=windows_of(count, most=options.most_compared),
            exact=ExactReplay(ttl_s=options.ttl_s, max_entries=options.max_entries),
            near=near,
            context=ContextReplay(options.max_context_tokens),
            templates=Templates(self._breaks, rules),
            rules=rules,
            tasks=TaskReplay(
                embeddings=embeddings,
                rate=min(options.most_classified / count, 1.0),
                blocks=blocks,
                seed=options.seed,
            )
            if looks
            else None,
            batchable=BatchableReplay(options.burst, blocks),
            errors=ErrorReplay(blocks),
            counts_tokens=counts_tokens,
        )

    def _near(self, embeddings: Embeddings) -> NearReplay | None:
        if self._is_ledger:
            return None
        options = self._options
        try:
            return NearReplay(
                embeddings, max_error_rate=options.max_error_rate, ttl_s=options.ttl_s
            )
        except MissingExtraError as error:
            self._notes.append(f"like questions and kinds of tasks were not looked for: {error}")
            return None

    def _told(self, replay: Replay) -> AuditReport:
        options = self._options
        findings = findings_of(replay, small=options.small, seed=options.seed)
        if replay.counts_tokens:
            findings = tuple(each for each in findings if each.technique not in _OF_PRICES)
        combined, saved = combined_of(replay, seed=options.seed)
        return AuditReport(
            source=self._path.name,
            calls=replay.calls,
            since=self._time(replay.first_at),
            until=self._time(replay.last_at),
            cost=sum(replay.cost) / PICO,
            findings=findings,
            combined=combined,
            combined_saved=saved,
            unpriced=tuple(
                UnpricedModel(model=model, calls=each.calls, tokens=each.tokens)
                for model, each in replay.unpriced.items()
            ),
            estimated_calls=replay.estimated,
            notes=(*self._notes, *self._remarks(replay)),
            problems=tuple(self._problems),
            problem_count=self._problem_count,
            settings=self._settings(replay, findings),
            unit="tokens" if replay.counts_tokens else "dollars",
        )

    def _remarks(self, replay: Replay) -> Iterator[str]:
        if self._is_ledger:
            yield (
                "a ledger keeps no prompts: duplicates, prefixes, contexts and kinds of tasks "
                "cannot be found in it; give a log of requests"
            )
        if not self._has_times:
            yield (
                "some calls have no time: they are taken in the order of the file, a second "
                "apart, so what depends on time is a guess"
            )
        if replay.cache_hits:
            yield f"{replay.cache_hits:,} calls were served by a cache already; they cost nothing"
        if replay.blocks < LEAST_BLOCKS:
            yield f"{replay.calls} calls are too few for intervals"
        if replay.counts_tokens:
            yield _NO_PRICES

    def _time(self, at: float | None) -> datetime | None:
        return datetime.fromtimestamp(at, UTC) if at is not None and self._has_times else None

    def _settings(self, replay: Replay, findings: tuple[Finding, ...]) -> str:
        options = self._options
        spent = sorted(replay.by_model.items(), key=lambda pair: -pair[1])
        model = spent[0][0] if spent else "unknown"
        rule = replay.rules(model)
        free = longest_free(rule).name if rule is not None else None
        near = replay.near
        compares = not replay.counts_tokens and options.small != model
        return settings_text(
            Advice(
                source=self._path.name,
                model=model,
                small=options.small if compares else None,
                findings=findings,
                ttl_s=options.ttl_s,
                max_error_rate=options.max_error_rate,
                semantic_is_safe=near is not None
                and near.risk_of_all.high <= options.max_error_rate,
                lifetime=free if rule is not None and free != rule.lifetimes[0].name else None,
                volatile=replay.templates.volatile,
                max_tokens=options.max_context_tokens,
                tokens_per_minute=replay.errors.calm_tokens if replay.errors.limited else None,
            )
        )
