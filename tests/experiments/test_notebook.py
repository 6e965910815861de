"""The notebook runs as it stands."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.launchers import PATIENCE, ROOT

NOTEBOOK = ROOT / "experiments" / "digits.ipynb"


def printed(notebook):
    """What the cells have printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream")


def claim(text):
    """The points that pretraining adds, as the notebook says."""
    return float(text.partition("Pretraining adds ")[2].split()[0])


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_committed_as_one_run_from_top_to_bottom_left_it(notebook):
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert claim(printed(notebook)) > 0
    pictures = [
        output.data["image/png"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3
    assert Path(NOTEBOOK).stat().st_size < 200_000
    assert str(Path.home()) not in NOTEBOOK.read_text()


@pytest.mark.slow
def test_the_notebook_runs_and_its_claim_holds(notebook, monkeypatch):
    # The kernel is a process of its own: the package of this working tree, jax as a newcomer has it.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("MPLBACKEND")
    client = NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    assert claim(printed(notebook)) > 0
