"""Runs on one and on many devices: equal up to rounding, with less memory per device."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from jaxresnet.core.programs import (
    create_mesh,
    dispatch,
    epoch_order,
    jit_steps,
    put_on_devices,
    replicate,
    train_batches,
)
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.state import create_train_state, create_transform
from jaxresnet.data.loading import load_dataset
from jaxresnet.workdir.folder import read_confusion
from jaxresnet.workdir.log import read_metrics
from scripts.same_run import checkpointed
from tests.conftest import REPOSITORY, arguments_of

pytestmark = pytest.mark.reliability

# An epoch of 165 images has six steps, the last with 15. An evaluation of 50 images has batches of 20, the last with
# 10. So most batches do not divide among 2, 3 or 8 devices. If rounding moves a ReLU's input across zero, the ReLU
# amplifies it. The rate is low because high rates amplify it further.
FIELDS = {
    "dataset.name": "cifar10",
    "num_epochs": 4,
    "batch_size": 30,
    "eval_batch_size": 20,
    "model.channels": (8, 16),
    "model.blocks": (1, 1),
    "model.dropout_rate": 0.4,
    "schedule.learning_rate": 0.005,
    "log_every_steps": 1,
}

# Relative tolerance of every loss in the 24 steps. Measured: 6e-7, and 4e-6 in a run where a ReLU amplified rounding.
LOSS_TOLERANCE = 2e-5

# Absolute tolerance of running statistics and parameters after the last step. Measured: 1.4e-5.
ARRAY_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return the config of a run on noise images, because their pixels all round differently."""
    rng = np.random.default_rng(0)
    data = tmp_path_factory.mktemp("data") / "noise.npz"
    arrays = {}
    for split, size in (("train", 165), ("test", 50)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 10, size)
    np.savez(data, **arrays)
    config = quickstart.get_config()
    config.update_from_flattened_dict(FIELDS | {"dataset.data_dir": str(data)})
    return config


@pytest.fixture(scope="module")
def train_on(config, tmp_path_factory):
    """Return a function that trains on ``count`` devices, set by ``XLA_FLAGS``, and returns the workdir."""
    workdirs = {}

    def train_on(count, environment):
        if count not in workdirs:
            workdir = tmp_path_factory.mktemp("devices") / f"run-on-{count}"
            variables = environment | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
            del variables["JAX_NUM_CPU_DEVICES"]
            flags = arguments_of(FIELDS | {"dataset.data_dir": config.dataset.data_dir})
            command = [sys.executable, "-m", "jaxresnet.main", "--config=configs/quickstart.py", *flags]
            command.append(f"--workdir={workdir}")
            done = subprocess.run(command, env=variables, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
            assert json.loads((workdir / "summary.json").read_text())["device_count"] == count
            workdirs[count] = workdir
        return workdirs[count]

    return train_on


def column(lines, name):
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("count", [2, 8, pytest.param(3, marks=pytest.mark.thorough)])
def test_many_devices_equal_one(train_on, config, subprocess_environment, count):
    """Compare losses, accuracies, BatchNorm's statistics and parameters over 24 steps and four evaluations."""
    workdirs = [train_on(number, subprocess_environment) for number in (1, count)]
    one, many = (read_metrics(workdir) for workdir in workdirs)
    assert len(column(one, "train_loss")) == 24 and len(column(one, "test_loss")) == 4
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(column(many, name), column(one, name), rtol=LOSS_TOLERANCE)
    for name in ("train_accuracy", "test_accuracy", "learning_rate"):
        assert column(many, name) == column(one, name)
    assert read_confusion(workdirs[1]) == read_confusion(workdirs[0])

    (expected, _), (actual, _) = (checkpointed(config, workdir) for workdir in workdirs)
    for name in ("params", "batch_stats"):
        leaves = {path: leaf for path, leaf in expected.items() if path.startswith(f"['{name}']")}
        assert leaves
        for path, leaf in leaves.items():
            np.testing.assert_allclose(actual[path], leaf, rtol=0, atol=ARRAY_TOLERANCE, err_msg=path)


def test_statistics_per_device_are_noticed(config):
    """If two devices did not share statistics, the run would deviate by several times the tolerance."""
    config = config.copy_and_resolve_references()
    config.model.dropout_rate = 0.0
    dataset = load_dataset(config.dataset.name, config.dataset.data_dir, 10)
    mesh = create_mesh()
    steps, data = (
        jit_steps(create_transform(config), mesh),
        put_on_devices(dataset.train.images, dataset.train.labels, mesh),
    )

    def train(apart):
        state = create_train_state(config, (32, 32, 3))
        apply_fn = state.apply_fn

        def apply_apart(variables, images, **options):
            logits, updates = zip(
                *(apply_fn(variables, part, **options) for part in jnp.array_split(images, 2)), strict=True
            )
            return jnp.concatenate(logits), jax.tree.map(lambda *leaves: sum(leaves) / 2, *updates)

        state = replicate(state.replace(apply_fn=apply_apart) if apart else state, mesh)
        rate = Hyperparams(np.float32([config.schedule.learning_rate]), np.float32([config.optimizer.momentum]))
        losses = []
        for epoch in range(config.num_epochs):
            for indices in train_batches(epoch_order(0, epoch, len(dataset.train)), config.batch_size, 0, 1):
                state, metrics = dispatch(steps.train, state, data, indices, rate)
                losses.append(metrics["loss"][0])
        return np.array(losses), [
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
            for tree in (state.params, state.batch_stats)
        ]

    (losses, arrays), (losses_apart, arrays_apart) = train(False), train(True)
    assert np.max(np.abs(losses_apart / losses - 1)) > 5 * LOSS_TOLERANCE
    for kind, kind_apart in zip(arrays, arrays_apart, strict=True):
        assert np.max(np.abs(kind_apart - kind)) > 5 * ARRAY_TOLERANCE


MEMORY = """
import json
import jax, numpy as np
from configs import quickstart
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.programs import DeviceSplit, jit_steps, create_mesh
from jaxresnet.core.state import create_train_state, create_transform

config = quickstart.get_config()
config.model.channels, config.model.blocks = (16, 32), (1, 1)
state = jax.eval_shape(lambda: create_train_state(config, (32, 32, 3)))
rows, labels = jax.ShapeDtypeStruct((1000, 3072), np.uint8), jax.ShapeDtypeStruct((1000,), np.int32)
data = DeviceSplit(rows, labels, (32, 32, 3))
indices, rate = jax.ShapeDtypeStruct((1, 1024), np.int32), jax.ShapeDtypeStruct((1,), np.float32)
sizes = {}
for count in (1, 2, 3, 4, 8):
    steps = jit_steps(create_transform(config), create_mesh(jax.devices()[:count]))
    memory = steps.train.lower(state, data, indices, Hyperparams(rate, rate)).compile().memory_analysis()
    sizes[count] = [getattr(memory, f"{kind}_size_in_bytes") for kind in ("argument", "output", "temp")]
    sizes[count].append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, data))))
print(json.dumps(sizes))
"""


def test_memory_falls_with_more_devices(run_on_devices):
    """In a step on 1,024 images, intermediate arrays are divided, and parameters and data are on each device.

    The CPU's convolutions take a few MB on every device. With 1,024 images that is little.
    """
    sizes = run_on_devices(MEMORY, 8)
    arguments, outputs, between, whole = sizes["1"]
    assert arguments > whole
    for count in (2, 3, 4, 8):
        assert sizes[str(count)][:2] == [arguments, outputs]
        assert sizes[str(count)][2] < 1.05 * between / count
