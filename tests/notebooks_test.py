"""The notebooks run from top to bottom on drawn faces, and what they show was run in order."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "experiments/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["few_shots", "long_tail", "objectives"]


@each
def test_what_it_shows_was_run_in_order_without_errors(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)


@each
def test_it_speaks_of_itself_alone(path):
    text = path.read_text()
    assert path.stat().st_size < 400_000
    assert not re.search(r"/(home|work|root|tmp|Users)/", text)


@pytest.mark.slow
@each
def test_it_runs(path, tmp_path):
    from nbclient import NotebookClient

    book = nbformat.read(path, 4)
    NotebookClient(book, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output for cell in book.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    assert pictures and list(tmp_path.glob("runs/notebooks/*/results.json"))
