"""Runs that go on from another one where the decay of their schedule begins."""

import json
import shutil

import pytest

from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.log import read_metrics
from tests.conftest import make_tiny_config, save_digits
from tests.test_training import assert_same_run

pytestmark = pytest.mark.reliability
STEPS = 6  # per epoch


def make_config(npz, num_epochs, decay_epochs, **fields):
    config = make_tiny_config(npz)
    config.num_epochs, config.ema_decay = num_epochs, 0.5
    config.schedule.update(name="constant", step_per="step", warmup_epochs=0.5, decay_epochs=decay_epochs)
    config.checkpoint.update(every_steps=STEPS, keep=9)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def trunk(tiny_npz, tmp_path_factory):
    """Return a run of 4 epochs whose last 2 decay, shrunk images in the first, with a checkpoint after each epoch."""
    folder = tmp_path_factory.mktemp("trunk") / "run"
    small = {"augment.small_images": ((16, 0.25),)}
    train_and_evaluate(make_config(tiny_npz, 4, 2.0, **small), str(folder))
    return folder


def test_branch_equals_a_whole_run(trunk, tiny_npz, tmp_path):
    config = make_config(tiny_npz, 3, 1.0, **{"augment.small_images": ((16, 0.34),)})
    train_and_evaluate(config, str(tmp_path / "whole"))
    with config.ignore_type():
        config.branch_from = str(trunk)
    train_and_evaluate(config, str(tmp_path / "branch"))
    with config.ignore_type():
        config.branch_from = None
    assert_same_run(config, tmp_path / "branch", tmp_path / "whole")
    assert [line["epoch"] for line in read_metrics(tmp_path / "branch") if "seconds" in line] == [1, 2, 3]
    assert json.loads((tmp_path / "branch" / "imported.json").read_text()) == {"file": str(trunk), "step": 2 * STEPS}


@pytest.mark.parametrize(
    ("num_epochs", "decay", "fields", "message"),
    [
        (3, 1.0, {"seed": 1}, r"until epoch 2 it was trained differently \(seed, augment.small_images\)"),
        (3, 0.0, {}, r"goes on where the decay begins; give schedule\.decay_epochs"),
        (6, 2.0, {"augment.small_images": ((16, 0.17),)}, r"until epoch 4 .*\(the learning rate\)"),
        (
            3,
            1.0,
            {"augment.small_images": ((16, 0.34),)},
            r"epoch 2 ends at step 12; checkpoints are there of \[24\]",
        ),
    ],
)
def test_branches_from_other_trunks_are_refused(trunk, tiny_npz, tmp_path, num_epochs, decay, fields, message):
    shutil.copytree(trunk, tmp_path / "trunk")
    for step in (6, 12, 18) if message.startswith("epoch 2") else ():
        shutil.rmtree(tmp_path / "trunk" / "checkpoints" / str(step))
    config = make_config(tiny_npz, num_epochs, decay, **fields)
    with config.ignore_type():
        config.branch_from = str(tmp_path / "trunk")
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config, str(tmp_path / "run"))


def test_branch_needs_the_data_of_its_trunk(trunk, tmp_path):
    other = save_digits(tmp_path / "other.npz", 164, 50)  # as many steps
    config = make_config(other, 3, 1.0, **{"augment.small_images": ((16, 0.34),)})
    with config.ignore_type():
        config.branch_from = str(trunk)
    with pytest.raises(UserError, match=r"branch_from=.* is a run on other data \(.*\); give the data that this run"):
        train_and_evaluate(config, str(tmp_path / "run"))
