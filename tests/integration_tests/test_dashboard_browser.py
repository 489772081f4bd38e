"""The dashboard as a person meets it: its own server, and headless Chromium."""

import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen
from uuid import uuid4

import pytest

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.dashboard.serve import served

pytest.importorskip("streamlit", reason="the extra dashboard is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
CHARTS = {
    "Spend": 2,
    "Caches and savings": 2,
    "Latency and errors": 2,
    "Provider's prompt cache": 2,
    "Budgets": 0,
    "Alerts": 0,
    "Calls": 0,
}

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH"),
    pytest.mark.xdist_group("dashboard_browser"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("browser") / "month.sqlite"
    start = datetime(2026, 10, 1, tzinfo=UTC)
    with UsageLedger(path) as ledger:
        for n in range(600):
            kind = ("live", "cache_hit", "error", "live")[n % 4]
            ledger.append(
                CallRecord(
                    run_id=uuid4(),
                    started_at=start + timedelta(hours=n),
                    kind=kind,
                    model=("gpt-5", "claude-sonnet-4-5", "our-own")[n % 3],
                    usage=Usage(plain_input=900, cache_read=300, cache_write=50, output=100),
                    cost=None if n % 3 == 2 else Decimal("0.02"),
                    saved=Decimal("0.01") if kind == "cache_hit" else Decimal(0),
                    latency_s=0.4,
                    feature=("faq", "search")[n % 2],
                    error="RateLimitError" if kind == "error" else None,
                )
            )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with served(path, host="127.0.0.1", port=port) as process:
        ends = time.monotonic() + 60
        while True:
            try:
                with urlopen(f"{url}/_stcore/health", timeout=5):  # noqa: S310 - our own server
                    break
            except (URLError, ConnectionError):
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < ends, "the server did not answer within a minute"
                time.sleep(0.1)
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1400, "height": 1200})
    opened.set_default_timeout(20_000)
    opened.goto(address)
    opened.get_by_role("heading", name="Spend", exact=True).wait_for()
    yield opened
    opened.close()


def choose(page: Any, view: str) -> None:
    page.get_by_test_id("stSidebar").get_by_text(view, exact=True).click()
    page.get_by_role("heading", name=view, exact=True).wait_for()
    settled(page)


def settled(page: Any) -> None:
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    playwright.expect(page.locator('[data-stale="true"]')).to_have_count(0)


# A chart with an axis but no bars or lines is an empty plot.
DRAWN = """() => [...document.querySelectorAll('[data-testid="stVegaLiteChart"] svg.marks')].filter(
    chart => chart.getBoundingClientRect().height > 100
        && [...chart.querySelectorAll('.mark-rect path, .mark-line path')].some(
            mark => mark.getBoundingClientRect().width > 5)).length"""


@pytest.mark.parametrize("view", CHARTS)
def test_a_view_is_drawn_in_the_browser(page: Any, view: str) -> None:
    choose(page, view)

    page.wait_for_function(f"() => ({DRAWN})() === {CHARTS[view]}")
    assert page.get_by_test_id("stVegaLiteChart").count() == CHARTS[view]
    assert page.get_by_test_id("stException").count() == 0


def test_the_page_asks_nothing_of_the_network(browser: Any, address: str) -> None:
    opened = browser.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.get_by_role("heading", name="Spend", exact=True).wait_for()
    for view in CHARTS:
        choose(opened, view)
    opened.close()

    hosts = {
        urlsplit(url).hostname for url in asked if urlsplit(url).scheme not in ("data", "blob")
    }
    assert hosts == {"127.0.0.1"}


def test_a_ticked_call_is_shown_in_full(page: Any) -> None:
    choose(page, "Calls")
    table = page.get_by_test_id("stDataFrame").first
    table.click(position={"x": 16, "y": 52})  # the tick box of the first row, on a canvas

    page.get_by_role("heading", name="One call", exact=True).wait_for()


def test_a_filter_changes_the_numbers(page: Any) -> None:
    calls = page.get_by_test_id("stMetric").filter(has_text="Calls").first
    playwright.expect(calls).to_contain_text("600")

    page.get_by_test_id("stMultiSelect").filter(has_text="Feature").locator("input").fill("faq")
    page.get_by_role("option", name="faq").click()

    playwright.expect(calls).to_contain_text("300")
