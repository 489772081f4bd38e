"""Run `python -m langchain_tokenopt`."""

import sys

from langchain_tokenopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
