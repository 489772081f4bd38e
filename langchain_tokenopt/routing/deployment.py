"""What is known beforehand of a deployment of a model, and what is told of it afterwards."""

from dataclasses import KW_ONLY, dataclass

from langchain_core.language_models import BaseChatModel

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.wrapping import check_kind


@dataclass(frozen=True, slots=True)
class Deployment:
    """One of the places where a model is served: a region of a provider, an account, a server.

    Give its model no retries of its own (`ChatOpenAI(max_retries=0)`): they would go to the same
    place, and hide from the balancer that it fails.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> Deployment("sweden", ScriptedModel(["four"]), region="eu", cooldown_s=5).region
    'eu'
    """

    name: str
    """Shown in answers, statistics and errors, and the key of what processes share."""
    model: BaseChatModel
    _: KW_ONLY
    region: str | None = None
    """Where data stays, in your own words: `eu`, `us`. A call bound to a region never leaves it."""
    weight: float = 1.0
    """How many calls it can carry, beside the others."""
    relative_cost: float = 1.0
    """Its price beside the others': one of twice the price is asked if it is twice as quick."""
    failures_allowed: int = 3
    """Failures within `window_s` after which it is still asked; one more and it cools."""
    failure_share: float = 0.5
    """It cools only if at least this share of its latest calls failed, of the last 20 or more."""
    window_s: float = 60.0
    cooldown_s: float = 10.0
    """How long it is not asked then; again as long if the one call after it fails too."""
    longest_wait_s: float = 300.0
    """The most that is heeded of what a provider says with `retry-after`."""

    def __post_init__(self) -> None:
        if not self.name:
            message = "a deployment needs a name, got an empty one"
            raise ConfigurationError(message)
        advice = "pass the chat model, and bind tools to the BalancedChatModel"
        check_kind(self.model, BaseChatModel, advice)
        positive = ("weight", "relative_cost", "window_s", "cooldown_s", "longest_wait_s")
        for field in positive:
            value = getattr(self, field)
            if not 0 < value < float("inf"):
                message = f"{field} of {self.name!r} must be finite and more than 0, got {value}"
                raise ConfigurationError(message)
        if self.failures_allowed < 0:
            message = (
                f"failures_allowed of {self.name!r} must be at least 0, got {self.failures_allowed}"
            )
            raise ConfigurationError(message)
        if not 0 <= self.failure_share <= 1:
            message = f"failure_share of {self.name!r} must be 0 to 1, got {self.failure_share}"
            raise ConfigurationError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """When a second deployment is asked for what the first one takes long to answer.

    The answer that comes first is given. The other call is cancelled in asynchronous code; a thread
    cannot be, so there it ends by itself and is paid for. Callbacks are told of both.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    most: float = 0.05
    """At most so many more calls, as a share of the requests."""
    saved: int = 10
    """Hedges that are saved up while none is needed: as many may come at once in an outage."""
    quantile: float = 0.95
    """Of the first deployment's latencies: when this time has passed, the second one is asked."""
    at_least_s: float = 0.05
    """Never asked earlier than this."""
    measurements: int = 20
    """Latencies of a deployment that must be known before its calls are hedged."""

    def __post_init__(self) -> None:
        if not 0 < self.most <= 1 or not 0 < self.quantile <= 1:
            message = (
                f"most and quantile must be above 0 and at most 1, got {self.most} "
                f"and {self.quantile}"
            )
            raise ConfigurationError(message)
        if self.at_least_s < 0 or self.measurements < 1 or self.saved < 1:
            message = (
                "at_least_s must be at least 0, measurements and saved at least 1, got "
                f"{self.at_least_s}, {self.measurements} and {self.saved}"
            )
            raise ConfigurationError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStats:
    """How a deployment stands, as this process sees it."""

    name: str
    region: str | None
    in_flight: int
    calls: int
    """All that were begun here; each ends as one of the next four, or is in flight."""
    answers: int
    failures: int
    """Rate limits, server errors, timeouts, lost connections, refused keys."""
    rejected: int
    """Calls that failed through no fault of the deployment."""
    abandoned: int
    """Calls that their caller left, or that another deployment answered first."""
    rate_limited: int
    """Of the failures, those with status 429."""
    hedges: int
    """Of the calls, those that were the second one for the same request."""
    cooldowns: int
    """How often it began to cool."""
    cooling_s: float
    """How long it still cools; 0 if it may be asked."""
    half_open: bool
    """Whether one call must be answered before others may follow."""
    answer_s: float | None
    """Typical time to a whole answer, the latest ones counting more; `None` if not measured."""
    first_token_s: float | None
    """Typical time to the first token of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceStats:
    """How the deployments of a `BalancedChatModel` stand, as this process sees them."""

    requests: int
    """Calls of the model itself, each of which may have asked several deployments."""
    hedges: int
    """Requests that a second deployment was asked for."""
    hedges_won: int
    """Hedges that were answered first."""
    shared_failures: int
    """Times that the shared state could not be used, and this process went on with its own."""
    deployments: tuple[DeploymentStats, ...]

    def __getitem__(self, name: str) -> DeploymentStats:
        return {stats.name: stats for stats in self.deployments}[name]
