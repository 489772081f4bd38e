"""A ledger for people: the page that `tokenopt dashboard` serves, and reports as files."""
