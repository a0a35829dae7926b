"""The notebook runs from top to bottom."""

import pathlib
import shutil

import nbclient
import nbformat
import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.reliability

NOTEBOOK = REPOSITORY / "notebooks" / "colab.ipynb"


def execute(folder: pathlib.Path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAXRESNET_QUICK", str(tmp_path / "runs"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_every_cell_runs(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    notebook = execute(NOTEBOOK.parent, tmp_path, monkeypatch)
    text, pictures = "", 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            text += output.get("text", "") + output.get("data", {}).get("text/plain", "")
            pictures += "image/png" in output.get("data", {})
    assert pictures == 3
    assert text.count("epoch 1/1: loss") == 2 and "predicted as" in text and "labelled images right" in text
    assert {"quickstart", "final-small", "final-small.stablehlo"} <= {
        path.name for path in (tmp_path / "runs").iterdir()
    }


def test_notebook_alone_asks_for_a_clone(tmp_path, monkeypatch):
    shutil.copy(NOTEBOOK, tmp_path)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="Set REPOSITORY above"):
        execute(tmp_path, tmp_path, monkeypatch)


def test_stored_notebook_has_no_errors():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            assert "/home/" not in text and "/root/" not in text and str(REPOSITORY) not in text
