"""The settings file: what it takes, and what it says of what it does not."""

import re
from pathlib import Path
from typing import Any

import pytest

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.stack import Settings, settings

EXAMPLE = re.search(r"```toml\n(.*?)```", settings.__doc__ or "", re.DOTALL)
LEAST: dict[str, Any] = {"models": {"large": "gpt-5.1"}}


def test_the_example_is_read_and_its_values_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokenopt.toml"
    assert EXAMPLE is not None
    path.write_text(EXAMPLE[1])

    read = Settings.load(path)

    assert (read.models.small, read.budgets[0].dollars) == ("gpt-5-mini", "5")
    assert read.cache is not None
    assert read.cache.semantic is not None
    assert (read.cache.ttl_s, read.cache.semantic.max_error_rate) == (86_400, 0.01)
    assert read.cascade is not None
    assert [rule.tier for rule in read.cascade.rules] == ["large", "large"]


def test_only_a_model_is_needed() -> None:
    read = Settings.of(LEAST)

    assert (read.cache, read.cascade, read.budgets, read.ledger.path) == (None, None, (), None)


def test_values_can_be_changed_in_code() -> None:
    told = {**LEAST, "cache": {"where": "memory", "ttl_s": 60}}

    read = Settings.of(told, changes={"cache.ttl_s": 5, "context.max_tokens": 4_000})

    assert read.cache is not None
    assert read.context is not None
    assert (read.cache.ttl_s, read.context.max_tokens) == (5, 4_000)
    assert told["cache"] == {"where": "memory", "ttl_s": 60}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "models: missing"),
        ({"models": {}}, "models.large: missing"),
        ({"models": {"large": 1}}, "models.large: Input should be a valid string, got 1"),
        ({"models": {"larg": "x", "large": "x"}}, "models.larg: not known; did you mean large?"),
        ({**LEAST, "cahce": {}}, "cahce: not known; did you mean cache?"),
        ({**LEAST, "zzz": 1}, "zzz: not known; known are models, ledger"),
        ({**LEAST, "cache": {"ttl": 1}}, "cache.ttl: not known; did you mean ttl_s?"),
        (
            {**LEAST, "cache": {"semantic": {"max_eror_rate": 0.1}}},
            "cache.semantic.max_eror_rate: not known; did you mean max_error_rate?",
        ),
        ({**LEAST, "cache": {"ttl_s": "60"}}, "cache.ttl_s: Input should be a valid number"),
        ({**LEAST, "cache": {"lease": True}}, "needs the URL of a Redis"),
        ({**LEAST, "context": {"max_tokens": 0}}, "context.max_tokens: Input should be greater"),
        ({**LEAST, "batching": {}}, "give tokens_per_minute or requests_per_minute"),
        ({**LEAST, "budgets": [{"name": ""}]}, "budgets.0.name: String should have at least"),
        (
            {**LEAST, "budgets": [{"name": "a"}, {"name": "b", "call": 1}]},
            "budgets.1.call: not known; did you mean calls?",
        ),
        ({**LEAST, "cascade": {}}, r"\[cascade\] needs a small model"),
        (
            {"models": {"small": "a", "large": "b"}, "cascade": {"rules": [{"tier": "large"}]}},
            "cascade.rules.0: a rule has either",
        ),
        (
            {"models": {"small": "a", "large": "b"}, "cascade": {"checks": ["perfect"]}},
            "cascade.checks.0: Input should be 'not_empty', 'not_truncated' or 'no_refusal'",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(told: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Settings.of(told)


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.of({"models": {"large": 1}, "cache": {"ttl_s": -1}, "x": 1}, where="a.toml")

    assert str(caught.value).startswith("a.toml has 3 wrong value(s):")
    assert len(str(caught.value).splitlines()) == 4


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[models\n")

    with pytest.raises(ConfigurationError, match=r"missing\.toml cannot be read: No such file"):
        Settings.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigurationError, match=r"broken\.toml is not TOML: .*line 1"):
        Settings.load(broken)
    with pytest.raises(ConfigurationError, match="x is no table"):
        Settings.of({**LEAST, "x": 1}, changes={"x.y": 1})
