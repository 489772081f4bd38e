"""Who counts right? Recorded and documented answers of providers, played through LangChain.

Each payload of `payloads.json` has its source, and its right tokens and dollars worked out by hand
with the list prices of November 2026. OpenAI's and Anthropic's go over HTTP to a server here that
answers them byte for byte, through `ChatOpenAI` and `ChatAnthropic`; all handlers hear the same
call. Peers: langchain-community's `get_openai_callback`, langchain-core's
`UsageMetadataCallbackHandler` (tokens only: it has no dollars) and tokencost (given the reported
totals, of which it knows input, cached input and output; "-" if it is not installed). Dollars may
differ by a billionth. The run fails if ours is not right in all.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_community.callbacks.openai_info import OpenAICallbackHandler
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from measure import arguments, table

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.testing import ScriptedModel

CASES = json.loads((Path(__file__).parent / "payloads.json").read_text())
BILLIONTH = Decimal("1e-9")


@dataclass(frozen=True)
class Counted:
    """What someone makes of a call; `None` for what they have no notion of."""

    input: int
    output: int
    dollars: Decimal | None

    def is_right(self, case: dict[str, Any]) -> bool:
        """Whether it is what the provider bills."""
        tokens = (self.input, self.output) == (case["input"], case["output"])
        if self.dollars is None:
            return tokens
        return tokens and abs(self.dollars - Decimal(case["dollars"])) < BILLIONTH

    def shown(self, case: dict[str, Any]) -> str:
        """The mark, and the numbers where they are wrong."""
        if self.is_right(case):
            return "right"
        money = "" if self.dollars is None else f", ${self.dollars:.6f}"
        return f"**{self.input:,} + {self.output:,}{money}**"


def main() -> None:
    """Play all and print the table."""
    arguments(__doc__)
    rows, score = [], {"ours": 0, "openai": 0, "core": 0, "tokencost": 0}
    for case in CASES:
        found = play(case)
        for name, counted in found.items():
            score[name] += counted is not None and counted.is_right(case)
        dollars = f"${Decimal(case['dollars']):.6f}"
        rows.append(
            [
                case["name"],
                f"{case['input']:,} + {case['output']:,}, {dollars}",
                *("-" if each is None else each.shown(case) for each in found.values()),
            ]
        )
    head = ["payload", "right", "UsageLedger", "get_openai_callback", "core, tokens", "tokencost"]
    table("What is billed, and what is counted (wrong in bold)", head, rows)
    total = len(CASES)
    told = [f"{name} {right} of {total}" for name, right in score.items()]
    print(f"\nright: {', '.join(told)}")
    if score["ours"] != total:
        raise SystemExit("ours is not right in all")


def play(case: dict[str, Any]) -> dict[str, Counted | None]:
    """Return what each makes of one payload."""
    ledger, community, core = UsageLedger(), OpenAICallbackHandler(), UsageMetadataCallbackHandler()
    config: Any = {"callbacks": [ledger, community, core]}
    with answering(case) as url:
        model = model_of(case, url)
        if case["play"].startswith("stream"):
            for _ in model.stream("What is 2 + 2?", config):
                pass
        else:
            for _ in range(3 if "three times" in case["play"] else 1):
                with suppress(Exception):  # a payload that is an error
                    model.invoke("What is 2 + 2?", config)
    totals = ledger.totals()
    assert totals.unpriced_calls == 0, totals.unpriced_models
    read = core.usage_metadata.values()
    return {
        "ours": Counted(totals.usage.input_tokens, totals.usage.output, totals.cost),
        "openai": Counted(
            community.prompt_tokens, community.completion_tokens, Decimal(str(community.total_cost))
        ),
        "core": Counted(
            sum(u["input_tokens"] for u in read), sum(u["output_tokens"] for u in read), None
        ),
        "tokencost": by_tokencost(case),
    }


def by_tokencost(case: dict[str, Any]) -> Counted | None:
    """Return tokencost's price of the reported totals."""
    if find_spec("tokencost") is None:
        return None
    from tokencost import calculate_cost_by_tokens  # noqa: PLC0415 - not everyone has it

    body = case["body"] or {}
    usage = body.get("usage") or body.get("usage_metadata") or {}
    read = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    written = usage.get("completion_tokens", usage.get("output_tokens", 0))
    details = usage.get("prompt_tokens_details") or usage.get("input_token_details") or {}
    cached = details.get("cached_tokens", details.get("cache_read", 0))
    model = body.get("model") or body.get("response_metadata", {}).get("model_name", "")
    cost = Decimal(0)
    try:
        for tokens, kind in ((read - cached, "input"), (cached, "cached"), (written, "output")):
            if tokens:
                cost += calculate_cost_by_tokens(tokens, model, kind)
    except (KeyError, ValueError):
        return Counted(read, written, Decimal(0))
    return Counted(read, written, cost)


def model_of(case: dict[str, Any], url: str) -> Any:
    """Return the chat model that a payload is for."""
    body, options = case["body"] or {}, case.get("options") or {}
    if case["play"] == "message":
        message = AIMessage(
            "four",
            usage_metadata=body["usage_metadata"],
            response_metadata=body["response_metadata"],
        )
        reports = "counted" if body["usage_metadata"] else "none"
        name = body["response_metadata"]["model_name"]
        return ScriptedModel([message], model_name=name, provider=body["provider"], usage=reports)
    name = body.get("model", "gpt-5-mini")
    if name.startswith("claude"):
        return ChatAnthropic(model_name=name, api_key="any", base_url=url, timeout=5, stop=None)
    cache = InMemoryCache() if "cached" in case["play"] else None
    chat = ChatOpenAI(
        model=name,
        base_url=f"{url}/v1",
        api_key="any",
        stream_usage=True,
        use_responses_api=False,
        cache=cache,
        max_retries=0 if case["play"] == "400" else 2,
        **({"n": options["n"]} if "n" in options else {}),
    )
    return chat.bind(**{k: v for k, v in options.items() if k != "n"}) if options else chat


@contextmanager
def answering(case: dict[str, Any]) -> Iterator[str]:
    """Serve one payload."""
    left = {"429 first": [429], "400": [400]}.get(case["play"], [])
    statuses = list(left)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = statuses.pop(0) if statuses else 200
            kind = "application/json"
            if status != 200:
                answer = json.dumps({"error": {"message": "no", "type": "x"}})
            elif asked.get("stream"):
                answer, kind = "".join(events(case)), "text/event-stream"
            else:
                answer = json.dumps(case["body"])
            data = answer.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.send_header("retry-after-ms", "10")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def events(case: dict[str, Any]) -> Iterator[str]:
    """Yield the payload as a stream: its usage at the end, or in every chunk."""
    body, every = case["body"], "every" in case["play"]
    base = {k: body[k] for k in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    for text in ("fo", "u", "r", None):
        reason = "stop" if text is None else None
        delta = {} if text is None else {"role": "assistant", "content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        usage = {"usage": body["usage"]} if every else {}
        yield f"data: {json.dumps({**base, 'choices': [choice], **usage})}\n\n"
    if not every:
        yield f"data: {json.dumps({**base, 'choices': [], 'usage': body['usage']})}\n\n"
    yield "data: [DONE]\n\n"


if __name__ == "__main__":
    main()
