"""`tokenopt report` from the command line, all the way."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.cli import main


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with UsageLedger(path) as ledger:
        ledger.append(
            CallRecord(
                run_id=uuid4(),
                started_at=datetime(2026, 11, 23, tzinfo=UTC),
                kind="live",
                model="gpt-5-mini",
                usage=Usage(plain_input=10, output=5),
                cost=Decimal("0.5"),
                latency_s=1.0,
                feature="faq",
            )
        )
    return path


@pytest.mark.parametrize("form", ["table", "json", "csv", "html"])
def test_the_command_ends_well_in_every_form(
    ledger: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"report.{form}"
    arguments = ["report", str(ledger), "--by", "feature", "--format", form]

    assert main([*arguments, "--output", str(target)]) == 0
    assert "faq" in target.read_text()
    capsys.readouterr()
    if form == "json":
        assert main(arguments) == 0
        assert "faq" in json.dumps(json.loads(capsys.readouterr().out))


def test_a_ledger_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "none.sqlite")]) == 2
