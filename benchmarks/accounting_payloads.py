"""Who counts right? Recorded and documented answers of providers, played through LangChain.

Each payload of `payloads.json` has its source, and its right tokens and dollars worked out by hand
with the list prices of November 2026. OpenAI's and Anthropic's go over HTTP to a server here that
answers them byte for byte, through `ChatOpenAI` and `ChatAnthropic`; all handlers hear the same
call. What a peer has no notion of does not count against it: langchain-core's
`UsageMetadataCallbackHandler` has no dollars, so its tokens are compared; langchain-community's
`get_openai_callback` has no prices but OpenAI's, so of others its tokens are; tokencost counts no
calls, it is given the right tokens and its dollars are compared ("-": not installed, or no call to
price). Dollars may differ by a billionth. The run fails if ours is not right in all.
"""

import warnings
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec

from langchain_core.callbacks import UsageMetadataCallbackHandler
from measure import arguments, table
from peers.payloads import Payload, payloads, play

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.accounting import Totals

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # langchain-community's on itself
    from langchain_community.callbacks.openai_info import OpenAICallbackHandler

BILLIONTH = Decimal("1e-9")
NAMES = ("UsageLedger", "get_openai_callback", "core, tokens", "tokencost, dollars")


@dataclass(frozen=True)
class Counted:
    """What someone makes of a call; `None` for what they have no notion of."""

    input: int | None = None
    output: int | None = None
    dollars: Decimal | None = None
    said: str = ""
    """Why there are no dollars, where there should be."""

    def is_right(self, payload: Payload) -> bool:
        """Whether it is what the provider bills, as far as it goes."""
        if self.said:
            return False
        tokens = self.input is None or (self.input, self.output) == (payload.input, payload.output)
        return tokens and (self.dollars is None or abs(self.dollars - payload.dollars) < BILLIONTH)

    def shown(self, payload: Payload) -> str:
        """The mark, and the numbers where they are wrong."""
        if self.is_right(payload):
            return "right"
        tokens = "" if self.input is None else f"{self.input:,} + {self.output:,}"
        money = "" if self.dollars is None else f"${self.dollars:.6f}"
        return f"**{self.said or ', '.join(filter(None, (tokens, money)))}**"


def main() -> None:
    """Play all and print the table."""
    arguments(__doc__)
    rows, right, compared = [], dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
    cases = payloads()
    for payload in cases:
        found = heard(payload)
        for name, counted in found.items():
            right[name] += counted is not None and counted.is_right(payload)
            compared[name] += counted is not None
        rows.append(
            [
                payload.name,
                f"{payload.input:,} + {payload.output:,}, ${payload.dollars:.6f}",
                *("-" if each is None else each.shown(payload) for each in found.values()),
            ]
        )
    head = ["payload", "right", *NAMES]
    table("What is billed, and what is counted (wrong in bold)", head, rows)
    told = [f"{name}: {right[name]} of {compared[name]}" for name in NAMES]
    print(f"\nright: {'; '.join(told)}")
    if right["UsageLedger"] != len(cases):
        raise SystemExit("ours is not right in all")


def heard(payload: Payload) -> dict[str, Counted | None]:
    """Return what each makes of one payload."""
    ledger, community, core = UsageLedger(), OpenAICallbackHandler(), UsageMetadataCallbackHandler()
    play(payload, [ledger, community, core])
    totals = ledger.totals()
    read = core.usage_metadata.values()
    dollars = Decimal(str(community.total_cost)) if payload.provider == "openai" else None
    return {
        "UsageLedger": Counted(
            totals.usage.input_tokens,
            totals.usage.output,
            totals.cost,
            f"no price for {totals.unpriced_models}" if totals.unpriced_calls else "",
        ),
        "get_openai_callback": Counted(
            community.prompt_tokens, community.completion_tokens, dollars
        ),
        "core, tokens": Counted(
            sum(u["input_tokens"] for u in read), sum(u["output_tokens"] for u in read)
        ),
        "tokencost, dollars": by_tokencost(payload, totals),
    }


def by_tokencost(payload: Payload, totals: Totals) -> Counted | None:
    """Return tokencost's price of the right tokens: it knows input, cached input and output."""
    if find_spec("tokencost") is None or not payload.body:
        return None
    from tokencost import calculate_cost_by_tokens  # noqa: PLC0415 - not everyone has it

    served = payload.body.get("response_metadata", payload.body)
    model = served.get("model_name", served.get("model"))
    cached = totals.usage.cache_read
    parts = ((payload.input - cached, "input"), (cached, "cached"), (payload.output, "output"))
    try:
        costs = [calculate_cost_by_tokens(tokens, model, kind) for tokens, kind in parts if tokens]
    except KeyError:
        return Counted(said="KeyError")
    return Counted(dollars=sum(costs, Decimal(0)))


if __name__ == "__main__":
    main()
