"""`tokenopt grafana`: print the Grafana dashboard for the Prometheus metrics."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from langchain_tokenopt.accounting.grafana import grafana_dashboard


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "grafana",
        help="print the Grafana dashboard for the Prometheus metrics",
        description="Prints a dashboard to import in Grafana, for PrometheusMetrics.",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it there instead")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Print or write the dashboard."""
    text = json.dumps(grafana_dashboard(), indent=2) + "\n"
    if chosen.output is None:
        sys.stdout.write(text)
    else:
        chosen.output.write_text(text, encoding="utf-8")
