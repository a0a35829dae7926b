"""The pages docs/own_data.md and docs/search.md: every command and program on them runs."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.data.test_loading import save_folders

pytestmark = pytest.mark.reliability

SMALL = ["--config.model.channels=4,8", "--config.model.blocks=1,1", "--config.num_epochs=1", "--config.batch_size=6"]


def blocks(page, language):
    """Return the code blocks of a page in docs/ that are marked as ``language``, or not marked."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
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


def commands(page):
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("jaxresnet ")]


def test_from_a_folder_of_pictures_to_predictions(run, tmp_path):
    save_folders(tmp_path / "pets", sizes=(6, 3))
    os.symlink(tmp_path / "pets" / "test" / "cat", tmp_path / "photos")
    mine = [command for command in commands("own_data.md") if "runs/pets" in " ".join(command)]
    assert [command[0] for command in mine] == ["train", "evaluate", "predict", "predict", "export"]
    outputs = [
        run([sys.executable, "-m", "jaxresnet", *command, *(SMALL if command[0] == "train" else [])])
        for command in mine
    ]
    assert "6 images" in outputs[1] and "labelled images right" in outputs[2]
    assert re.search(r"photos/0.png +(cat|dog)", outputs[3])
    assert (tmp_path / "wrong.png").stat().st_size > 1000 and (tmp_path / "pets.stablehlo").exists()
    assert (tmp_path / "runs" / "pets" / "confusion.csv").read_text().startswith(",cat,dog\ncat,")


def test_arrays_and_python(run, tmp_path):
    make, library = blocks("own_data.md", "python")
    run([sys.executable, "-c", make])
    (command,) = [command for command in commands("own_data.md") if "runs/noise" in " ".join(command)]
    run([sys.executable, "-m", "jaxresnet", *command, *SMALL[:2]])
    smaller = "config.model.channels, config.model.blocks = (4,), (1,)\nconfig.dataset.data_dir"
    library = library.replace("config.dataset.data_dir", smaller).replace("runs/noise", "runs/noise2")
    assert run([sys.executable, "-c", f"{library}print(run.classifier.class_names)"]).endswith("('salt', 'pepper')\n")


def test_the_search(run):
    (program,) = blocks("search.md", "python")
    assert len(program.splitlines()) <= 30
    small = program.replace("n_trials=10", "n_trials=2").replace("config.num_epochs = 4", "config.num_epochs = 1")
    output = run([sys.executable, "-c", small])
    assert re.search(r"\{'learning_rate': 0\.\d+, 'momentum': 0\.\d+\} \d+\.\d+\n$", output)


def test_tracking(run, tmp_path):
    (command,) = commands("search.md")
    run([sys.executable, "-m", "jaxresnet", *command, *SMALL])
    folder = tmp_path / "runs" / "tracked"
    assert list((folder / "wandb").glob("offline-run-*/*.wandb")) and (folder / "wandb-run-id.txt").exists()
