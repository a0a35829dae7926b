"""Configs with arms that are no tables of the paper: networks without skips, and the small study."""

import collections

import jax
import numpy as np
import pytest

from configs import skips, small
from jaxresnet.config import check_config, check_same_training
from jaxresnet.core.model import count_parameters
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import create_train_state
from jaxresnet.workdir.folder import read_summary
from jaxresnet.workdir.log import read_metrics
from scripts.skips import gradient_norms
from tests.conftest import REPOSITORY

SHARES = np.linspace(0.03, 0.97, 48)  # of a training


def layers(config):
    """Return the number of layers as He et al. count them: without projections."""
    return 2 * sum(config.model.blocks) + 2


@pytest.mark.parametrize("study", [skips, small])
def test_arms_work_and_an_unknown_one_gets_the_list(study):
    for arm in study.ARMS:
        check_config(study.get_config(arm))
    assert len({study.get_config(arm).name for arm in study.ARMS}) == len(study.ARMS)
    with pytest.raises(ValueError, match="there is no arm 'none of these'; expected one of "):
        study.get_config("none of these")


@pytest.mark.parametrize("arm", skips.ARMS)
def test_plain_networks_differ_in_their_skips_alone(arm):
    config, twin = skips.get_config(arm), skips.get_config(arm.removesuffix("_plain"))
    assert (layers(config), config.model.skips) == (int(arm[:2]), not arm.endswith("_plain"))
    twin.name, twin.model.skips = config.name, config.model.skips
    assert config == twin


@pytest.mark.parametrize("arm", small.ARMS)
def test_small_arms_are_the_tables_arms_scaled_by_one_factor(arm):
    table, name = small.ARMS[arm]
    config, large = small.get_config(arm), table.get_config(name)
    assert config.name == large.name == arm
    assert (config.num_epochs, config.schedule.warmup_epochs) == (
        large.num_epochs / 10,
        large.schedule.warmup_epochs / 10,
    )
    assert config.model.channels == tuple(channels / 4 for channels in large.model.channels)
    assert config.model.blocks == tuple(max(1, blocks // 4) for blocks in large.model.blocks)
    changed = {
        "model": ("channels", "blocks", "stem_channels"),
        "schedule": ("total_epochs", "warmup_epochs", "step_per"),
        "optimizer": (),
        "augment": (),
    }
    for group, fields in changed.items():
        assert {k: v for k, v in config[group].items() if k not in fields} == {
            k: v for k, v in large[group].items() if k not in fields
        }
    # The rate is the same function of the share of the training that is done, but for the steps of the larger one.
    rates = []
    for each, steps in ((config, 79), (large, 391)):
        at_steps = (SHARES * each.num_epochs * steps).astype(int)
        rates.append(np.array([create_hyperparams_fn(each, steps)(step).learning_rate for step in at_steps]))
    np.testing.assert_allclose(*rates, rtol=0.03, atol=0.01 * large.schedule.learning_rate)


def test_sizes_of_the_small_study():
    def count(arm):
        return count_parameters(jax.eval_shape(lambda: create_train_state(small.get_config(arm), (32, 32, 3))).params)

    sizes = collections.Counter(map(count, small.ARMS))
    assert sizes == {308_826: 1, 78_042: 50, 78_002: 1, 77_950: 1, 68_430: 1}


@pytest.mark.reliability
def test_gradients_at_initialisation():
    """docs/skips.md has the norms for images of CIFAR-10, and deeper networks."""
    images = jax.random.uniform(jax.random.key(1), (16, 32, 32, 3))
    network = {"channels": (16, 32, 64), "blocks": (3, 3, 3)}
    norms = {
        (norm, skip): gradient_norms(network, skip, norm, images, np.arange(16) % 10)
        for norm in (True, False)
        for skip in (True, False)
    }
    assert norms[True, False][0] / norms[True, False][-1] > 2 * norms[True, True][0] / norms[True, True][-1]
    assert max(norms[False, False]) < 1e-6 < min(norms[False, True])


@pytest.mark.parametrize("arm", skips.ARMS)
def test_the_page_on_skips_has_the_figures_of_the_runs(arm):
    workdir = REPOSITORY / "results" / "runs" / f"skips-{arm}"
    check_same_training(skips.get_config(arm), workdir)
    last, minutes = read_metrics(workdir)[-1], read_summary(workdir)["wall_seconds"] / 60
    accuracies = f"{last['train_accuracy']:.2f} | {last['validation_accuracy']:.2f}"
    network = f"| {arm[:2]} | {'no' if 'plain' in arm else 'yes'} |"
    row = f"{network} {last['train_loss']:.3f} | {accuracies} | {minutes:.0f} min |"
    assert row in (REPOSITORY / "docs" / "skips.md").read_text()
