"""Serve the answer to a like question, at most as often wrongly as the user allows."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from typing_extensions import override

from langchain_tokenopt.caches.choice import choose
from langchain_tokenopt.caches.codec import Codec, UnencodableError, settled
from langchain_tokenopt.caches.control import current_control
from langchain_tokenopt.caches.decision import RiskBudget, RiskModel
from langchain_tokenopt.caches.judge import Judge, Verifier, answers_agree
from langchain_tokenopt.caches.kept import KeptQuestions
from langchain_tokenopt.caches.keys import CacheKey, KeyMaker, Tenant
from langchain_tokenopt.caches.options import check_options
from langchain_tokenopt.caches.question import Condense, Policy, Question, cacheable, question_of
from langchain_tokenopt.caches.semantic_file import SemanticFile
from langchain_tokenopt.caches.semantic_learned import Learned
from langchain_tokenopt.caches.semantic_questions import (
    Decision,
    Questions,
    Recent,
    off_loop,
)
from langchain_tokenopt.caches.semantic_stats import SemanticStats, stats_of
from langchain_tokenopt.caches.semantic_verifier import AsyncVerifier, Verification
from langchain_tokenopt.caches.store import Tally
from langchain_tokenopt.messages import CACHE_MARK, SEMANTIC

_LOG = logging.getLogger(__name__)
_NEAR = 8


class SemanticCache(BaseCache):
    """A LangChain cache that also serves the answers to questions that mean the same.

    Only the last human turn is compared by meaning. Tenant, model and its options, system prompt,
    tools and earlier turns must be equal. A kept answer is served if no rule keeps the two
    questions apart (other numbers, opposites, negation, names, ...) and its risk fits the budget
    that `max_error_rate` gives; the risk model learns from every answer that comes in. Use it
    behind an exact cache or alone.

    Args:
        embeddings: Any; `StaticEmbeddings` of the extra `local` needs no network.
        max_error_rate: The highest share of wrong answers among all requests.
        threshold: Serve at this cosine instead, whatever the risk; the rules still hold.
        mode: `serve`; `shadow` decides and learns but serves nothing; `off` does nothing.
        audit_rate: The share of hits that are asked all the same, to see whether they were right.
        ttl_s: How long an answer may be served, in seconds.
        max_entries: The longest unused make room.
        key_fields: See `KeyMaker`.
        tenant: Whose entries these are; see `ExactCache`.
        policy: Says which questions to ask anew each time; `None` for no such rule.
        condense: Rewrites a question that leans on earlier turns ("and in Norway?") into one that
            stands alone, with a small model for example; such questions are compared across
            conversations. Without one, or where it returns `None`, all earlier turns must be equal.
        judge: Says whether two answers agree; by default, near enough the same words and numbers.
            With a model that words its answers freely, give one that compares meanings.
        verifier: Asked before each hit; what it does not confirm is not served. It may be a
            coroutine function.
        verifier_timeout_s: How long it is waited for.
        seed: Fixes which hits are audited.
        path: An SQLite file that keeps entries and what was learned across restarts, for one
            process at a time; without one they live in memory.
        questions: Keeps entries elsewhere: `RedisQuestions` where other hosts find them. It has a
            `max_entries` of its own.
        clock: Unix time in seconds, for tests.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        max_error_rate: float = 0.01,
        threshold: float | None = None,
        mode: Literal["serve", "shadow", "off"] = "serve",
        audit_rate: float = 0.03,
        ttl_s: float | None = None,
        max_entries: int = 100_000,
        key_fields: Sequence[str] | None = None,
        tenant: Tenant = "",
        policy: Policy | None = cacheable,
        condense: Condense | None = None,
        judge: Judge | None = None,
        verifier: Verifier | AsyncVerifier | None = None,
        verifier_timeout_s: float = 5.0,
        seed: int = 0,
        path: str | Path | None = None,
        questions: Questions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_options(
            {
                "max_error_rate": max_error_rate,
                "threshold": threshold,
                "mode": mode,
                "audit_rate": audit_rate,
                "ttl_s": ttl_s,
                "max_entries": max_entries,
                "verifier_timeout_s": verifier_timeout_s,
                "path": path,
                "questions": questions,
            }
        )
        self._embeddings = embeddings
        self._threshold = threshold
        self._mode = mode
        self._audit_rate = audit_rate
        self._ttl_s = ttl_s
        self._key = KeyMaker(tenant=tenant, key_fields=key_fields)
        self._policy = policy
        self._condense = condense
        self._judge = judge or answers_agree
        self._verification = Verification(
            verifier, timeout_s=verifier_timeout_s, failed=self._failed
        )
        self._random = random.Random(seed)  # noqa: S311 - sampling
        self._codec = Codec()
        self._model = RiskModel()
        self._budget = RiskBudget(max_error_rate)
        file = None if path is None else SemanticFile(path)
        self._kept: Questions = (
            KeptQuestions(max_entries=max_entries, file=file, clock=clock)
            if questions is None
            else questions
        )
        self._tally = Tally()
        self._pending: Recent[bytes, Decision] = Recent()
        self._served_by: Recent[str, Decision] = Recent()
        self._learned = Learned(self._model, self._kept)
        self._warned = False

    def key(self, prompt: str, llm_string: str) -> CacheKey:
        """Return the key of a request, for tenants and single flight."""
        return self._key(prompt, llm_string)

    def lookup_again(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Look once more for a request that was just missed; both count as one."""
        if not self._recheck(prompt, llm_string):
            return None
        return self.lookup(prompt, llm_string)

    async def alookup_again(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Do what `lookup_again` does without blocking the event loop."""
        if not self._recheck(prompt, llm_string):
            return None
        return await self.alookup(prompt, llm_string)

    @override
    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        question = self._question(prompt, llm_string)
        if question is None:
            return None
        vector = self._vector(question)
        if vector is None:
            return None
        decision = self._decide(question, vector)
        confirmed = self._verification.confirms(decision)
        return self._conclude(self._key.digest(prompt, llm_string), decision, confirmed=confirmed)

    @override
    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        question = await self._aquestion(prompt, llm_string)
        if question is None:
            return None
        vector = await self._avector(question)
        if vector is None:
            return None
        decision = await off_loop(self._kept, self._decide, question, vector)
        confirmed = await self._verification.aconfirms(decision)
        return self._conclude(self._key.digest(prompt, llm_string), decision, confirmed=confirmed)

    @override
    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        decision = self._pending.pop(self._key.digest(prompt, llm_string))
        if decision is None:
            question = self._question(prompt, llm_string, counts=False)
            if question is None:
                return
            vector = self._vector(question)
            if vector is None:
                return
            decision = self._found(question, vector)
        self._learn_and_keep(decision, return_val)

    @override
    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        decision = self._pending.pop(self._key.digest(prompt, llm_string))
        if decision is None:
            question = await self._aquestion(prompt, llm_string, counts=False)
            if question is None:
                return
            vector = await self._avector(question)
            if vector is None:
                return
            decision = await off_loop(self._kept, self._found, question, vector)
        await off_loop(self._kept, self._learn_and_keep, decision, return_val)

    @override
    def clear(self, **kwargs: Any) -> None:
        self._pending.clear()
        self._kept.clear()

    @override
    async def aclear(self, **kwargs: Any) -> None:
        await off_loop(self._kept, self.clear)

    def correct(self, message: AIMessage) -> bool:
        """Take back a served answer that was wrong; return whether its entry was still kept.

        The entry is forgotten, wherever it is kept, and the risk model learns from it if it was
        this cache that served it.
        """
        mark = message.response_metadata.get(CACHE_MARK) or {}
        served = self._served_by.pop(str(mark.get("hit")))
        if served is not None and served.x is not None:
            self._model.learn(served.x, right=False, risk=served.risk)
        entry = mark.get("entry")
        return isinstance(entry, int) and self._kept.forget(entry)

    async def acorrect(self, message: AIMessage) -> bool:
        """Do what `correct` does without blocking the event loop."""
        return await off_loop(self._kept, self.correct, message)

    def invalidate(self, tags: Collection[str]) -> int:
        """Forget the entries that were kept with one of the tags; return how many they were."""
        return self._kept.invalidate(tags)

    async def ainvalidate(self, tags: Collection[str]) -> int:
        """Do what `invalidate` does without blocking the event loop."""
        return await off_loop(self._kept, self._kept.invalidate, tags)

    def stats(self) -> SemanticStats:
        """Return the counts so far, and how often hits were wrong."""
        return stats_of(self._tally, kept=self._kept, shadow=self._mode == "shadow")

    def _question(self, prompt: str, llm_string: str, *, counts: bool = True) -> Question | None:
        if self._mode == "off" or current_control().no_cache:
            return None
        try:
            question = question_of(prompt, llm_string, key=self._key, condense=self._condense)
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)
            return None
        if question is None:
            return None
        if self._policy is not None and self._policy(question) is not None:
            if counts:
                self._tally.add("refused")
            return None
        if counts:
            self._tally.add("requests")
        return question

    async def _aquestion(
        self, prompt: str, llm_string: str, *, counts: bool = True
    ) -> Question | None:
        if self._condense is None:
            return self._question(prompt, llm_string, counts=counts)
        return await asyncio.to_thread(self._question, prompt, llm_string, counts=counts)

    def _recheck(self, prompt: str, llm_string: str) -> bool:
        """Forget that a request was looked for; return whether it may be looked for again."""
        pending = self._pending.get(self._key.digest(prompt, llm_string))
        if pending is None or pending.audited:  # an audit wants the model's own answer
            return False
        self._tally.add("requests", -1)
        self._budget.uncount()
        if pending.takes:
            self._budget.give_back(pending.risk)
        return True

    def _vector(self, question: Question) -> Sequence[float] | None:
        try:
            return self._embeddings.embed_query(question.text)
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)
            return None

    async def _avector(self, question: Question) -> Sequence[float] | None:
        try:
            return await self._embeddings.aembed_query(question.text)
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)
            return None

    def _found(self, question: Question, vector: Sequence[float]) -> Decision:
        entries, similarities = self._kept.near(question, vector, most=_NEAR)
        return Decision(question, vector, entries, similarities)

    def _decide(self, question: Question, vector: Sequence[float]) -> Decision:
        """Return what is near, and whether it may be served as far as the risk goes."""
        self._learned.load()
        decision = self._found(question, vector)
        self._tally.add("vetoed", choose(decision, self._kept.words, self._model))
        if decision.chosen is None:
            self._budget.count()
        elif self._threshold is not None:
            decision.takes = decision.similarity >= self._threshold
        else:
            decision.takes = self._budget.take(decision.risk, self._model)
        return decision

    def _conclude(
        self, key: bytes, decision: Decision, *, confirmed: bool
    ) -> list[Generation] | None:
        """Return the answer that is served; without one, wait for the model's."""
        if decision.takes and not confirmed:
            decision.takes = False
            self._tally.add("unconfirmed")
            self._budget.give_back(decision.risk)
        if decision.takes and self._mode == "serve":
            if self._random.random() >= self._audit_rate:
                return self._served(decision)
            decision.audited = True
            self._tally.add("audits")
            self._budget.give_back(decision.risk)
        self._pending.put(key, decision)
        return None

    def _served(self, decision: Decision) -> list[Generation]:
        entry = decision.chosen
        assert entry is not None  # noqa: S101 - `takes` says so
        self._tally.add("hits")
        self._kept.used(entry)
        hit = os.urandom(8).hex()  # no other host's
        self._served_by.put(hit, decision)
        answer = entry.packed.fresh()
        if isinstance(answer, ChatGeneration):
            answer.message.response_metadata[CACHE_MARK] = {
                "source": SEMANTIC,
                "entry": entry.id,
                "hit": hit,
                "question": entry.question.text,
                "similarity": round(decision.similarity, 4),
                "risk": round(decision.risk, 5),
            }
        return [answer]

    def _learn_and_keep(self, decision: Decision, answers: RETURN_VAL_TYPE) -> None:
        control = current_control()
        if len(answers) != 1 or control.no_store:
            return
        try:
            (answer,) = self._codec.decode(self._codec.encode(settled(answers)))
        except UnencodableError:
            return
        if isinstance(answer, ChatGeneration) and getattr(answer.message, "tool_calls", None):
            return  # a tool call is for one moment
        fresh = answer.text
        agree = {
            entry.group: entry
            for entry in reversed(decision.near)
            if self._judge(decision.question.text, entry.answer, fresh)
        }
        chosen = decision.chosen
        if chosen is not None and decision.x is not None:
            right = chosen.group in agree
            stands_for = 1 / self._audit_rate if decision.audited else 1.0
            self._model.learn(
                decision.x, right=right, risk=decision.risk, entry=chosen.id, stands_for=stands_for
            )
            if decision.audited or (decision.takes and self._mode == "shadow"):
                self._tally.add("checked")
                self._tally.add("wrong", int(not right))
                self._tally.add("would_hit", int(not decision.audited))
        lives = [life for life in (self._ttl_s, control.ttl_s) if life is not None]
        self._kept.add(
            decision.question,
            decision.vector,
            answer=answer,
            group=next(iter(agree), None),
            ttl_s=min(lives) if lives else None,
            tags=control.tags,
        )
        self._learned.save()

    def close(self) -> None:
        """Save what was learned and close what is open; the cache may be used again."""
        self._learned.save(after=1)
        self._kept.close()

    def _failed(self, error: Exception) -> None:
        self._tally.add("errors")
        if not self._warned:
            self._warned = True
            _LOG.warning("the semantic cache failed, calls go on without it: %r", error)
