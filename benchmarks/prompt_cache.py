"""How much of the input does the provider's cache serve, before and after the builder?

The demo's requests (a support assistant, its handbook of more than 1,500 tokens, six tools) go
through `ChatOpenAI` to a loopback server that simulates OpenAI's prompt cache by its published rule
(1,024 tokens at least, steps of 128, five minutes); the requests keep the minutes of the log. What
changes per request (the time, the customer) and the tools are laid out in ways that are common:

- time first: `SystemMessage(f"It is {now}. ...{handbook}")`
- time last, tools from a set: the handbook first, but the tools in the order that a set has, in a
  new process for each request, as serverless functions have
- builder: `PromptBuilder`, the time and the customer as context

"predicted" is what `PromptCacheMonitor` says should have been read, from the requests alone.
Dollars are those of the input, at list prices.
"""

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from measure import arguments, table

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.advisor import LoggedCall, PromptCacheMonitor
from langchain_tokenopt.demo.traffic import bundled_traffic
from langchain_tokenopt.prompts import CacheHints, PromptBuilder
from langchain_tokenopt.testing import LoopbackServer, PromptCache

MODEL = "gpt-5.1"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
        },
    }
    for name, about in (
        ("find_order", "Find an order."),
        ("find_book", "Find a book."),
        ("cancel_order", "Cancel an order that has not left."),
        ("start_return", "Start a return."),
        ("open_ticket", "Hand over to a person."),
        ("find_parcel", "Find a parcel."),
    )
]
Ask = Callable[[Any, LoggedCall, dict[str, Any]], object]


def main() -> None:
    """Play the traffic in each layout."""
    quick = arguments(__doc__).quick
    calls = list(bundled_traffic().calls)[: 40 if quick else None]
    handbook = str(calls[0].messages[0].text)
    builder = PromptBuilder(handbook, tools=TOOLS, name="demo")
    chains: dict[int, Any] = {}

    def time_first(chat: Any, call: LoggedCall, config: dict[str, Any]) -> object:
        system = SystemMessage(f"It is {now_of(call)}, customer {call.id}.\n{handbook}")
        return chat.bind_tools(TOOLS).invoke([system, *call.messages[1:]], config)

    def tools_of_a_set(chat: Any, call: LoggedCall, config: dict[str, Any]) -> object:
        tools = list(TOOLS)
        random.Random(call.line).shuffle(tools)
        *history, last = call.messages[1:]
        question = HumanMessage(f"It is {now_of(call)}, customer {call.id}.\n{last.text}")
        told = [SystemMessage(handbook), *history, question]
        return chat.bind_tools(tools).invoke(told, config)

    def built(chat: Any, call: LoggedCall, config: dict[str, Any]) -> object:
        chain = chains.setdefault(id(chat), builder.bind(chat, hints=CacheHints(name="demo")))
        *history, last = call.messages[1:]
        context = {"now": now_of(call), "customer": call.id}
        return chain.invoke({"query": last.text, "history": history, "context": context}, config)

    rows = []
    layouts: dict[str, Ask] = {
        "time first": time_first,
        "time last, tools from a set": tools_of_a_set,
        "builder": built,
    }
    for name, ask in layouts.items():
        rows.append([name, *play(calls, ask)])
    head = ["layout", "input tokens", "cached", "predicted", "dollars of input", "why it missed"]
    table(f"{len(calls)} requests to {MODEL}", head, rows)
    advice = builder.advice(ChatOpenAI(model=MODEL, api_key="any"), hit_share=0.95)
    print(f"\nsize of the static part: {advice}")


def play(calls: list[LoggedCall], ask: Ask) -> list[str]:
    """Return the figures of one layout."""
    clock = Clock()
    ledger, monitor = UsageLedger(), PromptCacheMonitor(clock=clock)
    cache = PromptCache(clock=clock)
    with LoopbackServer(lambda _: "ok", prompt_cache=cache) as server:
        chat = ChatOpenAI(model=MODEL, base_url=server.base_url, api_key="any")
        for call in calls:
            clock.now = call.at.timestamp() if call.at else clock.now
            ask(chat, call, {"callbacks": [ledger, monitor]})
    (report,) = monitor.reports()
    usage = ledger.totals().usage
    dollars = (
        Decimal("1.25") * usage.plain_input + Decimal("0.125") * usage.cache_read
    ) / 1_000_000
    reasons = ", ".join(f"{reason} {n}" for reason, n in report.reasons.items()) or "-"
    return [
        f"{usage.input_tokens:,}",
        f"{usage.cache_read / usage.input_tokens:.1%}",
        f"{report.predicted_share:.1%}",
        f"${dollars:.4f}",
        reasons,
    ]


class Clock:
    """Seconds of the log."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def now_of(call: LoggedCall) -> str:
    """Return the time of a request, as an application would write it."""
    return f"{call.at:%Y-%m-%d %H:%M:%S}"


if __name__ == "__main__":
    main()
