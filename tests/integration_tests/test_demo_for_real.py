"""The demo against a real model on this machine, and against an endpoint of one's own."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from langchain_tokenopt.cli.demo import run
from langchain_tokenopt.cli.main import parser_of
from langchain_tokenopt.demo.local_model import LOCAL_MODEL
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ChatRequest, LoopbackServer, ServerError

WEIGHTS = Path(__file__).resolve().parents[2] / ".models" / "smollm2.gguf"


@pytest.mark.xdist_group("local model")
def test_a_real_model_reports_real_usage_and_real_cached_tokens() -> None:
    pytest.importorskip("xllamacpp")
    if not WEIGHTS.exists():
        pytest.skip("no weights; fetch them with: make local-model")
    shown = Console(file=io.StringIO(), width=140)
    given = ["demo", "--local", "--weights", str(WEIGHTS), "--limit", "6"]

    comparison = run(parser_of().parse_args(given), console=shown)

    plain, cached = comparison.results
    assert [r.failed for r in comparison.results] == [0, 0]
    assert set(plain.by_model) == {LOCAL_MODEL}
    assert plain.totals.usage.output > 0
    assert plain.totals.usage.cache_read > 1_000
    assert plain.totals.unpriced_calls == 6
    assert plain.totals.estimated_calls == 0
    assert cached.model_calls <= plain.model_calls
    assert "Real: every request is answered by" in shown.file.getvalue()  # type: ignore[attr-defined]


def test_live_sends_the_log_to_the_users_endpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "calls.jsonl"
    request = {"model": "gpt-5.1", "messages": [{"role": "user", "content": "2 + 2?"}]}
    log.write_text((json.dumps({"request": request}) + "\n") * 5)
    shown = Console(file=io.StringIO(), width=140)
    with LoopbackServer(lambda request: f"{request.model} says 4") as endpoint:
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        given = ["demo", "--live", "--yes", "--log", str(log), "--small", "gpt-5-mini"]
        comparison = run(parser_of().parse_args(given), console=shown)

    assert [r.model_calls for r in comparison.results] == [5, 1, 1, 1]
    assert comparison.plain.outcomes[0].answer == "gpt-5.1 says 4"
    assert comparison.optimised.outcomes[0].answer == "gpt-5-mini says 4"
    assert len(endpoint.requests) == 8


def test_requests_that_an_endpoint_refuses_are_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "calls.jsonl"
    rows = [
        {"request": {"model": "gpt-5.1", "messages": [{"role": "user", "content": question}]}}
        for question in ("2 + 2?", "A bad one?")
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = io.StringIO()

    def answer(request: ChatRequest) -> str | ServerError:
        bad = "bad" in request.text
        return ServerError(status=400, message="content filter") if bad else "4"

    with LoopbackServer(answer) as endpoint:
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        given = ["demo", "--live", "--yes", "--log", str(log)]
        run(parser_of().parse_args(given), console=Console(file=shown, width=140))

    said = shown.getvalue()
    assert re.search(r"requests that failed\W+1\W+1", said)
    assert re.search(r"plain: 1 requests failed, the first with: .*content filter", said, re.DOTALL)


def test_what_live_asks_names_every_request_it_may_send(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wordllama")
    log = tmp_path / "calls.jsonl"
    request = {"model": "gpt-5.1", "messages": [{"role": "user", "content": "2 + 2?"}]}
    log.write_text(json.dumps({"request": request}) + "\n")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    shown = io.StringIO()
    given = ["demo", "--live", "--log", str(log), "--small", "gpt-5-mini"]

    with pytest.raises(ConfigurationError, match="nothing was sent"):
        run(parser_of().parse_args(given), console=Console(file=shown, width=140))

    # Plain, exact cache, and both models in each of the two cascades.
    assert "1 requests up to 6 times to gpt-5-mini, gpt-5.1" in shown.getvalue()
