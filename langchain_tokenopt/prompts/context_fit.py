"""The steps in which a context window makes a conversation fit."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.stores import BaseStore

from langchain_tokenopt.errors import ContextOverflowError
from langchain_tokenopt.prompts.cache_rules import CacheRule
from langchain_tokenopt.prompts.context_edit import (
    NOTHING,
    Edit,
    candidates,
    cuts,
    early_calls,
    kept,
    note_of,
    stubs,
    unchanged,
    view,
)
from langchain_tokenopt.prompts.context_history import History, read_history
from langchain_tokenopt.prompts.context_memory import Remembered
from langchain_tokenopt.prompts.context_needs import Ask, Failed, InFlight, Load, Save, Steps, Wait
from langchain_tokenopt.prompts.context_recall import Hidden, Recall, asked_since, recalled, within
from langchain_tokenopt.prompts.context_relevance import Relevance
from langchain_tokenopt.prompts.context_report import (
    ContextReport,
    ContextStats,
    Dropped,
    FittedContext,
    Reason,
    break_cost,
    cached_cost,
)
from langchain_tokenopt.prompts.context_strategy import Strategy
from langchain_tokenopt.prompts.context_summary import Summarizer
from langchain_tokenopt.prompts.tables import TableWriter
from langchain_tokenopt.tokens import TokenCounter

_LOG = logging.getLogger(__name__)

WhenTooLarge = Literal["raise", "send"]

_PRIMING = 3  # tokens of every request, whatever its messages
NOTE_TOKENS = 20
"""Kept free for the note that says that something was left out."""
_MOST_EDITS = 20_000
_MOST_RECALLS = 2_000
_MOST_HIDDEN = 32  # conversations
_MOST_COUNTS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a context window was told."""

    counter: TokenCounter
    max_tokens: int
    keep_tokens: int
    strategy: Strategy
    summarizer: Summarizer | None
    recall: Recall | None
    tables: TableWriter | None
    store: BaseStore[str, bytes] | None
    when_too_large: WhenTooLarge
    rule: CacheRule | None

    @property
    def settings(self) -> str:
        """A name for what decides how a conversation is shortened."""
        summary = self.summarizer.max_tokens if self.summarizer else None
        told = (
            self.counter.name,
            self.max_tokens,
            self.keep_tokens,
            self.strategy,
            summary,
            self.tables is not None,
        )
        return blake2b(repr(told).encode(errors="replace"), digest_size=8).hexdigest()


class Fitter:
    """Makes conversations fit; what it decided for one holds for all that it grows into."""

    def __init__(self, options: Options, relevance: Relevance) -> None:
        self._options = options
        self._relevance = relevance
        self._settings = options.settings
        self._recall = options.recall and within(options.recall, options.keep_tokens)
        self._edits: Remembered[str, Edit] = Remembered(_MOST_EDITS)
        self._recalls: Remembered[tuple[bytes, bytes, int], str] = Remembered(_MOST_RECALLS)
        self._hidden: Remembered[tuple[bytes, int], Hidden] = Remembered(_MOST_HIDDEN)
        self._counts: Remembered[tuple[Any, ...], int] = Remembered(_MOST_COUNTS)
        self._tools: Remembered[tuple[int, ...], tuple[Sequence[Any], int]] = Remembered(64)
        self._in_flight = InFlight()
        self._lock = threading.Lock()
        self.stats = ContextStats()

    def steps(self, messages: Sequence[BaseMessage], tools: Sequence[Any]) -> Steps[FittedContext]:
        """Return the messages that are sent, and what was done."""
        options = self._options
        history = read_history(messages, count=self._count, tables=options.tables)
        fixed = _PRIMING + self._tools_tokens(tools)
        edit = yield from self._known(history)
        request = yield from self._request(history, edit, fixed)
        key = history.digests[-1].hex()
        under_way = None
        if request.tokens > options.max_tokens:
            under_way = self._in_flight.claim(key)
        if under_way is not None:
            yield Wait(under_way)
            edit = yield from self._known(history)
            request = yield from self._request(history, edit, fixed)
        if request.tokens > options.max_tokens:
            try:
                request = yield from self._shortened(history, request, fixed)
            finally:
                if under_way is None:
                    self._in_flight.release(key)
        return self._finished(history, request, fixed)

    def _finished(self, history: History, request: "_Request", fixed: int) -> FittedContext:
        options = self._options
        problems = list(history.problems)
        if request.tokens > options.max_tokens:
            largest = max(range(len(history.messages)), key=lambda n: history.tokens[n])
            problem = (
                f"the request has {request.tokens:,} tokens, {options.max_tokens:,} are allowed, "
                f"and nothing more may be left out of it: {fixed:,} are of the tools, the largest "
                f"message (number {largest}, {history.messages[largest].type}) has "
                f"{history.tokens[largest]:,}; allow more, or shorten that"
            )
            if options.when_too_large == "raise":
                raise ContextOverflowError(problem)
            problems.append(problem)
        report = self._report(history, request, fixed, problems)
        with self._lock:
            self.stats = replace(
                self.stats,
                requests=self.stats.requests + 1,
                edits=self.stats.edits + report.edited,
                tokens_given=self.stats.tokens_given + report.tokens_given,
                tokens_sent=self.stats.tokens_sent + report.tokens,
                break_cost=self.stats.break_cost + report.break_cost,
            )
        return FittedContext(messages=request.messages, report=report)

    # --- counting -----------------------------------------------------------------------------

    def _count(self, message: BaseMessage) -> int:
        """Return the tokens of one message, counted once."""
        calls = message.tool_calls if isinstance(message, AIMessage) else ()
        key = (message.type, message.name, hash(str(message.content)), hash(str(calls)))
        known = self._counts.get(key)
        if known is None:
            known = self._options.counter.count_messages([message]) - _PRIMING
            self._counts.put(key, known)
        return known

    def _tools_tokens(self, tools: Sequence[Any]) -> int:
        if not tools:
            return 0
        # Turning a tool into a schema takes milliseconds. Held, so that no other gets its id.
        key = tuple(map(id, tools))
        known = self._tools.get(key)
        if known is None:
            tokens = self._options.counter.count_messages([], tools=tools) - _PRIMING
            self._tools.put(key, known := (tuple(tools), tokens))
        return known[1]

    # --- what was decided before ----------------------------------------------------------------

    def _key(self, history: History, at: int) -> str:
        return f"{self._settings}-{history.digests[at - 1].hex()}"

    def _known(self, history: History) -> Steps[Edit]:
        """Return the latest edit of this conversation, or of what it grew from."""
        found = NOTHING
        for at in range(len(history.messages), 0, -1):
            edit = self._edits.get(self._key(history, at))
            if edit is not None:
                found = edit
                break
        store = self._options.store
        if store is None or found.until == len(history.messages):
            return found
        keys = [self._key(history, at) for at in range(len(history.messages), found.until, -1)]
        loaded = yield Load(store, keys)
        if isinstance(loaded, Failed):
            self._failed("failed_stores", "the store of contexts cannot be read", loaded)
            return found
        for key, value in zip(keys, loaded, strict=True):
            edit = Edit.from_json(bytes(value).decode(errors="replace")) if value else None
            if edit is not None and edit.fits(history):
                self._edits.put(key, edit)
                return edit
        return found

    def _keep(self, history: History, edit: Edit) -> Steps[None]:
        key = self._key(history, edit.until)
        self._edits.put(key, edit)
        if self._options.store is not None:
            saved = yield Save(self._options.store, key, edit.to_json().encode())
            if isinstance(saved, Failed):
                self._failed("failed_stores", "the store of contexts cannot be written", saved)

    def _failed(self, counted: str, what: str, failed: Failed) -> None:
        with self._lock:
            before: int = getattr(self.stats, counted)
            told: dict[str, Any] = {counted: before + 1}
            self.stats = replace(self.stats, **told)
        if before == 0:
            _LOG.warning("%s, the request is made all the same: %r", what, failed.error)

    # --- requests -------------------------------------------------------------------------------

    def _request(self, history: History, edit: Edit, fixed: int) -> Steps["_Request"]:
        """Return what is sent for a conversation with an edit."""
        brought: Mapping[int, str] = {}
        if self._recall is not None and (edit.dropped or edit.replaced):
            brought = yield from self._recalled(history, edit, self._recall)
        sent = view(history, edit, brought)
        return _Request(
            edit=edit,
            messages=sent,
            tokens=fixed + sum(map(self._count, sent)),
            recalled=sum(map(self._options.counter.count_text, brought.values())),
        )

    def _recalled(self, history: History, edit: Edit, recall: Recall) -> Steps[dict[int, str]]:
        """Return, by the index of each later human message, what is brought back for it."""
        brought: dict[int, str] = {}
        of_edit = (history.digests[edit.until - 1], edit.hiding)
        for index in asked_since(history, edit):
            key = (history.digests[index], *of_edit)
            text = self._recalls.get(key)
            if text is None:
                hidden = self._hidden.get(of_edit)
                if hidden is None:
                    self._hidden.put(of_edit, hidden := Hidden(history, edit))
                relevance, failed = yield from self._relevance.of(
                    str(history.messages[index].text), hidden.texts, hidden.words
                )
                if failed is not None:
                    self._failed("failed_embeddings", "embeddings failed, words count", failed)
                text = recalled(
                    hidden.passages,
                    relevance,
                    history,
                    recall=recall,
                    counter=self._options.counter,
                )
                self._recalls.put(key, text)
            if text:
                brought[index] = text
        return brought

    def _shortened(self, history: History, before: "_Request", fixed: int) -> Steps["_Request"]:
        """Return the request with a new edit."""
        options, last = self._options, before.edit
        groups = candidates(history, last)
        relevance = None
        if options.strategy.needs_relevance and groups:
            question = str(history.messages[history.last_human].text) if groups else ""
            relevance, failed = yield from self._relevance.of(
                question, [group.text for group in groups]
            )
            if failed is not None:
                self._failed("failed_embeddings", "embeddings failed, words count", failed)
        notes = options.summarizer.max_tokens if options.summarizer else 0
        brought = self._recall.max_tokens if self._recall else 0
        stay = before.tokens - before.recalled - sum(group.tokens for group in groups)
        if last.dropped:
            stay -= self._count(note_of(last))
        room = options.keep_tokens - stay - NOTE_TOKENS - notes - brought
        staying = kept(groups, room=room, strategy=options.strategy, relevance=relevance)
        going = [group for group in groups if group not in staying]
        edit = Edit(
            asked=max(history.last_human, 0),
            dropped=last.dropped | {index for group in going for index in group.indices},
            replaced={n: text for n, text in last.replaced.items() if n not in last.dropped},
            summary=last.summary,
            summarised=last.summarised,
        )
        if options.summarizer is not None and going:
            edit = yield from self._summarised(edit, [g.text for g in going], options.summarizer)
        request = yield from self._request(history, edit, fixed)
        for shorten in (self._stubbed, self._without_early_calls, self._cut):
            edit = shorten(history, edit, request.tokens)
            if edit is not request.edit:
                request = yield from self._request(history, edit, fixed)
        if edit.dropped == last.dropped and edit.replaced == last.replaced:
            return before  # nothing could be done
        yield from self._keep(history, edit)
        return replace(request, before=before)

    def _stubbed(self, history: History, edit: Edit, tokens: int) -> Edit:
        if tokens <= self._options.max_tokens:
            return edit
        short = stubs(history, edit, excess=tokens - self._options.keep_tokens)
        return replace(edit, replaced={**edit.replaced, **short}) if short else edit

    def _without_early_calls(self, history: History, edit: Edit, tokens: int) -> Edit:
        if tokens <= self._options.max_tokens:
            return edit
        early = early_calls(history, edit, excess=tokens - self._options.keep_tokens)
        return replace(edit, dropped=edit.dropped | early) if early else edit

    def _cut(self, history: History, edit: Edit, tokens: int) -> Edit:
        if tokens <= self._options.max_tokens:
            return edit
        short = cuts(
            history,
            edit,
            excess=tokens - self._options.max_tokens,
            count_text=self._options.counter.count_text,
        )
        return replace(edit, replaced={**edit.replaced, **short}) if short else edit

    def _summarised(self, edit: Edit, texts: Sequence[str], summarizer: Summarizer) -> Steps[Edit]:
        notes = summarizer.notes(texts, previous=edit.summary)
        answer: AIMessage | None = None
        failed: Failed | None = None
        while True:
            try:
                messages = notes.send(answer)
            except StopIteration as end:
                written: str | None = end.value
                break
            except Exception as error:  # noqa: BLE001 - a prompt that cannot be made breaks no call
                written, failed = None, Failed(error)
                break
            told = yield Ask(summarizer.model, messages)
            failed = told if isinstance(told, Failed) else None
            answer = None if isinstance(told, Failed) else told
        if written is None:
            what = "a summary failed or was too long, none was made"
            self._failed("failed_summaries", what, failed or Failed(ValueError("too long")))
            return edit
        with self._lock:
            self.stats = replace(self.stats, summaries=self.stats.summaries + 1)
        return replace(edit, summary=written, summarised=edit.summarised + len(texts))

    # --- reports --------------------------------------------------------------------------------

    def _report(
        self, history: History, request: "_Request", fixed: int, problems: Sequence[str]
    ) -> ContextReport:
        given = fixed + sum(history.tokens) + history.table_tokens_saved
        report = ContextReport(
            tokens_given=given,
            tokens=request.tokens,
            saved_by_tables=history.table_tokens_saved,
            summary_tokens=self._options.counter.count_text(request.edit.summary or ""),
            recalled_tokens=request.recalled,
            dropped=tuple(_dropped(history, request.edit)),
            problems=tuple(problems),
        )
        before = request.before
        if before is None:
            return report
        same = unchanged(before.messages, request.messages)
        prefix = fixed + sum(map(self._count, request.messages[:same]))
        rule = self._options.rule
        return replace(
            report,
            edited=True,
            kept_prefix_tokens=prefix,
            break_cost=break_cost(rule, tokens=request.tokens, prefix=prefix),
            saving_per_call=cached_cost(rule, before.tokens) - cached_cost(rule, request.tokens),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    edit: Edit
    messages: list[BaseMessage]
    tokens: int
    recalled: int
    before: "_Request | None" = None
    """The request without the newest edit, if this is the first with it."""


def _dropped(history: History, edit: Edit) -> Iterator[Dropped]:
    for index, message in enumerate(history.messages):
        reason: Reason = "left out" if index in edit.dropped else "shortened"
        if edit.hidden(index):
            yield Dropped(
                index=index, type=message.type, tokens=history.tokens[index], reason=reason
            )
