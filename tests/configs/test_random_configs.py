"""Random configs: valid ones train, are saved and restored; invalid ones are refused in one line.

Values are drawn by the type and range of each field in configs/default.py, so a new field is drawn too.
"""

import contextlib
import math
import os
import pathlib
import re
import tempfile
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from configs import default
from jaxresnet import config as configs
from jaxresnet import main
from jaxresnet.core.optim import OPTIMIZERS, takes_momentum
from jaxresnet.core.schedules import SCHEDULES
from jaxresnet.evaluate import evaluate_run
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.log import read_metrics
from scripts.same_run import arrays_of, checkpointed
from tests.conftest import make_tiny_config, save_digits

pytestmark = pytest.mark.reliability

# An example that trains compiles its own program for seconds. A refused one takes milliseconds.
FEW = settings(max_examples=max(5, settings.default.max_examples // 16))
MOST_STAGES = 4 if settings.default.max_examples > 100 else 2  # each stage takes long to compile
MANY = settings(max_examples=4 * settings.default.max_examples, deadline=60_000)  # ms, against hanging examples

TEST_SIZE = 7
SCHEMA = configs._schema()


def values(*several):
    return st.sampled_from(several)


def small_values(field):
    """Return a strategy for valid values of a field that compute fast and do not diverge, or None for texts."""
    kind, normal = SCHEMA[field]
    low, high = configs._RANGES.get(field, (0, math.inf))
    if field in ("dtype", "paper.epoch"):
        return values(*configs._CHOICES[field])
    if normal is None or kind is str:
        return None
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(low, min(high, low + 5))
    floats = st.floats(0.05 if low else 0, min(high, 0.9))
    return floats if kind is float else st.tuples(*[floats] * len(normal))


@st.composite
def possible_configs(draw):
    """Draw a valid config of two steps, and its number of training images."""
    config = default.get_config()
    fields = {field: draw(strategy) for field in SCHEMA if (strategy := small_values(field)) is not None}

    # The two steps are two batches, the second no larger than the first, or the whole set twice.
    batch_size = draw(st.integers(1, 12))
    rest = draw(st.integers(0, batch_size))
    size = batch_size + rest + fields["dataset.validation_size"]
    stages = draw(st.integers(1, MOST_STAGES))
    deeper = draw(st.integers(0, stages))
    pooling = draw(st.just("global") | st.integers(1, 32 // 2 ** (stages - 1)).map(str))
    shares = draw(st.lists(st.integers(1, 32), max_size=2)) if pooling == "global" else []
    fields |= {
        "batch_size": batch_size,
        "num_epochs": 1 if rest else 2,
        "dataset.image_size": 32,  # that of the digits
        "freeze": draw(values("", "stem", "all-but-head")),
        "model.channels": tuple(draw(st.lists(st.integers(1, 9), min_size=stages, max_size=stages))),
        "model.blocks": tuple(2 if stage == deeper else 1 for stage in range(stages)),
        "model.kernel_size": draw(values(1, 3, 5, 7)),
        "model.shortcut_kernel_size": draw(values(1, 3, 5)),
        "model.stem_channels": draw(st.none() | st.integers(1, 9)),
        "model.pooling": pooling,
        "model.num_classes": draw(st.integers(10, 20)),
        "augment.small_images": tuple((side, 0.4 * (i + 1)) for i, side in enumerate(shares)),
        "optimizer.name": draw(values(*sorted(OPTIMIZERS))),
        "optimizer.weight_decay": draw(st.floats(0, 0.01)),
        "schedule.learning_rate": draw(st.floats(0, 0.1)),
        "schedule.step_per": draw(values("epoch", "step")),
    }
    config.update_from_flattened_dict(fields)
    has_momentum = config.optimizer.momentum > 0 and takes_momentum(config.optimizer)
    schedule = config.schedule
    schedule.name = draw(values(*[name for name in sorted(SCHEDULES) if name != "one_cycle" or has_momentum]))
    least = 4 if schedule.name == "one_cycle" else 1  # it needs four ticks
    schedule.total_epochs = draw(st.floats(least, 50) if least == 4 else st.none() | st.floats(least, 50))
    schedule.warmup_epochs = draw(st.floats(0, 5 if schedule.total_epochs else config.num_epochs - 0.01))
    return config, size


def smallest():
    """Return a config with one channel, one image per batch and a 1x1 map, so BatchNorm normalises one value."""
    config = make_tiny_config("")
    config.update_from_flattened_dict({"num_epochs": 1, "batch_size": 1})
    config.update_from_flattened_dict({"model.channels": (1,) * 6, "model.blocks": (1,) * 6, "model.kernel_size": 1})
    return config, 2


@FEW
@given(drawn=possible_configs())
@example(drawn=smallest())
def test_possible_config_trains_and_is_restored(drawn, count):
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

        restored, progress = checkpointed(config, pathlib.Path(workdir))
        assert progress["epoch"] == config.num_epochs and restored.keys() == saved[2].keys()
        for name, array in restored.items():
            np.testing.assert_array_equal(array, saved[2][name])
            assert np.isfinite(array).all()

        # If the best epoch was chosen on held-out images, the test set is scored at the end with that epoch.
        held_out = config.dataset.validation_size > 0
        sums = evaluate_run(workdir, "best" if held_out else "last").scores.sums
        assert sums.count == TEST_SIZE
        logged = summary["test"] if held_out else lines[-1]
        assert sums.means("test") == {name: logged[name] for name in ("test_loss", "test_accuracy")}
    count("random configs trained, saved and restored")


# Invalid configs. No example below compiles a program.

# Values that are invalid for all fields of a type.
NEITHER = [1j, [], {}, (None,), {"a": 1}, None]
NO_NUMBERS = ["", "one", True, math.nan, math.inf, -math.inf, -1, 10**300, *NEITHER]
WRONG_TYPE = {
    bool: ["", "maybe", 2, 0.5, *NEITHER],
    int: [1.5, 10**400, *NO_NUMBERS],
    float: [1e39, *NO_NUMBERS],
    str: [1, 1.5, "a\0b", *NEITHER],
    tuple: [None, "many", 1.5, True, (None,), ("1",), (math.nan,), (-1,), (10**300,), ((1,),), (1, 1j, 1)],
}
# Values that are invalid for one field.
NOT_POSITIVE = [0, 0.0, 1e-310]
WRONG_VALUE = {
    "seed": [2**32],
    "num_epochs": [0, 2**31],
    "batch_size": [0, 166],
    "eval_batch_size": [0],
    "eval_every_epochs": [0],
    "label_smoothing": [1, 1.0],
    "ema_decay": [1, 1.0],
    "init_from": ["nowhere", "pretrained:nothing"],
    "freeze": ["head", "layer9", "stem layer1"],
    "loss": ["", "mse", "nowhere.py:loss"],
    "model.block": ["", "Basic", "nowhere.py:block"],
    "augment.stages": ["nowhere.py:erase"],
    "dtype": ["float16", "Float32", ""],
    "steps_per_dispatch": [0],
    "model.channels": [(), (0, 1, 1), (4, 5, 10**9), (4, 5, 6, 7)],
    "model.blocks": [(), (0, 1, 1), (1, 1, 1001), (1,)],
    "model.kernel_size": [0, 2, 65, 10**9 + 1],
    "model.shortcut_kernel_size": [0, 2, 65, 10**9 + 1],
    "model.stem_channels": [0, 10**9],
    "model.pooling": ["", "0", "-1", "33", "9" * 5000, "5.0", "5\n", "²"],
    "model.dropout_rate": [1, 1.0],
    "model.num_classes": [1, 9, 1001],
    "dataset.name": ["", "cifar20", "CIFAR10"],
    "dataset.data_dir": ["/nowhere", "nowhere.npz", "x" * 300],
    "dataset.validation_size": [165, 10**9],
    "dataset.image_size": [31, 48, 513],
    "dataset.split_seed": [2**32],
    "augment.crop_padding": [33, 10**6],
    "augment.small_images": [
        *[16, (16,), (16, 0.5), ((0, 0.5),), ((33, 0.5),), ((16.0, 0.5),), ((16, 0),), ((16, 1.5),), ((16, "half"),)],
        *[((16, 0.5), (24, 0.5)), ((16, 0.5), (24, 0.25)), ((16, math.nan),)],
    ],
    "augment.mean": [(0.5, 0.5), (0.5, 0.5, 1.1), (125.3, 123.0, 113.9)],
    "augment.std": [(0.5, 0.5), (0.5, 0.5, 0), (1e39, 1, 1)],
    "optimizer.name": ["", "SGD", "sgdd"],
    "optimizer.momentum": [1, 1.0],
    "schedule.name": ["", "cosin"],
    "schedule.step_per": ["", "batch"],
    "schedule.total_epochs": [*NOT_POSITIVE, 1e-30],
    "schedule.power": NOT_POSITIVE,
    "schedule.restarts": [2**31],
    "checkpoint.every_minutes": NOT_POSITIVE,
    "checkpoint.keep": [0],
    "tracker": ["", "wandB", "mlflow"],
    "paper.accuracy": [101],
    "paper.epoch": ["", "first"],
}


def impossible_values(field, as_text=False):
    """Return invalid values of a field, or those that are invalid as text on a command line."""
    kind, normal = SCHEMA[field]
    general = [] if as_text and kind is str else WRONG_TYPE[kind]
    return [value for value in [*general, *WRONG_VALUE.get(field, [])] if value is not None or normal is not None]


IMPOSSIBLE = [(field, value) for field in SCHEMA for value in impossible_values(field)]
IMPOSSIBLE_TEXTS = [(field, str(value)) for field in SCHEMA for value in impossible_values(field, as_text=True)]


@contextlib.contextmanager
def nothing_is_done():
    """Yield a workdir, and check that no step is computed, nothing is written there and little memory is used."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_memory()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("jaxresnet.training.dispatch", side_effect=AssertionError("a step was taken")),
    ):
        yield os.path.join(folder, "run")
        assert not os.listdir(folder)
    assert peak_memory() - before < 2**19, "in KiB: half a GiB"


def peak_memory():
    """Return the peak memory of this process in KiB, or 0 if it is unknown, as on other systems than Linux."""
    status = pathlib.Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) if status.exists() else 0


@MANY
@given(drawn=possible_configs(), impossible=values(*IMPOSSIBLE))
def test_impossible_value_is_refused(drawn, impossible, tiny_npz, count):
    config, (field, value) = drawn[0], impossible
    config.dataset.data_dir = str(tiny_npz)
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with nothing_is_done() as workdir, pytest.raises(UserError) as error:
        train_and_evaluate(config, workdir)
    message = str(error.value)
    assert field in message and message.isprintable() and len(message) < 2000
    count("impossible configs refused in one line")


@pytest.mark.parametrize("section", ["model", "dataset", "augment", "optimizer", "schedule", "checkpoint", "paper"])
@pytest.mark.parametrize("value", [None, 3, {}, {"nothing": 1}])
def test_missing_section_is_refused(section, value):
    config = default.get_config()
    with config.ignore_type(), config.unlocked():
        config[section] = value
    with pytest.raises(UserError, match=rf"^{section}\.\w+: is missing; configs/default.py lists them all"):
        configs.check_config(config)


@pytest.mark.parametrize("field", ["lerning_rate", "model.depth"])
def test_unknown_field_is_refused(field):
    config = default.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({field: 1})
    with pytest.raises(UserError, match=f"^{field}: is not a field of a config"):
        configs.check_config(config)


@pytest.mark.parametrize("value", ["quickstart", {}, None])
def test_other_objects_are_no_configs(value):
    with pytest.raises(UserError, match="is not a config; expected a ConfigDict"):
        configs.check_config(value)


@pytest.fixture
def run_flags(capfd):
    """Return a function that runs ``jaxresnet.main`` in this process, and returns its status and lines on stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main.main(arguments)
        return stopped.value.code, capfd.readouterr().err.splitlines()

    return run


@MANY
@given(impossible=values(*IMPOSSIBLE_TEXTS))
def test_impossible_flag_is_refused_in_one_line(impossible, run_flags, tiny_npz, count):
    field, text = impossible
    # A list in brackets is read as a tuple, and an empty one is this field's valid default.
    assume((field, text) not in [("augment.small_images", "[]"), ("augment.small_images", "()")])
    own = () if field == "dataset.data_dir" else (f"--config.dataset.data_dir={tiny_npz}",)
    with nothing_is_done() as workdir:
        status, lines = run_flags(
            "--config=configs/default.py", f"--workdir={workdir}", *own, f"--config.{field}={text}"
        )
    assert status in (1, 2) and len(lines) == 1 and field in lines[0]
    count("impossible configs refused in one line")
