"""A/B tests of prompts and models: who gets which variant, and a runnable that serves them."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast
from uuid import uuid4

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
from langchain_core.runnables.config import ensure_config, merge_configs
from langchain_core.runnables.utils import Input, Output
from typing_extensions import override

from langchain_tokenopt.advisor.experiment_log import Assignment, ExperimentLog
from langchain_tokenopt.errors import ConfigurationError

EXPERIMENT_TAG = "experiment:"
"""Begins the tag of a ledger's records that names experiment and variant, with `=` between."""
REQUEST_TAG = "request:"
"""Begins the tag of a ledger's records that names the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What variants are compared by."""

    name: str
    better: Literal["higher", "lower"]
    source: Literal["outcome", "cost", "latency", "error"] = "outcome"
    """Told to `ExperimentLog.outcome`, or read from the ledger."""
    low: float | None = None
    high: float | None = None
    """Bounds of a value; with both, what is said holds for any number of outcomes."""
    guard: float | None = None
    """A variant is stopped once it is surely worse than the control by more than this."""


QUALITY = Metric(name="quality", better="higher", low=0.0, high=1.0, guard=0.0)
"""A share, or 0 and 1, told by `ExperimentLog.outcome`."""
COST = Metric(name="cost", better="lower", source="cost")
"""Dollars of a request's model calls."""
LATENCY = Metric(name="latency_s", better="lower", source="latency")
"""Seconds from the start of a request's first model call to the end of its last."""
ERRORS = Metric(name="errors", better="lower", source="error", low=0.0, high=1.0, guard=0.0)
"""1 if the last model call of a request failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Variants, and the share of keys that each is to get.

    The same key always gets the same variant. When shares change, only those keys move that must:
    raising one variant from 10% to 20% moves keys to it and none between others.

    >>> experiment = Experiment(name="faq", shares={"long": 0.5, "short": 0.5}, control="long")
    >>> experiment.assign("user 7") == experiment.assign("user 7")
    True
    """

    name: str
    shares: Mapping[str, float]
    """By variant; they need not add up to 1."""
    control: str
    metrics: tuple[Metric, ...] = (QUALITY, COST, LATENCY)
    """The first one decides."""
    confidence: float = 0.95
    """Of each metric over all variants."""
    salt: str = ""
    """Another one draws anew."""
    least_share: float | None = None
    """Of any variant beside the control, if shares are to change later; else as they are now."""

    def __post_init__(self) -> None:
        named = [self.name, *self.shares]
        if not all(named) or any(set(name) & set("=:") for name in named):
            raise ConfigurationError(f"expected names without = and :, got {named}")
        if len(self.shares) < 2 or self.control not in self.shares:
            message = f"expected two variants or more, one of them the control {self.control!r}"
            raise ConfigurationError(f"{message}, got {sorted(self.shares)}")
        if not all(math.isfinite(share) and share >= 0 for share in self.shares.values()):
            raise ConfigurationError(f"expected shares of 0 or more, got {dict(self.shares)}")
        if self.shares[self.control] == 0 or sum(map(bool, self.shares.values())) < 2:
            message = "the control and one variant more need a share above 0"
            raise ConfigurationError(f"{message}, got {dict(self.shares)}")
        if self.least_share is not None and not 0 < self.least_share <= 0.5:
            message = f"least_share is above 0 and at most 0.5, got {self.least_share}"
            raise ConfigurationError(message)
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(f"expected metrics with different names, got {names}")
        if not 0 < self.confidence < 1:
            message = f"confidence is a share between 0 and 1, got {self.confidence}"
            raise ConfigurationError(message)

    def assign(self, key: str) -> str:
        """Return the variant of a key."""
        return max(self.shares, key=lambda variant: (self._score(variant, key), variant))

    def smallest_share(self) -> float:
        """Return the least share that an arm has in a pair of a variant and the control."""
        if self.least_share is not None:
            return self.least_share
        control = self.shares[self.control]
        pairs = [
            min(share, control) / (share + control)
            for name, share in self.shares.items()
            if share and name != self.control
        ]
        return min(pairs)

    def _score(self, variant: str, key: str) -> float:
        """Return what the variant draws for a key: the highest has it, in proportion to shares.

        Each variant draws by itself, so that a change of one share leaves the others' order.
        """
        share = self.shares[variant]
        if share == 0:
            return -1.0
        text = f"{self.salt}\x1f{self.name}\x1f{variant}\x1f{key}"
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
        drawn = (int.from_bytes(digest, "big") + 0.5) / 2**64
        return -share / math.log(drawn) if drawn < 1 else math.inf


KeyOf = Callable[[Any, RunnableConfig], str]
"""Returns what is assigned a variant: a user, a thread, a request."""


def thread_of(value: Any, config: RunnableConfig) -> str:
    """Return the `experiment_key` of a config's metadata, else its thread.

    Raises:
        ConfigurationError: The config has neither.
    """
    key = (config.get("metadata") or {}).get("experiment_key")
    if key is None:
        key = (config.get("configurable") or {}).get("thread_id")
    if key is None:
        message = (
            "nothing tells whom a variant is for: give metadata['experiment_key'] or "
            "configurable['thread_id'] in the config, or key= to the ExperimentBranch"
        )
        raise ConfigurationError(message)
    return str(key)


class ExperimentBranch(Runnable[Input, Output]):
    """Runs the variant that a key is assigned, and marks its calls so that a ledger tells it.

    Works wherever a runnable does: in a chain, as the node of a graph, streamed. The calls of a
    variant carry the tags `experiment:NAME=VARIANT` and `request:ID`; the id is the config's
    `metadata["request_id"]`, or a new one. A variant that was stopped is replaced by the control,
    without marks.

    Args:
        experiment: The shares.
        variants: A runnable for each name of them.
        log: Where assignments and outcomes are kept; by default in memory, as `log`.
        key: What is assigned; by default the metadata's `experiment_key`, else the thread.

    Raises:
        ConfigurationError: The names differ from the experiment's, or the log has another
            experiment of that name.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> branch = ExperimentBranch(
    ...     Experiment(name="faq", shares={"long": 1, "short": 1}, control="long"),
    ...     variants={"long": ScriptedModel(["at length"]), "short": ScriptedModel(["briefly"])},
    ... )
    >>> branch.invoke("Why?", {"configurable": {"thread_id": "7"}}).text in ("at length", "briefly")
    True
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        variants: Mapping[str, RunnableLike[Input, Output]],
        log: ExperimentLog | None = None,
        key: KeyOf = thread_of,
    ) -> None:
        if set(variants) != set(experiment.shares):
            message = (
                f"expected a runnable for each of {sorted(experiment.shares)}, "
                f"got {sorted(variants)}"
            )
            raise ConfigurationError(message)
        self.experiment = experiment
        self.variants: dict[str, Runnable[Input, Output]] = {
            # The type tells of mappings too, whose output is a dict whatever `Output` is.
            name: cast("Runnable[Input, Output]", coerce_to_runnable(each))
            for name, each in variants.items()
        }
        self.log = log or ExperimentLog()
        self.log.begin(experiment.name, definition_of(experiment))
        self._key = key

    @property
    @override
    def InputType(self) -> Any:
        return self.variants[self.experiment.control].InputType

    @property
    @override
    def OutputType(self) -> Any:
        return self.variants[self.experiment.control].OutputType

    @override
    def invoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        chosen, marked = self._choose(input, ensure_config(config))
        return chosen.invoke(input, marked, **kwargs)

    @override
    async def ainvoke(
        self, input: Input, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Output:
        chosen, marked = await self._achoose(input, ensure_config(config))
        return await chosen.ainvoke(input, marked, **kwargs)

    @override
    def stream(
        self, input: Input, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Output]:
        chosen, marked = self._choose(input, ensure_config(config))
        yield from chosen.stream(input, marked, **kwargs)

    @override
    async def astream(
        self, input: Input, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Output]:
        chosen, marked = await self._achoose(input, ensure_config(config))
        async for chunk in chosen.astream(input, marked, **kwargs):
            yield chunk

    def _choose(
        self, value: Input, config: RunnableConfig
    ) -> tuple[Runnable[Input, Output], RunnableConfig]:
        experiment, key = self.experiment, self._key(value, config)
        variant = experiment.assign(key)
        request = str((config.get("metadata") or {}).get("request_id") or uuid4())
        counted = self.log.assigned(
            Assignment(
                experiment=experiment.name,
                variant=variant,
                key=key,
                request=request,
                shares=experiment.shares,
                at=datetime.now(UTC),
            )
        )
        if not counted:
            return self.variants[experiment.control], config
        marks: RunnableConfig = {
            "metadata": {f"{EXPERIMENT_TAG}{experiment.name}": variant, "request_id": request},
            "tags": [
                f"{EXPERIMENT_TAG}{experiment.name}={variant}",
                f"{REQUEST_TAG}{request}",
            ],
        }
        return self.variants[variant], merge_configs(config, marks)

    async def _achoose(
        self, value: Input, config: RunnableConfig
    ) -> tuple[Runnable[Input, Output], RunnableConfig]:
        if self.log.blocks:
            return await asyncio.to_thread(self._choose, value, config)
        return self._choose(value, config)


def definition_of(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as JSON values."""
    return {
        "name": experiment.name,
        "shares": dict(experiment.shares),
        "control": experiment.control,
        "metrics": [
            {name: getattr(metric, name) for name in Metric.__dataclass_fields__}
            for metric in experiment.metrics
        ],
        "confidence": experiment.confidence,
        "salt": experiment.salt,
        "least_share": experiment.smallest_share(),
    }


def experiment_of(definition: Mapping[str, Any]) -> Experiment:
    """Return the experiment of JSON values."""
    metrics = tuple(Metric(**metric) for metric in definition["metrics"])
    return Experiment(**{**definition, "metrics": metrics})
