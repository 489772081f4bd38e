"""The documentation runs, its links lead somewhere, and its API pages name what there is."""

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

import langchain_tokenopt

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# What needs a key, a server or a file of yours has another fence: py, bash, toml.
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|`)tokenopt ([a-z]+)", re.MULTILINE)
API_NAME = re.compile(r"^::: (\S+)$", re.MULTILINE)
# Parts that are run, not imported: they export nothing, or what belongs to the command.
NOT_DOCUMENTED = {"calls", "cli", "dashboard", "demo", "wrapping"}


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


def anchors(page: Path) -> set[str]:
    headings = HEADING.findall(FENCED.sub("", page.read_text()))
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


def pages_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from pages_of(inner)


@pytest.mark.parametrize("page", [p for p in PAGES if EXAMPLE.search(p.read_text())], ids=name_of)
def test_the_examples_of_a_page_run(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    namespace: dict[str, object] = {"__name__": "docs"}

    for number, example in enumerate(EXAMPLE.findall(page.read_text()), 1):
        where = f"{name_of(page)}, example {number}"
        exec(compile(example, where, "exec"), namespace)  # noqa: S102 - our own text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_to_pages_and_headings(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target in PAGES, f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_that_a_page_names_exist(page: Path) -> None:
    for command in COMMAND.findall(page.read_text()):
        assert importlib.import_module(f"langchain_tokenopt.cli.{command}").add_to


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    assert sorted(pages_of(settings["nav"])) == sorted(map(name_of, PAGES))


@pytest.mark.parametrize("page", sorted((DOCS / "reference").glob("*.md")), ids=name_of)
def test_an_api_page_names_what_can_be_imported(page: Path) -> None:
    for name in API_NAME.findall(page.read_text()):
        parts = name.split(".")
        modules = ["langchain_tokenopt"]
        while len(modules) < len(parts) and _is_module(".".join(parts[: len(modules) + 1])):
            modules = parts[: len(modules) + 1]
        module = importlib.import_module(".".join(modules))
        assert reduce(getattr, parts[len(modules) :], module) is not None


def test_every_part_has_an_api_page() -> None:
    documented = {
        name.split(".")[1]
        for page in (DOCS / "reference").glob("*.md")
        for name in API_NAME.findall(page.read_text())
    }
    parts = {
        module.name
        for module in pkgutil.iter_modules(langchain_tokenopt.__path__)
        if not module.name.startswith("_")
    }

    assert "errors" in documented
    assert {part for part in parts if _is_package(part)} - NOT_DOCUMENTED <= documented
    assert documented <= parts


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3_000:]
    loaded = re.compile(r"<(?:link|script|img)\b[^>]*\b(?:href|src)=\"?(https?://[^\s\">]+)")
    for page in tmp_path.rglob("*.html"):
        assert loaded.findall(page.read_text()) == []


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _is_package(part: str) -> bool:
    return hasattr(importlib.import_module(f"langchain_tokenopt.{part}"), "__path__")
