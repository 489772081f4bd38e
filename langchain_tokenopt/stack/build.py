"""Builds what a settings file describes: ledger, budgets, caches, models, the graph, middleware."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from langchain_core.caches import BaseCache
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langgraph.graph import MessagesState, StateGraph

from langchain_tokenopt.accounting import (
    Budget,
    BudgetedChatModel,
    BudgetGuard,
    GenaiPrices,
    PriceOverrides,
    PriceSource,
    SqliteBudgets,
    UsageLedger,
    first_known,
)
from langchain_tokenopt.batching import RateLimitedChatModel, RateLimiter
from langchain_tokenopt.caches import CachedChatModel, MemoryCache, SemanticCache, TieredCache
from langchain_tokenopt.embeddings import MiniLmEmbeddings, StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts import CacheHints, ContextWindow, HintedChatModel
from langchain_tokenopt.routing import (
    Check,
    Gate,
    Rule,
    Tier,
    longer_than,
    mentions,
    no_refusal,
    not_empty,
    not_truncated,
)
from langchain_tokenopt.routing.cascade_policy import tiers_of
from langchain_tokenopt.routing.policy import RoutingPolicy
from langchain_tokenopt.stack.context import MultiTierContext, MultiTierState
from langchain_tokenopt.stack.multi_tier import create_multi_tier
from langchain_tokenopt.stack.settings import RuleSettings, Settings
from langchain_tokenopt.stack.stages import current_tenant

TierName: TypeAlias = Literal["small", "large"]
ModelFactory: TypeAlias = Callable[[str], BaseChatModel]

_CHECKS: dict[str, Check] = {
    "not_empty": not_empty,
    "not_truncated": not_truncated,
    "no_refusal": no_refusal,
}
_STRICTNESS = ("stop", "ask", "raise")


def open_ai(name: str) -> BaseChatModel:
    """Return OpenAI's chat model of this name; the key comes from OPENAI_API_KEY."""
    from langchain_openai import ChatOpenAI  # noqa: PLC0415 - slow to load

    return ChatOpenAI(model=name)


class Stack:
    """What a settings file describes; parts are made once, when they are first asked for.

    Args:
        settings: Checked settings.
        models: Makes the chat model of a name; LangChain's `init_chat_model` knows all providers.
        gate: Scores drafts under the settings' routing policy, with the second opinions that the
            policy's labels had.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> settings = Settings.of({"models": {"large": "gpt-5.1"}, "cache": {"where": "memory"}})
    >>> stack = Stack(settings, models=lambda name: ScriptedModel(["four"], model_name=name))
    >>> model = stack.model()
    >>> [model.invoke("2 + 2?", {"callbacks": stack.callbacks}).text for _ in range(2)]
    ['four', 'four']
    >>> stack.ledger.totals().cache_hits
    1
    """

    def __init__(
        self,
        settings: Settings,
        *,
        models: ModelFactory = open_ai,
        gate: Gate | None = None,
    ) -> None:
        self.settings = settings
        self._make = models
        self._gate = gate
        self.prices = _prices(settings)
        self.ledger = UsageLedger(settings.ledger.path, prices=self.prices)
        self.guard = _guard(settings, self.prices)
        self.cache = _cache(settings)
        self.similar = _similar(settings)
        self._limiter = _limiter(settings)
        self._lease = _lease(settings)
        self._hints = _hints(settings)
        self._sources: dict[TierName, BaseChatModel] = {}
        self._policy = _policy(settings)

    @classmethod
    def load(
        cls, path: str | Path, *, changes: dict[str, Any] | None = None, **parts: Any
    ) -> "Stack":
        """Return the stack of a settings file; see `Settings.load`."""
        return cls(Settings.load(path, changes=changes), **parts)

    @property
    def callbacks(self) -> list[Any]:
        """For `config={"callbacks": ...}`."""
        return [self.ledger]

    def model(self, tier: TierName = "large") -> BaseChatModel:
        """Return a tier's model with all that goes around it: cache, budgets, rates, hints."""
        model = self._paid(tier)
        if self.cache is None:
            return model
        return CachedChatModel(model, cache=self.cache, lease=self._lease)

    def graph(self) -> StateGraph[MultiTierState, MultiTierContext, MessagesState, MultiTierState]:
        """Return the multi-tier graph, to be compiled."""
        cascade = self.settings.cascade
        in_flight = MemoryCache(tenant=current_tenant)

        def shared(name: TierName) -> BaseChatModel:
            return CachedChatModel(self._paid(name), cache=in_flight)

        return create_multi_tier(
            self._tiers(shared),
            cache=self.cache,
            similar=self.similar,
            rules=self._rules() if cascade else (),
            prepare=self._window("large"),
            checks=self._checks(),
            prices=self.prices,
        )

    def middleware(self) -> list[Any]:
        """Return the middleware for `create_agent(self.source(), ...)`, in their order.

        Raises:
            MissingExtraError: The extra `agents` is not installed.
        """
        from langchain_tokenopt import middleware as parts  # noqa: PLC0415 - an extra

        found: list[Any] = []
        window = self._window("large")
        if window is not None:
            found.append(parts.ContextMiddleware(window))
        tiers = self._tiers(self.source) if self.settings.cascade else ()
        if len(tiers) > 1:
            rules = [replace(rule, tier=_own(rule.tier)) for rule in self._rules()]
            found.append(parts.CascadeMiddleware(tiers[:-1], checks=self._checks(), rules=rules))
        if self.cache is not None:
            found.append(parts.ResponseCacheMiddleware(self.cache))
        if self.guard is not None:
            exceeded = max(
                (budget.when_exceeded for budget in self.settings.budgets),
                key=_STRICTNESS.index,
            )
            found.append(parts.BudgetMiddleware(self.guard, when_exceeded=exceeded))
        found.append(parts.LedgerMiddleware(self.ledger))
        if self._hints is not None:
            told = self.settings.prompt_cache
            volatile = told.volatile if told else ()
            found.append(parts.PromptCacheMiddleware(self._hints, volatile=volatile))
        parts.check_order(found)
        return found

    def source(self, tier: TierName = "large") -> BaseChatModel:
        """Return a tier's model with nothing but the rates around it, for agents."""
        if tier not in self._sources:
            name = getattr(self.settings.models, tier)
            if name is None:
                raise ConfigurationError(f"the settings name no {tier} model; add it to [models]")
            made = self._make(name)
            limited = self._limiter is not None
            self._sources[tier] = (
                RateLimitedChatModel(made, limiter=self._limiter)
                if limited and self._limiter is not None
                else made
            )
        return self._sources[tier]

    def close(self) -> None:
        """Write what the ledger has yet to write, and release what the caches hold open."""
        for part in (self.ledger, self.cache, self.similar):
            close = getattr(part, "close", None)
            if close is not None:
                close()

    def _paid(self, tier: TierName) -> BaseChatModel:
        model = self.source(tier)
        if self._hints is not None:
            model = HintedChatModel(model, hints=self._hints)
        if self.guard is not None:
            model = BudgetedChatModel(model, guard=self.guard)
        return model

    def _tiers(self, model_of: Callable[[TierName], BaseChatModel]) -> tuple[Tier, ...]:
        large = Tier("large", model_of("large"))
        if self.settings.cascade is None:
            return (large,)
        if self._policy is None:
            return (Tier("small", model_of("small"), gate=self._gate), large)
        small = Tier("small", model_of("small"))
        return tiers_of(self._policy, small=small, large=large, gate=self._gate)

    def _checks(self) -> list[Check]:
        cascade = self.settings.cascade
        return [_CHECKS[name] for name in cascade.checks] if cascade else []

    def _rules(self) -> list[Rule]:
        cascade = self.settings.cascade
        return [_rule(rule) for rule in cascade.rules] if cascade else []

    def _window(self, tier: TierName) -> ContextWindow | None:
        told = self.settings.context
        if told is None:
            return None
        return ContextWindow(
            self.source(tier), max_tokens=told.max_tokens, keep_tokens=told.keep_tokens
        )


def _prices(settings: Settings) -> PriceSource:
    path = settings.ledger.prices
    return first_known(PriceOverrides.load(path), GenaiPrices()) if path else GenaiPrices()


def _guard(settings: Settings, prices: PriceSource) -> BudgetGuard | None:
    if not settings.budgets:
        return None
    budgets = [
        Budget(
            told.name,
            tokens=told.tokens,
            calls=told.calls,
            dollars=told.dollars,
            per=told.per,
            every=told.every,
        )
        for told in settings.budgets
    ]
    path = settings.ledger.path
    return BudgetGuard(budgets, store=SqliteBudgets(path) if path else None, prices=prices)


def _cache(settings: Settings) -> BaseCache | None:
    told = settings.cache
    if told is None:
        return None
    if told.where == "memory":
        return MemoryCache(ttl_s=told.ttl_s)
    return TieredCache.default(told.where, ttl_s=told.ttl_s, signing_key=_secret(settings))


def _secret(settings: Settings) -> bytes | None:
    name = settings.cache.signing_key_env if settings.cache else None
    if name is None:
        return None
    secret = os.environ.get(name)
    if not secret:
        message = f"cache.signing_key_env names the environment variable {name}, which is not set"
        raise ConfigurationError(message)
    return secret.encode()


def _similar(settings: Settings) -> SemanticCache | None:
    told = settings.cache.semantic if settings.cache else None
    if told is None:
        return None
    embeddings: Embeddings = (
        StaticEmbeddings() if told.embeddings == "static" else MiniLmEmbeddings()
    )
    return SemanticCache(
        embeddings,
        max_error_rate=told.max_error_rate,
        mode=told.mode,
        path=told.path,
        ttl_s=told.ttl_s,
    )


def _lease(settings: Settings) -> Any:
    if settings.cache is None or not settings.cache.lease:
        return None
    from langchain_tokenopt.caches.lease import Lease  # noqa: PLC0415 - redis is heavy

    return Lease(settings.cache.where)


def _limiter(settings: Settings) -> RateLimiter | None:
    told = settings.batching
    if told is None:
        return None
    window = None
    if told.redis is not None:
        from langchain_tokenopt.batching import RedisWindow  # noqa: PLC0415 - redis is heavy

        window = RedisWindow(told.redis, name=settings.models.large)
    return RateLimiter(
        tokens_per_minute=told.tokens_per_minute,
        requests_per_minute=told.requests_per_minute,
        window=window,
    )


def _hints(settings: Settings) -> CacheHints | None:
    told = settings.prompt_cache
    if told is None:
        return None
    return CacheHints(name=told.name, lifetime=told.lifetime, shards=told.shards)


def _policy(settings: Settings) -> RoutingPolicy | None:
    path = settings.cascade.policy if settings.cascade else None
    if path is None:
        return None
    try:
        return RoutingPolicy.load(Path(path))
    except OSError as error:
        message = f"the routing policy {path} cannot be read: {error.strerror or error}"
        raise ConfigurationError(message) from error


def _rule(told: RuleSettings) -> Rule:
    if told.longer_than is not None:
        return longer_than(told.longer_than, tier=told.tier)
    return mentions(*told.mentions, tier=told.tier)


def _own(tier: str) -> str:
    """Return a tier's name in an agent, whose own model is the last tier."""
    from langchain_tokenopt.middleware.cascade import OWN  # noqa: PLC0415 - an extra

    return OWN if tier == "large" else tier
