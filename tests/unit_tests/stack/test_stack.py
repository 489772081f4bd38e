"""What is built of a settings file."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from langchain_tokenopt.batching import RateLimitedChatModel
from langchain_tokenopt.caches import SemanticCache, TieredCache
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.middleware import (
    BudgetMiddleware,
    CascadeMiddleware,
    ContextMiddleware,
    LedgerMiddleware,
    PromptCacheMiddleware,
    ResponseCacheMiddleware,
)
from langchain_tokenopt.routing import Gate
from langchain_tokenopt.routing.planner import CascadePlan
from langchain_tokenopt.routing.policy import DataNote, RoutingPolicy
from langchain_tokenopt.routing.risk import Promise
from langchain_tokenopt.stack import MultiTierContext, Settings, Stack
from langchain_tokenopt.testing import ScriptedModel

EVERYTHING: dict[str, Any] = {
    "models": {"small": "gpt-5-mini", "large": "gpt-5.1"},
    "budgets": [{"name": "all", "calls": 100}],
    "cache": {"where": "memory", "semantic": {}},
    "prompt_cache": {"volatile": ["^Now:"]},
    "context": {"max_tokens": 8_000},
    "batching": {"requests_per_minute": 1_000},
    "cascade": {"rules": [{"tier": "large", "mentions": ["contract"]}]},
}
ASK: Any = {"messages": [HumanMessage("When do you open?")]}


class Upstream:
    """The paid models, by their names."""

    def __init__(self, **answers: Any) -> None:
        self.models = {
            name: ScriptedModel([answer], when_exhausted="repeat_last", model_name=name)
            for name, answer in {
                "gpt-5-mini": "From nine.",
                "gpt-5.1": "At nine.",
                **answers,
            }.items()
        }

    def __call__(self, name: str) -> ScriptedModel:
        return self.models[name]

    @property
    def calls(self) -> dict[str, int]:
        return {name: model.calls for name, model in self.models.items()}


def stack_of(
    told: Any = EVERYTHING, *, changes: Any = None, **parts: Any
) -> tuple[Stack, Upstream]:
    upstream = parts.pop("models", Upstream())
    return Stack(Settings.of(told, changes=changes), models=upstream, **parts), upstream


def test_one_model_is_asked_once_and_booked() -> None:
    stack, upstream = stack_of()

    answers = [stack.model().invoke("Open?", {"callbacks": stack.callbacks}) for _ in range(2)]

    assert [answer.text for answer in answers] == ["At nine."] * 2
    assert upstream.calls == {"gpt-5-mini": 0, "gpt-5.1": 1}
    assert stack.ledger.totals().cache_hits == 1


def test_budgets_hold_and_served_answers_are_free() -> None:
    stack, upstream = stack_of(changes={"budgets": [{"name": "one", "calls": 1}]})
    model = stack.model()

    model.invoke("Open?")
    model.invoke("Open?")
    with pytest.raises(BudgetExceededError):
        model.invoke("And on Sundays?")

    assert upstream.calls["gpt-5.1"] == 1


def test_the_graph_has_all_stages() -> None:
    stack, upstream = stack_of()
    graph: Any = stack.graph().compile()

    first, again = graph.invoke(ASK), graph.invoke(ASK)
    ruled = graph.invoke({"messages": [HumanMessage("Is the contract void?")]})

    assert [state["tier"] for state in (first, again, ruled)] == ["small", "cache", "large"]
    assert upstream.calls == {"gpt-5-mini": 1, "gpt-5.1": 1}
    assert isinstance(stack.similar, SemanticCache)


async def test_the_graph_keeps_tenants_apart() -> None:
    stack, upstream = stack_of()
    graph: Any = stack.graph().compile()

    for tenant in ("acme", "bravo"):
        state = await graph.ainvoke(ASK, context=MultiTierContext(tenant=tenant))
        assert state["tier"] == "small"

    assert upstream.calls["gpt-5-mini"] == 2


def test_without_a_cascade_there_is_one_tier() -> None:
    stack, _ = stack_of({"models": {"large": "gpt-5.1"}})

    assert stack.graph().compile().invoke(ASK)["tier"] == "large"
    with pytest.raises(ConfigurationError, match="no small model"):
        stack.model("small")


def test_the_middleware_stands_in_an_order_that_works() -> None:
    stack, upstream = stack_of()
    middleware = stack.middleware()

    agent: Any = create_agent(stack.source(), middleware=middleware)
    states = [agent.invoke(ASK) for _ in range(2)]

    assert [type(each) for each in middleware] == [
        ContextMiddleware,
        CascadeMiddleware,
        ResponseCacheMiddleware,
        BudgetMiddleware,
        LedgerMiddleware,
        PromptCacheMiddleware,
    ]
    assert [state["messages"][-1].text for state in states] == ["From nine."] * 2
    assert upstream.calls == {"gpt-5-mini": 1, "gpt-5.1": 0}
    assert [record.kind for record in stack.ledger.records()] == ["live", "cache_hit"]


def test_rules_name_the_agents_own_model_as_the_large_one() -> None:
    stack, upstream = stack_of()
    agent: Any = create_agent(stack.source(), middleware=stack.middleware())

    agent.invoke({"messages": [HumanMessage("Is the contract void?")]})

    assert upstream.calls == {"gpt-5-mini": 0, "gpt-5.1": 1}


def test_a_stack_that_is_closed_has_written_its_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for n in range(20):
        stack, _ = stack_of(changes={"ledger.path": str(path)})
        stack.model().invoke(f"Open on day {n}?", {"callbacks": stack.callbacks})
        stack.close()

        with contextlib.closing(sqlite3.connect(path)) as file:
            assert file.execute("SELECT count(*) FROM calls").fetchone() == (n + 1,)


def test_files_are_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    prices = tmp_path / "prices.json"
    prices.write_text('{"prices": [{"model": "gpt-5.1", "input": "1", "output": "1"}]}')
    changes = {
        "ledger.path": str(tmp_path / "ledger.sqlite"),
        "ledger.prices": str(prices),
        "cache.where": str(tmp_path / "cache.sqlite"),
        "cache.signing_key_env": "SECRET",
        "cache.semantic.path": str(tmp_path / "questions.sqlite"),
    }

    for _ in range(2):
        stack, upstream = stack_of(changes=changes)
        stack.model().invoke("Open?", {"callbacks": stack.callbacks})
        stack.close()

    assert isinstance(stack.cache, TieredCache)
    assert upstream.calls["gpt-5.1"] == 0
    totals = stack.ledger.totals()
    assert (totals.live, totals.cache_hits) == (1, 1)
    assert totals.cost == totals.usage.total_tokens / stack.ledger.totals().cost.__class__(
        1_000_000
    )


def test_a_secret_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET", raising=False)

    with pytest.raises(ConfigurationError, match="environment variable SECRET, which is not set"):
        stack_of(changes={"cache.where": "c.sqlite", "cache.signing_key_env": "SECRET"})


def test_rates_are_kept_by_every_model() -> None:
    stack, _ = stack_of()

    assert isinstance(stack.source("small"), RateLimitedChatModel)
    assert stack.source("small") is stack.source("small")


def test_a_gate_of_ones_own_judges_drafts() -> None:
    stack, upstream = stack_of(gate=Gate(reader=str, checks=[]))

    graph: Any = stack.graph().compile()

    assert graph.invoke(ASK)["attempts"][0]["score"] == 1.0
    assert upstream.calls["gpt-5.1"] == 0


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"routing policy .* cannot be read"):
        stack_of(changes={"cascade.policy": str(tmp_path / "policy.json")})


def test_a_settings_file_is_all_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "tokenopt.toml"
    path.write_text('[models]\nlarge = "gpt-5.1"\n[cache]\nwhere = "memory"\n')

    stack = Stack.load(path, models=Upstream(), changes={"cache.ttl_s": 60})

    assert stack.model().invoke("Open?").text == "At nine."
    assert stack.settings.cache is not None
    assert stack.settings.cache.ttl_s == 60


def test_what_the_settings_do_not_name_is_not_built() -> None:
    stack, upstream = stack_of({"models": {"large": "gpt-5.1"}})

    for _ in range(2):
        assert stack.model().invoke("Open?").text == "At nine."
    stack.close()

    assert upstream.calls["gpt-5.1"] == 2
    assert [type(each) for each in stack.middleware()] == [LedgerMiddleware]


def test_a_file_without_a_secret_keeps_answers_too(tmp_path: Path) -> None:
    for _ in range(2):
        stack, upstream = stack_of(changes={"cache.where": str(tmp_path / "cache.sqlite")})
        assert stack.model().invoke("Open?").text == "At nine."
        stack.close()

    assert upstream.calls["gpt-5.1"] == 0


@pytest.mark.parametrize(("question", "tier"), [("Open?", "small"), ("Open? " * 40, "large")])
def test_a_rule_may_be_about_the_length_of_the_question(question: str, tier: str) -> None:
    rule = {"tier": "large", "longer_than": 50}
    stack, _ = stack_of(changes={"cascade.rules": [rule]})

    state = stack.graph().compile().invoke({"messages": [HumanMessage(question)]})

    assert state["tier"] == tier


@pytest.mark.parametrize(("choice", "calls"), [("strong", (0, 1)), ("weak", (1, 0))])
def test_a_policy_that_advises_one_model_leaves_the_other_out(
    tmp_path: Path, choice: Any, calls: tuple[int, int]
) -> None:
    RoutingPolicy(
        plan=CascadePlan(choice=choice, reason="it pays", options=(), requests=100),
        promise=Promise(
            max_loss=0.05, delta=None, threshold=0.5, labels=100, losses_allowed=3,
            losses_seen=2, accepted_share=0.6,
        ),
        gate_model=None,
        data=DataNote(labels=200, fitted=100, calibrated=100, loss_rate=0.1, mark="a"),
    ).save(tmp_path / "policy.json")  # fmt: skip
    stack, upstream = stack_of(changes={"cascade.policy": str(tmp_path / "policy.json")})

    stack.graph().compile().invoke(ASK)

    assert tuple(upstream.calls.values()) == calls
