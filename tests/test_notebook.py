"""Every notebook runs from top to bottom."""

import shutil

import nbclient
import nbformat
import pytest

from tests.conftest import REPOSITORY, few_often

NOTEBOOKS = REPOSITORY / "notebooks"
COLAB = NOTEBOOKS / "colab.ipynb"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]_*.ipynb"))

every_notebook = pytest.mark.parametrize("path", [*LESSONS, COLAB], ids=lambda path: path.stem)


def execute(path, folder, tmp_path, monkeypatch):
    """Run a notebook in a process of its own, in ``folder``, and return its text and its number of pictures."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    monkeypatch.setenv("JAXRESNET_QUICK", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(output.output_type != "error" for output in outputs)
    text = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.reliability
def test_every_cell_of_colab_runs(tmp_path, monkeypatch):
    text, pictures = execute(COLAB, NOTEBOOKS, tmp_path, monkeypatch)
    assert pictures == 3
    assert text.count("epoch 1/1: loss") == 2 and "predicted as" in text and "labelled images right" in text
    assert {"quickstart", "final-small", "final-small.stablehlo"} <= {
        path.name for path in (tmp_path / "runs").iterdir()
    }


# What the prose of a lesson says of the outputs of its cells.
SHOWN = {
    "1_from_pytorch": ("stride 2: SAME pads (0, 1)", "PyTorch, momentum=0.1: 0.10", "Flax, momentum=0.9: 0.10"),
    "2_training_step": (
        *("two calls give the same bits: True", "the same bits: True", "the same bits without the momentum: False"),
        *("the old kernel is deleted: True", "on each device (8, 16, 16, 3)", "all-reduce on one device:    0"),
    ),
    "3_ablation": (
        *("91.048%  of 10,000: []  of 50,000: [45524]", "78.413%  of 10,000: []  of 50,000: []", "195 epochs at 0"),
        *("'0.5': 95.43} span 0.20", "95.74] span 0.44", "polynomial  - cosine"),
    ),
}


@pytest.mark.reliability
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lessons_show_what_they_say(path, tmp_path, monkeypatch):
    text, _ = execute(path, NOTEBOOKS, tmp_path, monkeypatch)
    for line in SHOWN[path.stem]:
        assert line in text
    if path.stem == "1_from_pytorch":  # the port that is right differs by rounding, and every other one by more
        table = text.partition("largest difference of logits\n")[2].splitlines()
        right, *others = (float(line.split()[-1]) for line in table if line)
        assert len(others) == 6 and 0 <= right < 1e-9 < 1e-5 < min(others)


@pytest.mark.reliability
@pytest.mark.parametrize(("path",), few_often(1, [(path,) for path in LESSONS]), ids=lambda path: path.stem)
def test_notebook_alone_asks_for_a_clone(path, tmp_path, monkeypatch):
    shutil.copy(path, tmp_path)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="Set REPOSITORY above"):
        execute(path, tmp_path, tmp_path, monkeypatch)


@every_notebook
def test_no_outputs_are_stored(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.id and (cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None))
    # As Jupyter writes it, so that saving a notebook changes only the lines of changed cells.
    assert path.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"
