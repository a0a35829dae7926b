"""The teaching examples give the package's results."""

import importlib
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import final
from jaxresnet.core.evaluation import evaluate
from jaxresnet.core.model import count_parameters
from jaxresnet.core.programs import (
    create_mesh,
    dispatch,
    epoch_order,
    jit_steps,
    put_on_devices,
    replicate,
    train_batches,
)
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import create_train_state, create_transform
from jaxresnet.data.loading import load_dataset
from jaxresnet.kernels import convolution
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
CHANNELS, BLOCKS, BATCH_SIZE, SEED = (4, 8), (1, 1), 20, 3
EPOCH_LINE = r"epoch (\d)/\d: loss (\d\.\d{4}), test accuracy (\d+\.\d\d)%, \d+ s"


@pytest.fixture(scope="module")
def one_file():
    return import_example("one_file")


@pytest.fixture(scope="module")
def one_file_nnx():
    return import_example("one_file_nnx")


def import_example(name):
    """Import an example with its folder first on the path, as Python does when it runs one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return the final config with a tiny network, 2 epochs, and 45 random images in batches of 20, 20 and 5."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in (("train", 45), ("test", 30)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 10, size)
    path = tmp_path_factory.mktemp("random") / "random.npz"
    np.savez(path, **arrays)

    config = final.get_config()
    config.dataset.data_dir = str(path)
    config.seed, config.num_epochs, config.batch_size = SEED, 2, BATCH_SIZE
    config.model.channels, config.model.blocks = CHANNELS, BLOCKS
    return config


@pytest.fixture(scope="module")
def package_run(config):
    """Return the package's variables before the first step and after each, its losses and its test accuracies.

    XLA computes its convolutions, as it does on GPU and TPU, and each operation is a program of its own.
    """
    with pytest.MonkeyPatch.context() as monkeypatch, jax.disable_jit():
        monkeypatch.setattr(convolution, "conv_general_dilated", jax.lax.conv_general_dilated)
        monkeypatch.setattr(convolution, "relu", jax.nn.relu)
        return train(config)


def train(config):
    mesh = create_mesh()
    dataset = load_dataset("cifar10", config.dataset.data_dir, 10)
    train_data, test_data = (
        put_on_devices(split.images, split.labels, mesh) for split in (dataset.train, dataset.test)
    )
    steps = jit_steps(create_transform(config), mesh)
    state = replicate(create_train_state(config, (32, 32, 3)), mesh)
    hyperparams_fn = create_hyperparams_fn(config, steps_per_epoch=3)
    variables, losses, accuracies = [jax.device_get(state.variables)], [], []
    for epoch in range(config.num_epochs):
        for indices in train_batches(epoch_order(config.seed, epoch, 45), config.batch_size, 0, 1):
            hyperparams = jax.tree.map(np.float32, hyperparams_fn([len(losses)]))
            state, metrics = dispatch(steps.train, state, train_data, indices, hyperparams)
            variables.append(jax.device_get(state.variables))
            losses.append(np.asarray(metrics["loss"][0]))
        accuracies.append(evaluate(steps, state, test_data, 30, 30).sums.means("test")["test_accuracy"])
    return variables, losses, accuracies


def assert_same_lines(output, losses, accuracies):
    """Compare a script's line after each epoch of 3 steps and 45 images with the package's metrics."""
    lines = [re.fullmatch(EPOCH_LINE, line).groups() for line in output.splitlines()]
    means = [sum(losses[first : first + 3]) / 45 for first in (0, 3)]
    assert lines == [(str(i + 1), f"{means[i]:.4f}", f"{accuracies[i]:.2f}") for i in range(2)]


def skip_elsewhere_than_on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("compilers for other devices may choose other algorithms for each of two programs")


def assert_same_bits(actual, expected):
    (actual, actual_structure), (expected, expected_structure) = map(jax.tree.flatten, (actual, expected))
    assert actual_structure == expected_structure
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)  # for a readable difference
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()  # this also tells -0 from 0


def test_linen_gives_the_packages_bits(one_file, config, package_run, monkeypatch, capsys):
    """Compare initial parameters, and losses, parameters and batch statistics of six steps, to the last bit.

    The steps are those of ``main``: two epochs with their own order and rate, each with a smaller last batch, with
    crops, flips and dropout. The example has the package's order of operations, also in the hand-written derivative of
    BatchNorm. With JAX's own derivative in its place, parameters differed by up to 1e-7 after six steps.

    The equality holds with XLA's convolutions. On CPU the package has its own algorithms, which round differently. It
    also needs ``disable_jit``: within a program, XLA rounds a product and a sum once if it computes them by one
    instruction, and which of them it joins depends on the program, the processor and XLA's version.
    """
    skip_elsewhere_than_on_cpu()
    expected_variables, expected_losses, accuracies = package_run
    train_step, variables, losses = one_file.train_step, [], []

    def record(state):
        variables.append(jax.device_get({"params": state.params, "batch_stats": state.batch_stats}))

    def train_step_and_record(state, images, labels):
        if not variables:
            record(state)
        state, loss = train_step(state, images, labels)
        record(state)
        losses.append(np.asarray(loss))
        return state, loss

    monkeypatch.setattr(one_file, "train_step", train_step_and_record)
    model = one_file.ResNet(CHANNELS, BLOCKS)
    with jax.disable_jit():
        one_file.main(config.dataset.data_dir, config.num_epochs, model, config.batch_size, config.seed)
    assert len(losses) == 6
    assert_same_bits(losses, expected_losses)
    assert_same_bits(variables, expected_variables)
    assert_same_lines(capsys.readouterr().out, expected_losses, accuracies)


class LinenDropout(nn.Module):
    """Dropout with the mask of the package's model. Linen derives the key from the path, ``Dropout_0`` in both."""

    rate: float

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(self.rate, deterministic=False)(x)


def test_nnx_equals_package_bits(one_file_nnx, config, package_run, monkeypatch, capsys):
    """Compare the same six steps, to the last bit, from the package's initial parameters and with its dropout.

    The example borrows both, because NNX derives keys in another way than linen. Order, crops and flips are its own.
    """
    skip_elsewhere_than_on_cpu()
    expected_variables, expected_losses, accuracies = package_run
    train_step, variables, losses = one_file_nnx.train_step, [], []

    def linens_dropout(self, x, deterministic, rngs):
        return x if deterministic else LinenDropout(self.rate).apply({}, x, rngs={"dropout": rngs})

    def train_step_and_record(model, *inputs):
        losses.append(np.asarray(train_step(model, *inputs)))
        variables.append({"params": read(model, nnx.Param), "batch_stats": read(model, nnx.BatchStat)})
        return losses[-1]

    monkeypatch.setattr(nnx.Dropout, "__call__", linens_dropout)
    monkeypatch.setattr(one_file_nnx, "train_step", train_step_and_record)
    model = one_file_nnx.ResNet(nnx.Rngs(0), CHANNELS, BLOCKS)
    nnx.update(model, to_nnx(expected_variables[0]["params"]))
    assert_same_bits(read(model, nnx.Param), expected_variables[0]["params"])
    with jax.disable_jit():
        one_file_nnx.main(config.dataset.data_dir, config.num_epochs, model, config.batch_size, config.seed)
    assert len(losses) == 6
    assert_same_bits(losses, expected_losses)
    assert_same_bits(variables, expected_variables[1:])
    assert_same_lines(capsys.readouterr().out, expected_losses, accuracies)


def to_nnx(tree):
    """Convert linen's parameters to NNX. Linen names the blocks layer1_0 and layer2_0, and NNX numbers them."""
    others = {name: value for name, value in tree.items() if not name.startswith("layer")}
    return {**others, "blocks": {stage: tree[f"layer{stage + 1}_0"] for stage in range(len(BLOCKS))}}


def read(model, kind):
    """Copy the model's variables of a kind into a tree with linen's names."""
    tree = jax.device_get(nnx.to_pure_dict(nnx.state(model, kind)))
    blocks = tree.pop("blocks")
    return {**tree, **{f"layer{stage + 1}_0": block for stage, block in blocks.items()}}


def test_network_equals_final_config(one_file, one_file_nnx):
    """Compare sizes of the full network, because the tests above use a tiny one."""
    config = final.get_config()
    assert config.model.channels == one_file.CHANNELS and config.model.blocks == one_file.BLOCKS
    assert config.num_epochs == one_file.NUM_EPOCHS and config.batch_size == one_file.BATCH_SIZE
    linen = jax.eval_shape(lambda: one_file.ResNet().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    nnx_model = nnx.eval_shape(lambda: one_file_nnx.ResNet(nnx.Rngs(0)))
    for params in (linen["params"], nnx.state(nnx_model, nnx.Param)):
        assert count_parameters(params) == 4_697_162


def run_script(name, *arguments, environment):
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["one_file.py", "one_file_nnx.py"])
def test_command(name, tiny_npz, tmp_path, subprocess_environment):
    """Train the whole network on 8 images, so that an epoch takes seconds."""
    with np.load(tiny_npz) as arrays:
        np.savez(tmp_path / "few.npz", **{key: array[:8] for key, array in arrays.items()})
    done = run_script(name, tmp_path / "few.npz", "1", environment=subprocess_environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [re.fullmatch(EPOCH_LINE, line).group(1) for line in done.stdout.splitlines()] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: the following arguments are required: path"),
        (["missing.npz"], "cannot read missing.npz (FileNotFoundError). Expected an .npz file with train_images, "),
        ([__file__], f"cannot read {__file__} (ValueError). Expected an .npz file with train_images, "),
    ],
)
def test_mistakes_are_one_line(arguments, message, subprocess_environment):
    done = run_script("one_file.py", *arguments, environment=subprocess_environment)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
