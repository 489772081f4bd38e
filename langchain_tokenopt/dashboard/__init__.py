"""A ledger for people: the page that `tokenopt dashboard` serves, and reports as files."""

from langchain_tokenopt.dashboard.account import (
    Account,
    account_as_csv,
    account_as_json,
    account_of,
)
from langchain_tokenopt.dashboard.html_report import account_as_html

__all__ = ["Account", "account_as_csv", "account_as_html", "account_as_json", "account_of"]
