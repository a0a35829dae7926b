"""Configs with arms that are no tables of the paper: networks without skips, the small study, the long recipe."""

import math
import re

import jax
import numpy as np
import pytest

from configs import further, long, muon, skips, small
from jaxresnet.config import check_config, check_same_training, flatten, save_config
from jaxresnet.initial import branch_off
from jaxresnet.system.errors import UserError
from scripts.skips import gradient_norms
from tests.conftest import REPOSITORY


def layers(config):
    """Return the number of layers as He et al. count them: without projections."""
    return 2 * sum(config.model.blocks) + 2


@pytest.mark.parametrize("study", [muon, skips, small])
def test_unknown_arm_gets_the_list(study):
    for arm in study.ARMS:
        check_config(study.get_config(arm))
    assert len({study.get_config(arm).name for arm in study.ARMS}) == len(study.ARMS)
    with pytest.raises(ValueError, match="there is no arm 'none of these'; expected one of "):
        study.get_config("none of these")


@pytest.mark.parametrize("arm", skips.ARMS)
def test_plain_networks_differ_in_skips(arm):
    config, twin = skips.get_config(arm), skips.get_config(arm.removesuffix("_plain"))
    assert (layers(config), config.model.skips) == (int(arm[:2]), not arm.endswith("_plain"))
    twin.name, twin.model.skips = config.name, config.model.skips
    assert config == twin


@pytest.mark.parametrize("arm", small.ARMS)
def test_small_arm_is_smaller(arm):
    table, name = small.ARMS[arm]
    config, large = small.get_config(arm), table.get_config(name)
    assert config.name == large.name == arm
    assert (50_000 - config.dataset.validation_size) % config.batch_size == 0
    assert config.model.channels == tuple(channels / 4 for channels in large.model.channels)
    assert config.model.blocks == tuple(max(1, blocks // 4) for blocks in large.model.blocks)
    smaller = ("dataset.validation_size", "model.channels", "model.blocks", "model.stem_channels")
    untrained = ("eval_every_epochs", "log_every_steps", "paper.accuracy", "paper.curve")
    values, whole = flatten(config.to_dict()), flatten(large.to_dict())
    assert {k for k in whole if values[k] != whole[k]} <= {*smaller, *untrained}


def test_small_study_has_every_arm():
    names = {table.get_config(arm).name for table in small.TABLES for arm in table.ARMS}
    assert names - small.ARMS.keys() == {"pooling/avg_8"}  # which equals pooling/adaptive


@pytest.mark.reliability
def test_gradients_at_initialisation():
    """docs/skips.md has the norms for images of CIFAR-10, and deeper networks."""
    images = jax.random.uniform(jax.random.key(1), (16, 32, 32, 3))
    network = {"channels": (16, 32, 64), "blocks": (3, 3, 3)}
    norms = {
        (norm, skip): gradient_norms(network, skip, norm, images, np.arange(16) % 10)[0]
        for norm in (True, False)
        for skip in (True, False)
    }
    growth = {key: first / last for key, (first, last) in norms.items()}
    assert growth[True, False] > 2 * growth[True, True]
    assert max(norms[False, False]) < 1e-6 < min(norms[False, True])


@pytest.mark.parametrize("arm", skips.ARMS)
def test_stored_skip_runs_have_their_configs(arm):
    check_same_training(skips.get_config(arm), REPOSITORY / "results" / "runs" / f"skips-{arm}")


def test_stored_long_run_has_its_config():
    """It was trained under an earlier plan, in which the fall of the rate was the same for 40 epochs."""
    config = long.get_config("40")
    config.branch_from = "../long"
    check_same_training(config, REPOSITORY / "results" / "runs" / "long-40")


def test_stored_further_run_has_its_config():
    """It began with the model that was released before it."""
    config = further.get_config()
    config.init_from = "pretrained:cifar10"
    check_same_training(config, REPOSITORY / "results" / "runs" / "further")


@pytest.mark.parametrize("epochs", long.EPOCHS[:-1])
def test_branches_of_the_long_recipe_fit_its_trunk(epochs, tmp_path):
    """The only thing that a trunk without checkpoints lacks is the one at the step where the decay begins."""
    trunk, branch = long.get_config(), long.get_config(str(epochs))
    save_config(trunk, tmp_path)
    branch.branch_from = str(tmp_path)
    steps_per_epoch = math.ceil(50_000 / trunk.batch_size)
    with pytest.raises(UserError, match=r"ends at step \d+; checkpoints are there of \[\]") as error:
        branch_off(None, branch, steps_per_epoch, tmp_path)
    step = int(re.search(r"step (\d+)", str(error.value))[1])
    assert step == long.DECAY_BEGINS * steps_per_epoch and step % trunk.checkpoint.every_steps == 0


def test_pilots_of_muon_differ_in_the_optimizer():
    first = flatten(muon.get_config().to_dict())
    parts = {"name", "optimizer.name", "optimizer.momentum", "schedule.learning_rate"}
    for arm in muon.ARMS:
        values = flatten(muon.get_config(arm).to_dict())
        assert {k for k in first if values[k] != first[k]} <= parts
