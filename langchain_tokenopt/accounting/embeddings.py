"""Book what embeddings cost: LangChain gives them no callbacks."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import var_child_runnable_config
from typing_extensions import override

from langchain_tokenopt.accounting.ledger import UsageLedger
from langchain_tokenopt.accounting.prices import PriceSource, cost_of
from langchain_tokenopt.accounting.records import CallRecord, Kind
from langchain_tokenopt.calls.usage import Usage
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.tokens import counter_for

_LOG = logging.getLogger(__name__)
# Beyond as many characters, counting takes longer than an event loop should wait.
_LONG = 50_000
_NAMES = ("model", "model_name", "model_id", "deployment", "azure_deployment")
_PROVIDERS = {
    "OpenAIEmbeddings": "openai",
    "AzureOpenAIEmbeddings": "azure",
    "GoogleGenerativeAIEmbeddings": "google_genai",
    "VertexAIEmbeddings": "google_vertexai",
    "MistralAIEmbeddings": "mistralai",
    "CohereEmbeddings": "cohere",
    "VoyageAIEmbeddings": "voyageai",
    "BedrockEmbeddings": "bedrock",
}


class MeteredEmbeddings(Embeddings):
    """Any embeddings, with every call booked in a ledger: tokens, dollars, time.

    Tokens are counted here, since LangChain's embeddings do not say what the provider reported;
    they are exact for OpenAI's models and labelled as estimates for all others. Around
    `CachedEmbeddings` it books what was asked for; inside of it, what was computed and is billed:
    `CachedEmbeddings(MeteredEmbeddings(...), ...)`. Nothing that goes wrong here breaks a call.

    Args:
        embeddings: Any.
        ledger: Where the calls are booked.
        model: Name of the model; by default what the embeddings call it.
        provider: LangChain's name of the provider; by default guessed from the class.
        metadata: Feature, tenant and endpoint of all calls; those of a chain or graph that is
            running come from its config, and come first.
        prices: Where prices come from; by default where the ledger's do.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> ledger = UsageLedger()
    >>> fake = DeterministicFakeEmbedding(size=4)
    >>> metered = MeteredEmbeddings(fake, ledger=ledger, model="text-embedding-3-small")
    >>> len(metered.embed_query("Where is my parcel?"))
    4
    >>> ledger.totals().usage.input_tokens
    5
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        ledger: UsageLedger,
        model: str | None = None,
        provider: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        prices: PriceSource | None = None,
    ) -> None:
        given: Any = embeddings
        if not isinstance(given, Embeddings):
            message = f"expected LangChain Embeddings, got {type(given).__name__}"
            raise ConfigurationError(message)
        named = (getattr(embeddings, name, None) for name in _NAMES)
        self.embeddings = embeddings
        self.failures = 0
        """Calls that could not be booked; the first is logged."""
        self.model = model or next((str(name) for name in named if name), "unknown")
        self._ledger = ledger
        self._provider = provider or _PROVIDERS.get(type(embeddings).__name__)
        self._metadata = dict(metadata or {})
        self._prices = prices or ledger.price_source

    def __getattr__(self, name: str) -> Any:
        # What vector stores read of embeddings: `dimensions`, `model_name`, ...
        if name.startswith("__") or "embeddings" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.embeddings, name)

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        call = _Call(texts)
        try:
            vectors = self.embeddings.embed_documents(call.texts)
        except BaseException as error:
            self._book(call, error)
            raise
        self._book(call)
        return vectors

    @override
    def embed_query(self, text: str) -> list[float]:
        call = _Call([text])
        try:
            vector = self.embeddings.embed_query(text)
        except BaseException as error:
            self._book(call, error)
            raise
        self._book(call)
        return vector

    @override
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        call = _Call(texts)
        try:
            vectors = await self.embeddings.aembed_documents(call.texts)
        except BaseException as error:
            self._book(call, error)
            raise
        call.end()
        if call.is_long:
            await asyncio.to_thread(self._book, call)
        else:
            self._book(call)
        return vectors

    @override
    async def aembed_query(self, text: str) -> list[float]:
        call = _Call([text])
        try:
            vector = await self.embeddings.aembed_query(text)
        except BaseException as error:
            self._book(call, error)
            raise
        self._book(call)
        return vector

    def _book(self, call: "_Call", error: BaseException | None = None) -> None:
        call.end()
        if not call.texts:
            return  # nothing is sent
        try:
            self._ledger.append(self._record(call, error))
        except Exception as failure:  # noqa: BLE001 - no account may break the call
            self.failures += 1
            if self.failures == 1:
                _LOG.warning("a call of %s could not be booked: %r", self.model, failure)

    def _record(self, call: "_Call", error: BaseException | None) -> CallRecord:
        walked_away = isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit)
        kind: Kind = "embedding"
        if error is not None:
            kind = "abandoned" if walked_away else "error"
        counter = counter_for(self.model)
        # A call that was refused costs nothing; one that was left is billed all the same.
        read = 0 if kind == "error" else sum(map(counter.count_text, call.texts))
        usage = Usage(plain_input=read)
        told = {**self._metadata, **_metadata_here()}
        return CallRecord(
            run_id=uuid4(),
            started_at=call.at,
            kind=kind,
            model=self.model,
            model_asked=self.model,
            provider=self._provider,
            usage=usage,
            cost=self._cost(usage, call.at),
            latency_s=call.took_s or 0.0,
            feature=_text(told.get("feature")),
            endpoint=_text(told.get("endpoint")),
            tenant=_text(told.get("tenant")),
            node=_text(told.get("langgraph_node")),
            error=type(error).__name__ if kind == "error" else None,
            estimated=counter.estimated or kind == "abandoned",
        )

    def _cost(self, usage: Usage, at: datetime) -> Decimal | None:
        if not usage.total_tokens:
            return Decimal(0)
        try:
            price = self._prices(
                model=self.model, provider=self._provider, tier=None, usage=usage, at=at
            )
        except Exception as failure:  # noqa: BLE001 - a broken price table must not lose the count
            _LOG.debug("the price source failed: %r", failure)
            return None
        return None if price is None else cost_of(usage, price).total


class _Call:
    """A call that has begun."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts: list[Any] = list(texts)  # may be read only once, and hold what is no text
        self.at = datetime.now(UTC)
        self.took_s: float | None = None
        self._clock = time.perf_counter()

    @property
    def is_long(self) -> bool:
        """Whether an event loop should not wait for the count."""
        return sum(len(text) for text in self.texts if isinstance(text, str)) > _LONG

    def end(self) -> None:
        """Take the time, which what is counted afterwards is no part of."""
        if self.took_s is None:
            self.took_s = time.perf_counter() - self._clock


def _metadata_here() -> Mapping[str, Any]:
    config = var_child_runnable_config.get()
    return (config or {}).get("metadata") or {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
