"""Every Python example of the README runs, in order, in one namespace and without a network."""

import re
from pathlib import Path

import pytest

import langchain_tokenopt
from langchain_tokenopt._version import __version__

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_readme_examples_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}

    assert len(EXAMPLES) >= 4
    for number, example in enumerate(EXAMPLES, 1):
        exec(compile(example, f"README example {number}", "exec"), namespace)  # noqa: S102 - our own text


def test_the_changelog_tells_of_the_version() -> None:
    assert langchain_tokenopt.__version__ == __version__
    changelog = ROOT / "CHANGELOG.md"
    if changelog.exists():  # the wheel job copies the README only
        assert f"## [{__version__}]" in changelog.read_text()
