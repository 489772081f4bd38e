"""Read what is to be linted: Python files and notebooks, and what they say about it themselves."""

import io
import json
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.linting.check import Finding, check
from langchain_tokenopt.linting.rules import BY_CODE

_SKIPPED = frozenset(
    """
    .git .hg .venv venv env node_modules __pycache__ build dist site-packages .tox .nox
    .mypy_cache .pytest_cache .ruff_cache .ipynb_checkpoints .eggs
    """.split()
)
_NOQA = re.compile(r"#\s*noqa(?::\s*(?P<codes>[A-Z0-9, ]+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What was found in one file."""

    path: Path
    findings: tuple[Finding, ...]
    problem: str | None
    """Why it could not be read, if it could not."""
    cells: tuple[tuple[int, int], ...] = ()
    """Of a notebook: the number of each cell and the line where it begins."""

    def place(self, finding: Finding) -> str:
        """Return where a finding is: `app.py:3:5`, or `app.ipynb:cell 2:3:5`."""
        if not self.cells:
            return f"{self.path}:{finding.line}:{finding.column}"
        number, start = next(cell for cell in reversed(self.cells) if cell[1] <= finding.line)
        return f"{self.path}:cell {number}:{finding.line - start + 1}:{finding.column}"


def lint(
    paths: Iterable[str | Path],
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Iterator[FileReport]:
    """Yield a report of each file below `paths`, in the order of their names.

    Args:
        paths: Files and folders.
        select: Codes, or beginnings of codes, to look for; all without any.
        ignore: Codes, or beginnings of codes, to leave out.
        exclude: Patterns of paths to leave out.

    Raises:
        ConfigurationError: A path is not there, or a code is not known.
    """
    for given in (*select, *ignore):
        if not any(code.startswith(given) for code in BY_CODE):
            message = f"no rule is called {given!r}; there are {', '.join(BY_CODE)}"
            raise ConfigurationError(message)
    for path in _files(paths, exclude):
        report = read_and_check(path)
        chosen = (
            finding
            for finding in report.findings
            if (not select or finding.code.startswith(tuple(select)))
            and not (ignore and finding.code.startswith(tuple(ignore)))
        )
        yield FileReport(
            path=path, findings=tuple(chosen), problem=report.problem, cells=report.cells
        )


def read_and_check(path: Path) -> FileReport:
    """Return the report of one file; one that cannot be read has a problem instead of findings."""
    try:
        if path.suffix == ".ipynb":
            source, cells = _notebook(path)
        else:
            with tokenize.open(path) as file:  # by the encoding that the file names
                source = file.read()
            cells = ()
        found = check(source, name=str(path))
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError, RecursionError) as error:
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        told = error.msg if isinstance(error, SyntaxError) else str(error)
        return FileReport(path=path, findings=(), problem=f"{where}{told}")
    silenced = _silenced(source)
    kept = (
        finding
        for finding in found
        if (codes := silenced.get(finding.line)) is None or (codes and finding.code not in codes)
    )
    return FileReport(path=path, findings=tuple(kept), problem=None, cells=cells)


def _files(paths: Iterable[str | Path], exclude: Sequence[str]) -> Iterator[Path]:
    for given in map(Path, paths):
        if given.is_file():
            yield given
            continue
        if not given.is_dir():
            raise ConfigurationError(f"there is no file or folder {given}")
        found = (path for kind in ("*.py", "*.ipynb") for path in given.rglob(kind))
        for path in sorted(found):
            inside = path.relative_to(given)
            hidden = any(part in _SKIPPED for part in inside.parts)
            out = any(fnmatch(str(inside), each) or fnmatch(path.name, each) for each in exclude)
            if not hidden and not out and path.is_file():
                yield path


def _notebook(path: Path) -> tuple[str, tuple[tuple[int, int], ...]]:
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    given = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(given, list):
        raise ValueError("no notebook: it has no cells")
    lines: list[str] = []
    cells: list[tuple[int, int]] = []
    for number, cell in enumerate(given, 1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        text = cell.get("source") or ""
        source = "".join(text) if isinstance(text, list) else str(text)
        cells.append((number, len(lines) + 1))
        if source.lstrip().startswith("%%"):  # another language's cell
            lines += [""] * (source.count("\n") + 1)
            continue
        lines += [_without_magic(line) for line in source.split("\n")]
    return "\n".join(lines) + "\n", tuple(cells)


def _without_magic(line: str) -> str:
    bare = line.lstrip()
    return "pass" if bare.startswith(("%", "!", "?")) and line == bare else line


def _silenced(source: str) -> dict[int, frozenset[str]]:
    """Return the lines with `# noqa`, and its codes; none means all."""
    found: dict[int, frozenset[str]] = {}
    if "noqa" not in source:
        return found
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        match = _NOQA.search(token.string) if token.type == tokenize.COMMENT else None
        if match:
            codes = re.split(r"[,\s]+", (match["codes"] or "").strip().upper())
            found[token.start[0]] = frozenset(code for code in codes if code)
    return found
