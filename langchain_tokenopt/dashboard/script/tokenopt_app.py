"""The script that Streamlit runs: `streamlit run tokenopt_app.py -- LEDGER [PRICES]`."""

import sys

from langchain_tokenopt.accounting import GenaiPrices, PriceOverrides, first_known
from langchain_tokenopt.dashboard.page import show

if __name__ == "__main__":
    ledger, *files = sys.argv[1:]
    show(ledger, prices=first_known(*map(PriceOverrides.load, files), GenaiPrices()))
