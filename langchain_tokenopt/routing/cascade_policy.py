"""Makes the tiers of a cascade, and where it starts, of what was calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.routing.cascade_state import Route, Tier
from langchain_tokenopt.routing.gate import Gate
from langchain_tokenopt.routing.policy import RoutingPolicy
from langchain_tokenopt.routing.router import GainRouter


def tiers_of(
    policy: RoutingPolicy, *, small: Tier, large: Tier, gate: Gate | None = None
) -> tuple[Tier, ...]:
    """Return the tiers that a policy advises: both with its gate, or the one that does alone.

    Args:
        policy: What `calibrate` decided.
        small: The model whose drafts the policy is about.
        large: The strong model.
        gate: With the second opinions and the judge that the policy's labels had; needed if they
            had any.

    Raises:
        ConfigurationError: The policy needs a gate that asks others, and none was given.
    """
    if policy.choice == "strong":
        return (large,)
    if policy.choice == "weak":
        return (small,)
    asks_others = policy.gate_model is not None and policy.gate_model.full is not None
    if gate is None and asks_others:
        message = (
            "the routing policy was calibrated with second opinions or a judge; pass "
            "gate=Gate(second_opinion=...) with the same ones"
        )
        raise ConfigurationError(message)
    scorer = replace(gate or Gate(), model=policy.gate_model)
    return (replace(small, gate=scorer, threshold=policy.promise.threshold), large)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStart:
    """Sends questions on which the strong model gains straight to it; for `start=` of a cascade."""

    router: GainRouter
    strong: str
    """The tier of the strong model."""
    threshold: float = 0.5
    """Scores of the router below it go there; others start at the first tier."""
    embeddings: Embeddings | None = None
    """Those that the router was fitted with."""

    def __call__(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Route | None:
        """Return where to start."""
        question = last_human_text(messages)
        return self._route(self.router.score(question, embeddings=self.embeddings))

    async def achoose(
        self, messages: Sequence[BaseMessage], config: RunnableConfig
    ) -> Route | None:
        """Do what calling does without blocking the event loop."""
        question = last_human_text(messages)
        return self._route(await self.router.ascore(question, embeddings=self.embeddings))

    def _route(self, score: float) -> Route | None:
        if score >= self.threshold:
            return None
        reason = f"the strong model is expected to gain: score {score:.2f} < {self.threshold:.2f}"
        return Route(tier=self.strong, reason=reason)
