"""What the package exports, and what importing it costs."""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import langchain_tokenopt
from langchain_tokenopt.cli import main
from langchain_tokenopt.cli.main import COMMANDS

PARTS = sorted(
    f"langchain_tokenopt.{module.name}"
    for module in pkgutil.iter_modules(langchain_tokenopt.__path__)
    if module.ispkg
)


@pytest.mark.parametrize("name", ["langchain_tokenopt", *PARTS])
def test_all_is_sorted_complete_and_real(name: str) -> None:
    module = importlib.import_module(name)
    exported = list(module.__all__)

    # The order that ruff's RUF022 asks for: constants, classes, functions.
    assert exported == sorted(exported, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert len(set(exported)) == len(exported)
    for public in exported:
        assert getattr(module, public) is not None


@pytest.mark.parametrize("name", PARTS)
def test_a_part_exports_every_public_name_that_it_gathers(name: str) -> None:
    module = importlib.import_module(name)
    gathered = {
        public
        for public, value in vars(module).items()
        if not public.startswith("_") and not isinstance(value, type(importlib))
    }

    assert gathered == set(module.__all__) - {"__version__"}


def test_the_tests_import_the_package_that_they_are_meant_to() -> None:
    expected = os.environ.get("TOKENOPT_EXPECT_INSTALLED")
    if expected is None:
        pytest.skip("set TOKENOPT_EXPECT_INSTALLED to the folder of an installed wheel")

    assert Path(langchain_tokenopt.__file__).is_relative_to(expected)


def test_the_package_ships_its_type_marker_and_data() -> None:
    root = Path(langchain_tokenopt.__file__).parent

    assert (root / "py.typed").exists()
    assert (root / "demo" / "traffic.jsonl").stat().st_size > 0


@pytest.mark.parametrize(
    "what", ["import langchain_tokenopt", "from langchain_tokenopt import MemoryCache, UsageLedger"]
)
def test_importing_the_package_loads_nothing_heavy(what: str) -> None:
    heavy = "{'langchain_openai', 'openai', 'faiss', 'langgraph', 'tiktoken', 'redis', 'rich'}"
    code = f"import sys; {what}; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )

    assert done.stdout.strip() == "[]"


def test_a_command_loads_what_it_needs_and_no_other_command() -> None:
    code = (
        "import sys, contextlib\n"
        "from langchain_tokenopt.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['lint', '--help'])\n"
        "print({'langchain_core', 'numpy', 'langchain_openai'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "usage: tokenopt lint" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_command_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out

    modules = pkgutil.iter_modules(importlib.import_module("langchain_tokenopt.cli").__path__)
    assert set(COMMANDS) <= {module.name for module in modules}
    assert all(f"\n    {command}" in told for command in COMMANDS)
