"""Every notebook asks a question, runs without a key or a network, and ends with a plot."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "TOKENOPT_DATA", "TOKENOPT_CACHE")
MOST_S = 120  # a cell takes a tenth of it on two idle cores


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # nbformat is typed in part
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_each_part() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_starts_with_a_question_and_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)

    title = notebook.cells[0].source.splitlines()[0]
    assert title.startswith("# ")
    assert title.endswith("?")
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_last_cell_draws_a_plot(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    # Importing streamlit, as other tests do, sets it for the process; nothing is drawn then.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    notebook = read(path)

    NotebookClient(
        notebook, timeout=MOST_S, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()

    cells = code_cells(notebook)
    told = [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    drawn = [output for output in cells[-1].outputs if "image/png" in output.get("data", {})]
    assert told == []
    assert len(drawn) == 1
    assert list(tmp_path.iterdir()) == []
