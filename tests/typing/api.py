"""Uses of the public interface that a type checker must accept. Checked, never run."""

from decimal import Decimal

from langchain_core.callbacks import BaseCallbackHandler

from langchain_tokenopt import UsageLedger, counter_for, track_usage
from langchain_tokenopt.accounting import PriceSource, Totals

handler: BaseCallbackHandler = UsageLedger()
with track_usage() as ledger:
    totals: Totals = ledger.totals()
    spent: Decimal = totals.cost
by_model: dict[str, Totals] = UsageLedger("calls.sqlite").totals_by("model")
tokens: int = counter_for("gpt-5").count_text("hello")


def check(source: PriceSource) -> UsageLedger:
    return UsageLedger(prices=source)
