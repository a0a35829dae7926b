"""The page docs/training.md: commands and programs on it run."""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tests.conftest import REPOSITORY
from tests.data.test_loading import save_classes

pytestmark = pytest.mark.reliability

SMALL = ["--config.model.channels=4,8", "--config.model.blocks=1,1", "--config.num_epochs=1", "--config.batch_size=6"]


def blocks(language):
    """Return the code blocks of the page that are marked as ``language``, or not marked."""
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    return [code for marked, code in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if marked == language]


@pytest.fixture
def run(tmp_path, subprocess_environment):
    """Return a function that runs a command of a page in a new folder outside of the clone."""
    environment = subprocess_environment | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}

    def run(command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def commands(workdir):
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("jaxresnet ") and workdir in line]


def test_own_pictures_to_predictions(run, tmp_path):
    """The shipped model is trained further on the classes of a folder, in fewer steps."""
    save_classes(tmp_path / "photos", {"cat": 10, "dog": 15})
    shutil.copy(tmp_path / "photos" / "cat" / "0.png", tmp_path / "new.jpg")
    mine = commands("runs/photos")
    assert [command[0] for command in mine] == ["finetune", "evaluate", "predict", "predict", "export"]
    mine[0] += ["--config.num_epochs=1", "--config.batch_size=10"]
    outputs = [run([sys.executable, "-m", "jaxresnet", *command]) for command in mine]
    assert "5 images" in outputs[1] and "labelled images right" in outputs[2]
    assert re.search(r"new.jpg +(cat|dog)", outputs[3])
    assert (tmp_path / "wrong.png").stat().st_size > 1000 and (tmp_path / "photos.stablehlo").exists()


def test_training_from_python(run, tmp_path):
    images = np.zeros((2, 32, 32, 3), np.uint8)
    for name, image in zip("34", images, strict=True):
        PIL.Image.fromarray(image).save(tmp_path / f"{name}.png")
    library, *_ = blocks("python")
    small = library.replace("config.num_epochs = 2", "config.num_epochs = 2; config.model.channels = (4, 8, 8)")
    assert run([sys.executable, "-c", f"{small}print(len(run.metrics['test_accuracy']))"]).endswith("2\n")


def test_arrays_in_a_file(run, tmp_path):
    """Arrays as the page describes them, with class names."""
    arrays = {}
    for split, count in (("train", 12), ("test", 4)):
        arrays[f"{split}_images"] = np.zeros((count, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 2
    np.savez(tmp_path / "noise.npz", **arrays, class_names=np.array(["salt", "pepper"]))
    data = ["--config.dataset.data_dir=noise.npz", "--config.model.num_classes=2", "--workdir=runs/noise"]
    run([sys.executable, "-m", "jaxresnet", "train", "--config=cpu", *data, *SMALL])
    assert (tmp_path / "runs" / "noise" / "confusion.csv").read_text().startswith(",salt,pepper")


def test_search(run):
    *_, program = blocks("python")
    small = program.replace("n_trials=10", "n_trials=2").replace("config.num_epochs = 4", "config.num_epochs = 1")
    output = run([sys.executable, "-c", small])
    assert re.search(r"\{'learning_rate': 0\.\d+, 'momentum': 0\.\d+\} \d+\.\d+\n$", output)


def test_tracking(run, tmp_path):
    (command,) = commands("runs/tracked")
    run([sys.executable, "-m", "jaxresnet", *command, *SMALL])
    folder = tmp_path / "runs" / "tracked"
    assert list((folder / "wandb").glob("offline-run-*/*.wandb")) and (folder / "wandb-run-id.txt").exists()
