"""What `tokenopt doctor` says of an installation."""

from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from langchain_tokenopt.advisor import doctor
from langchain_tokenopt.advisor.doctor import Finding, examine, newest_price
from langchain_tokenopt.cli import main


def of(findings: list[Finding], subject: str) -> Finding:
    return next(found for found in findings if found.subject == subject)


def test_this_installation_is_good() -> None:
    findings = examine()

    assert [found for found in findings if found.status == "bad"] == []
    for subject in ("Python", "langchain-core", "langgraph", "extra fast", "token counts"):
        assert of(findings, subject).status == "good"


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    real = metadata.version

    def version(name: str) -> str:
        changed = versions.get(name.replace("-", "_"), "")
        if changed is None:
            raise metadata.PackageNotFoundError(name)
        return changed or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)


def test_what_is_missing_or_too_old_is_told_with_the_line_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, langgraph="0.6.1", tiktoken=None, wordllama=None, streamlit="1.0")

    findings = examine()

    old = of(findings, "langgraph")
    assert (old.status, old.told) == ("bad", "0.6.1, expected <2,>=1.2")
    assert old.advice == 'pip install "langgraph<2,>=1.2"'
    assert of(findings, "tiktoken").told == "not installed"
    assert of(findings, "extra local").status == "note"
    assert of(findings, "extra local").advice == 'pip install "langchain-tokenopt[local]"'
    assert of(findings, "extra dashboard").status == "bad"


def test_old_prices_are_noted_and_those_to_come_are_not_taken_for_new() -> None:
    today = datetime.now(UTC).date()
    newest = newest_price(today)
    assert newest is not None
    assert newest <= today
    assert newest_price(date(2000, 1, 1)) is None

    later = examine(now=datetime(today.year + 2, 1, 1, tzinfo=UTC))

    assert of(later, "prices").status == "note"
    assert "upgrade genai-prices" in of(later, "prices").advice


def test_a_settings_file_is_checked(tmp_path: Path) -> None:
    good, wrong = tmp_path / "good.toml", tmp_path / "wrong.toml"
    good.write_text('[models]\nlarge = "gpt-5.1"\n')
    wrong.write_text('[models]\nlarg = "gpt-5.1"\n')

    assert of(examine(settings=good), "settings").status == "good"
    assert "did you mean large?" in of(examine(settings=wrong), "settings").told


def test_a_redis_that_is_away_is_bad_and_raises_nothing() -> None:
    findings = examine(redis="redis://127.0.0.1:1/0")

    assert of(findings, "Redis").status == "bad"
    assert of(examine(redis="http://x"), "Redis").status == "bad"


def test_the_command_prints_a_table_and_ends_with_one_if_something_is_bad(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor"]) == 0
    assert "token counts" in capsys.readouterr().out

    installed(monkeypatch, langgraph="0.6.1")
    assert main(["doctor"]) == 1
    shown: Any = capsys.readouterr().out
    assert "bad" in shown
    assert '\nlanggraph: pip install "langgraph<2,>=1.2"\n' in shown


def test_what_to_type_is_printed_as_it_is_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, wordllama=None)

    main(["doctor"])

    assert '\nextra local: pip install "langchain-tokenopt[local]"\n' in capsys.readouterr().out
