"""The import rules, held over the syntax tree of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import langchain_tokenopt

PACKAGE = Path(langchain_tokenopt.__file__).parent
FOUNDATION = {
    "calls", "errors", "files", "messages", "tokens", "redis_client", "wrapping", "_version",
}  # fmt: skip
SIBLINGS = {"accounting", "caches", "prompts", "reasoning", "routing", "batching"}
# Everything else composes: advisor, demo, middleware, cli, dashboard, the package's own __init__.
LANGGRAPH_ALLOWED = ("routing/cascade", "reasoning/", "middleware/", "stack/", "caches/nodes.py")
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def own_parts_imported(file: Path) -> set[str]:
    names = (name.split(".") for name in imports(file))
    return {name[1] for name in names if name[0] == "langchain_tokenopt" and len(name) > 1}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_part_imports_only_what_its_layer_may(file: Path) -> None:
    part = part_of(file)
    imported = own_parts_imported(file) - {part}

    if part in FOUNDATION or part in SIBLINGS or part == "testing":
        assert imported <= FOUNDATION


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_package_never_imports_graphs_and_langgraph_stays_in_its_places(file: Path) -> None:
    roots = {name.split(".")[0] for name in imports(file)}
    where = str(file.relative_to(PACKAGE))

    assert "graphs" not in roots
    assert "tests" not in roots
    if "langgraph" in roots:
        assert where.startswith(LANGGRAPH_ALLOWED)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_file_loads_pickle_or_runs_data_as_code(file: Path) -> None:
    roots = {name.split(".")[0] for name in imports(file)}
    called = {
        node.func.id
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }

    assert not roots & {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
    assert not called & {"eval", "exec"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_every_file_opens_with_what_it_is_for_and_stays_readable(file: Path) -> None:
    text = file.read_text()

    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 400
