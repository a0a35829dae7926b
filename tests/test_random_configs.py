"""Random configs: a possible one trains, is saved and restored; an impossible one is refused in one line."""

import contextlib
import math
import os
import pathlib
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl import flags
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_collections.config_flags import config_flags

from configs import default
from jaxresnet import cli
from jaxresnet.checkpoint import Checkpointer
from jaxresnet.config import check_config, flatten
from jaxresnet.errors import UserError
from jaxresnet.evaluate import evaluate_run
from jaxresnet.metrics import read_metrics
from jaxresnet.optim import OPTIMIZERS, takes_momentum
from jaxresnet.schedules import SCHEDULES
from jaxresnet.train import train_and_evaluate
from tests.conftest import arrays_of, last_state, make_tiny_config, save_digits

pytestmark = pytest.mark.reliability

# An example that trains compiles a program of its own, for seconds; one that is refused takes milliseconds.
FEW = settings(max_examples=max(6, settings.default.max_examples // 8))
MANY = settings(max_examples=8 * settings.default.max_examples)

TEST_SIZE = 7


@st.composite
def configs(draw):
    """A config that must work, of two steps, and how many training images it is for."""
    config = default.get_config()
    config.seed = draw(st.integers(0, 2**32 - 1))
    config.dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    config.steps_per_dispatch = draw(st.integers(1, 5))
    config.log_every_steps = draw(st.integers(0, 3))
    config.eval_batch_size = draw(st.integers(1, 2 * TEST_SIZE))

    # Two steps: two batches, the second one as large or smaller, or the whole set twice.
    config.batch_size = draw(st.integers(1, 12))
    rest = draw(st.integers(0, config.batch_size))
    config.num_epochs = 1 if rest else 2
    config.dataset.validation_size = draw(st.integers(0, 5))
    size = config.batch_size + rest + config.dataset.validation_size

    model, stages = config.model, draw(st.integers(1, 4))
    model.channels = tuple(draw(st.lists(st.integers(1, 9), min_size=stages, max_size=stages)))
    model.blocks = tuple(draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages)))
    model.kernel_size = draw(st.sampled_from([1, 3, 5, 7]))
    model.shortcut_kernel_size = draw(st.sampled_from([1, 3, 5]))
    model.stem_channels = draw(st.none() | st.integers(1, 9))
    model.pooling = draw(st.just("global") | st.integers(1, 32 // 2 ** (stages - 1)).map(str))
    model.dropout_rate = draw(st.floats(0, 0.9))
    model.num_classes = draw(st.integers(10, 20))

    config.augment.crop_padding = draw(st.integers(0, 32))
    config.augment.flip = draw(st.booleans())
    config.augment.mean = tuple(draw(st.lists(st.floats(0, 1), min_size=3, max_size=3)))
    config.augment.std = tuple(draw(st.lists(st.floats(0.05, 1), min_size=3, max_size=3)))

    optimizer, schedule = config.optimizer, config.schedule
    optimizer.name = draw(st.sampled_from(sorted(OPTIMIZERS)))
    optimizer.momentum = draw(st.floats(0, 0.99))
    optimizer.weight_decay = draw(st.floats(0, 0.01))
    has_momentum = optimizer.momentum > 0 and takes_momentum(optimizer)
    schedule.name = draw(st.sampled_from([name for name in sorted(SCHEDULES) if name != "one_cycle" or has_momentum]))
    schedule.learning_rate = draw(st.floats(0, 0.1))
    schedule.step_per = draw(st.sampled_from(["epoch", "step"]))
    if schedule.name == "one_cycle":  # which needs four ticks
        schedule.total_epochs = draw(st.floats(4, 50))
    else:
        schedule.total_epochs = draw(st.none() | st.floats(1, 50))
    longest = 5 if schedule.total_epochs else config.num_epochs - 0.01
    schedule.warmup_epochs = draw(st.floats(0, longest))
    schedule.start_factor, schedule.end_factor = draw(st.floats(0, 2)), draw(st.floats(0, 2))
    schedule.power = draw(st.floats(0.1, 5))
    schedule.restarts = draw(st.integers(0, 5))

    config.checkpoint.every_minutes = draw(st.sampled_from([1e-6, 5.0]))
    config.checkpoint.every_steps = draw(st.integers(0, 2))
    config.checkpoint.keep = draw(st.integers(1, 3))
    return config, size


def smallest():
    """One channel, one image a batch, and a map of 1x1 pixel, where BatchNorm has one value to normalise."""
    config = make_tiny_config("")
    config.update_from_flattened_dict({"num_epochs": 1, "batch_size": 1})
    config.update_from_flattened_dict({"model.channels": (1,) * 6, "model.blocks": (1,) * 6, "model.kernel_size": 1})
    return config, 2


@FEW
@given(drawn=configs())
@example(drawn=smallest())
def test_a_possible_config_trains_and_is_restored_as_it_was_and_scored_as_before(drawn, count):
    config, size = drawn
    saved = {}
    save = Checkpointer.save

    def save_and_keep(checkpointer, state, *rest):
        save(checkpointer, state, *rest)
        saved[int(state.step)] = arrays_of(state)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Checkpointer, "save", save_and_keep):
        config.dataset.data_dir = str(save_digits(os.path.join(folder, "data.npz"), size, TEST_SIZE))
        workdir = os.path.join(folder, "run")
        summary = train_and_evaluate(config, workdir)
        lines = read_metrics(pathlib.Path(workdir))
        assert lines[-1]["step"] == 2
        assert all(math.isfinite(value) for line in lines for value in line.values())

        restored, progress = last_state(config, pathlib.Path(workdir))
        assert progress.epoch == config.num_epochs
        for actual, expected in zip(restored, saved[2], strict=True):
            np.testing.assert_array_equal(actual, expected)
        assert all(np.isfinite(array).all() for array in restored)

        # The test set is scored at the end, with the best epoch, where that was chosen on other images.
        held_out = config.dataset.validation_size > 0
        _, sums = evaluate_run(workdir, "best" if held_out else "last")
        assert sums.count == TEST_SIZE
        logged = summary["test"] if held_out else lines[-1]
        assert sums.means("test") == {name: logged[name] for name in ("test_loss", "test_accuracy")}
    count("random configs trained, saved and restored")
