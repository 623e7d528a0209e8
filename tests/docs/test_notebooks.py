"""The notebooks run from top to bottom in a fresh kernel, and find what they say: their last cell prints a number."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs metarl_jax[notebooks]")
nbclient = pytest.importorskip("nbclient", reason="needs metarl_jax[notebooks]")
pytest.importorskip("ipykernel", reason="needs metarl_jax[notebooks]")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
# The name that the last cell prints, and between what its number must lie.
CLAIMS = {
    "first_steps": ("gain", 6.0, 40.0),  # in return, by two updates
    "in_context": ("share", 0.6, 1.05),  # of the way from random (0) to Gittins (1)
}


def last_number(notebook, name):
    """The number that the last code cell printed as `name = number`."""
    cell = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    text = "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")
    found = dict(line.split(" = ") for line in text.splitlines() if " = " in line)
    return float(found[name])


def test_every_notebook_is_tested():
    assert sorted(CLAIMS) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", CLAIMS)
def test_a_notebook_runs_and_holds(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    quantity, low, high = CLAIMS[name]
    assert low < last_number(notebook, quantity) < high, "as committed"
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    assert low < last_number(notebook, quantity) < high
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in str(output)]
    assert len(pictures) == 2


@pytest.mark.parametrize("name", CLAIMS)
def test_a_notebook_is_committed_as_it_ran(name):
    """In order, without errors or warnings, and without a word of the machine that it ran on."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert not any(word in output.get("text", "") for output in outputs for word in ("/tmp", "/home", str(ROOT)))
