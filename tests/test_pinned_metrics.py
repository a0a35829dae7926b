"""Compare 20 steps of training with tests/pinned_metrics.json, so that users' numbers do not change unnoticed.

python -m tests.test_pinned_metrics           # compares; git bisect run can use its status
python -m tests.test_pinned_metrics --write   # pins the numbers that are computed now
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys
import tempfile

import jax
import numpy as np
import pytest

from configs import default
from jaxresnet.inference import restore_run
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.log import read_metrics
from tests.conftest import REPOSITORY, save_digits

pytestmark = pytest.mark.reliability

PINNED = REPOSITORY / "tests" / "pinned_metrics.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")

# CPUs round differently. We measured the effect on one CPU with AVX-512, with its other instruction sets
# (XLA_FLAGS=--xla_cpu_max_isa=SSE4_2, AVX and AVX2) and with two and three devices (JAX_NUM_CPU_DEVICES). Losses moved
# by up to 1.0e-7 of themselves, means and root mean squares of arrays by up to 3.0e-8, and accuracies not at all. The
# smallest of the CHANGES below, of the learning rate by 1%, moves losses by 6.6e-6 and arrays by 2.0e-5.
LOSS_TOLERANCE = 2e-6  # relative to the loss
ARRAY_TOLERANCE = 4e-6  # absolute, or relative to the root mean square if that is more than 1

TO_DO = """The numbers that users get have changed: the same config now trains to other weights and scores.
If that is intended, run `python -m tests.test_pinned_metrics --write`, commit tests/pinned_metrics.json with the
change, and say in the commit's message what changed and why. If it is not, find the commit that changed them:
`git bisect start HEAD GOOD && git bisect run python -m tests.test_pinned_metrics`, where GOOD is a commit that passed.
If no commit did, the cause is another version of a library."""


def make_config():
    """Return the config of an epoch of 20 steps with all parts of a training step.

    These are crop, flip, dropout, strides, projections, XLA's convolutions and the project's own, momentum, decay and
    a cosine.
    """
    config = default.get_config()
    config.num_epochs = 1
    config.batch_size = 16  # from 320 images
    config.eval_batch_size = 30
    config.model.channels = (8, 64, 64)  # few channels, and many
    config.model.blocks = (1, 1, 1)
    config.model.pooling = "5"
    config.model.dropout_rate = 0.4
    config.augment.crop_padding = 2
    config.schedule.step_per = "step"
    # At a rate of 0.1, 20 steps of such a network amplify rounding to about 1e-3 of the loss, more than a mistake would
    # move it. A low rate avoids that. At a low rate only a strong decay shows in the weights.
    config.schedule.learning_rate = 3e-4
    config.optimizer.weight_decay = 0.1
    config.log_every_steps = 1
    return config


def save_noisy_digits(path):
    """Save digits with noise.

    Without noise thousands of pixels are equal, and rounding would move all of them across a ReLU's zero at once.
    """
    arrays = dict(np.load(save_digits(path, 320, 100)))
    random = np.random.RandomState(0)  # NumPy never changes its stream
    for name in ("train_images", "test_images"):
        noise = random.randint(0, 128, arrays[name].shape)
        arrays[name] = (arrays[name] // 2 + noise).astype(np.uint8)
    np.savez(path, **arrays)
    return path


def measure(config):
    """Train, and return losses, accuracies, and the mean and root mean square of every array of the model."""
    with tempfile.TemporaryDirectory() as folder:
        config.dataset.data_dir = str(save_noisy_digits(f"{folder}/data.npz"))
        train_and_evaluate(config, f"{folder}/run")
        lines = read_metrics(pathlib.Path(folder, "run"))
        variables = restore_run(pathlib.Path(folder, "run"), "last").state.variables
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    return {
        "train_loss": [line["train_loss"] for line in lines],  # each is the mean of the steps so far
        "train_accuracy": [line["train_accuracy"] for line in lines],
        "test_loss": lines[-1]["test_loss"],
        "test_accuracy": lines[-1]["test_accuracy"],
        "arrays": {
            name: [float(array.mean()), float(np.sqrt(np.square(array).mean()))] for name, array in arrays.items()
        },
    }


def differences(actual, pinned):
    """Return a line for each figure that differs by more than rounding can explain."""
    found = []

    def compare(name, value, expected, tolerance):
        if not abs(value - expected) <= tolerance:
            found.append(f"{name}: {value!r}, pinned as {expected!r}")

    for name in ("train_loss", "train_accuracy"):
        if len(actual[name]) != len(pinned[name]):
            found.append(f"{name}: {len(actual[name])} steps, but {len(pinned[name])} are pinned")
            continue
        for step, (value, expected) in enumerate(zip(actual[name], pinned[name], strict=True), 1):
            tolerance = LOSS_TOLERANCE * expected if name == "train_loss" else 0
            compare(f"{name} after step {step}", value, expected, tolerance)
    compare("test_loss", actual["test_loss"], pinned["test_loss"], LOSS_TOLERANCE * pinned["test_loss"])
    compare("test_accuracy", actual["test_accuracy"], pinned["test_accuracy"], 0)
    for name in sorted(actual["arrays"].keys() | pinned["arrays"].keys()):
        if name not in actual["arrays"] or name not in pinned["arrays"]:
            found.append(f"{name}: {'only pinned' if name in pinned['arrays'] else 'not pinned'}")
            continue
        rms = pinned["arrays"][name][1]
        for figure, value, expected in zip(
            ("mean", "root mean square"), actual["arrays"][name], pinned["arrays"][name], strict=True
        ):
            compare(f"{figure} of {name}", value, expected, ARRAY_TOLERANCE * max(1, rms))
    return found


def versions():
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def describe(found, pinned):
    """Return the message of a failure."""
    changed = [
        f"{package} {there} (pinned) and {here} (here)"
        for (package, there), here in zip(pinned["made_with"].items(), versions().values(), strict=True)
        if there != here
    ]
    libraries = f"Libraries that differ: {', '.join(changed)}." if changed else "The libraries are the same versions."
    more = [f"and {len(found) - 10} more"] if len(found) > 10 else []
    return "\n".join([TO_DO, libraries, *found[:10], *more])


def test_metrics_equal_pinned():
    pinned = json.loads(PINNED.read_text())
    found = differences(measure(make_config()), pinned)
    assert not found, describe(found, pinned)


CHANGES = {
    "optimizer.weight_decay": 0.08,
    "optimizer.momentum": 0.89,
    "schedule.learning_rate": 2.97e-4,
    "schedule.name": "linear",
    "augment.flip": False,
    "seed": 1,
}


@pytest.mark.parametrize("field", CHANGES)
def test_small_change_exceeds_rounding(field):
    """The changes are as small as the mistakes that these numbers must catch, such as a momentum of 0.89 for 0.9."""
    config = make_config()
    config.update_from_flattened_dict({field: CHANGES[field]})
    pinned = json.loads(PINNED.read_text())
    found = differences(measure(config), pinned)
    assert found and all(line in describe(found, pinned) for line in [*found[:3], "--write", "git bisect"])


def test_write_pins_new_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(globals(), "PINNED", tmp_path / "pinned.json")
    with pytest.raises(SystemExit, match="--write makes it"):
        main([])
    main(["--write"])
    assert json.loads((tmp_path / "pinned.json").read_text())["made_with"] == versions()
    main([])
    pinned = json.loads((tmp_path / "pinned.json").read_text())
    (tmp_path / "pinned.json").write_text(json.dumps(pinned | {"test_loss": 0.0, "arrays": {}}))
    with pytest.raises(SystemExit, match=TO_DO.splitlines()[0]):
        main([])
    main(["--write"])
    assert json.loads((tmp_path / "pinned.json").read_text()) == pinned
    assert "pinned as 0.0" in capsys.readouterr().out


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.test_pinned_metrics", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PINNED}")
    write = parser.parse_args(arguments).write
    jax.config.update("jax_num_cpu_devices", 1)  # as in the tests
    actual = measure(make_config())
    pinned = json.loads(PINNED.read_text()) if PINNED.exists() else None
    found = differences(actual, pinned) if pinned else ["nothing was pinned"]
    if write:
        PINNED.write_text(json.dumps({"made_with": versions()} | actual, indent=1) + "\n")
        print("\n".join([*found, f"{PINNED} is written: commit it, and say in the commit's message why it changed"]))
    elif found:
        sys.exit(describe(found, pinned) if pinned else f"there is no {PINNED}; --write makes it")


if __name__ == "__main__":
    main()
