"""Random configs: valid ones train, are saved and restored; invalid ones are refused in one line."""

import contextlib
import math
import os
import pathlib
import re
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl import flags
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from ml_collections.config_flags import config_flags

from configs import default
from jaxresnet import cli
from jaxresnet.core.optim import OPTIMIZERS, takes_momentum
from jaxresnet.core.schedules import SCHEDULES
from jaxresnet.evaluate import evaluate_run
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.config import check_config, flatten
from jaxresnet.workdir.log import read_metrics
from scripts.same_run import arrays_of, checkpointed
from tests.conftest import make_tiny_config, save_digits

pytestmark = pytest.mark.reliability

# An example that trains compiles its own program for seconds. A refused one takes milliseconds.
FEW = settings(max_examples=max(5, settings.default.max_examples // 16))
MOST_STAGES = 4 if settings.default.max_examples > 100 else 2  # each stage takes long to compile
MANY = settings(max_examples=4 * settings.default.max_examples, deadline=60_000)  # ms, against hanging examples

TEST_SIZE = 7


@st.composite
def configs(draw):
    """Draw a valid config of two steps, and its number of training images."""
    config = default.get_config()
    config.seed = draw(st.integers(0, 2**32 - 1))
    config.dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    config.steps_per_dispatch = draw(st.integers(1, 5))
    config.log_every_steps = draw(st.integers(0, 3))
    config.eval_batch_size = draw(st.integers(1, 2 * TEST_SIZE))

    # The two steps are two batches, the second no larger than the first, or the whole set twice.
    config.batch_size = draw(st.integers(1, 12))
    rest = draw(st.integers(0, config.batch_size))
    config.num_epochs = 1 if rest else 2
    config.dataset.validation_size = draw(st.integers(0, 5))
    size = config.batch_size + rest + config.dataset.validation_size

    model, stages = config.model, draw(st.integers(1, MOST_STAGES))
    model.channels = tuple(draw(st.lists(st.integers(1, 9), min_size=stages, max_size=stages)))
    deeper = draw(st.integers(0, stages))
    model.blocks = tuple(2 if stage == deeper else 1 for stage in range(stages))
    model.kernel_size = draw(st.sampled_from([1, 3, 5, 7]))
    model.shortcut_kernel_size = draw(st.sampled_from([1, 3, 5]))
    model.stem_channels = draw(st.none() | st.integers(1, 9))
    model.pooling = draw(st.just("global") | st.integers(1, 32 // 2 ** (stages - 1)).map(str))
    model.skips = draw(st.booleans())
    model.dropout_rate = draw(st.floats(0, 0.9))
    model.num_classes = draw(st.integers(10, 20))

    config.augment.crop_padding = draw(st.integers(0, 32))
    config.augment.flip = draw(st.booleans())
    if model.pooling == "global":
        sides, share = st.lists(st.integers(1, 32), max_size=2), draw(st.floats(0.1, 0.5))
        config.augment.small_images = tuple((side, share * (i + 1)) for i, side in enumerate(draw(sides)))
    config.label_smoothing = draw(st.floats(0, 0.9))
    config.eval_every_epochs = draw(st.integers(1, 3))
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
    if schedule.name == "one_cycle":  # it needs four ticks
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
    """Return a config with one channel, one image per batch and a 1x1 map, so BatchNorm normalises one value."""
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

NEITHER_NUMBER_NOR_TEXT = [None, 1j, [], {}, (None,), {"a": 1}]
NO_NUMBERS = ["", "one", *NEITHER_NUMBER_NOR_TEXT]
NOT_FINITE = [math.nan, math.inf, -math.inf]


def values(*several):
    return st.sampled_from(several)


def no_whole_number(least, *others):
    """Return a strategy for anything but a whole number of at least ``least``, and for ``others``."""
    return st.integers(max_value=least - 1) | st.floats() | values(True, *NO_NUMBERS, *others)


def no_number(*others):
    """Return a strategy for anything but a number of at least 0 that float32 can hold, and for ``others``."""
    return st.floats(max_value=-1e-300) | values(*NO_NUMBERS, *NOT_FINITE, 1e39, 10**300, *others)


def unless_none(strategy):
    return strategy.filter(lambda value: value is not None)


def spoiled(good, *bad):
    """Return a strategy for the tuple ``good`` with one value replaced by a bad one, and for other invalid values."""
    bad = values(*bad, True, *NO_NUMBERS, *NOT_FINITE)
    one_bad = st.integers(0, len(good) - 1).flatmap(
        lambda index: bad.map(lambda value: (*good[:index], value, *good[index + 1 :]))
    )
    return one_bad | values((), [], {}, None, "many", 1.5, (good,), good * 2)


# Values of each field that are invalid in any config.
IMPOSSIBLE = {
    "name": values(None, 1, 1.5, [], {}, "a\0b"),
    "seed": no_whole_number(0, 2**32, 10**400),
    "num_epochs": no_whole_number(1, 2**31, 10**400),
    "batch_size": no_whole_number(1, 166, 10**400),
    "eval_batch_size": no_whole_number(1),
    "eval_every_epochs": no_whole_number(1),
    "label_smoothing": no_number(1, 1.0, 2.0),
    "dtype": values("float16", "float64", "", "Float32", *NEITHER_NUMBER_NOR_TEXT),
    "steps_per_dispatch": no_whole_number(1),
    "model.channels": spoiled((4, 5, 6), 0, -1, 1.5, "4", 10**9, 10**400),
    "model.blocks": spoiled((1, 1, 1), 0, -1, 1.5, "1", 1001, 10**9, 10**400),
    "model.kernel_size": no_whole_number(1, 2, 64, 65, 10**9, 10**9 + 1, 10**400 + 1),
    "model.shortcut_kernel_size": no_whole_number(1, 2, 64, 65, 10**9, 10**9 + 1, 10**400 + 1),
    "model.stem_channels": unless_none(no_whole_number(1, 10**9, 10**400)),
    "model.pooling": values("", "0", "-1", "33", "9999", "9" * 5000, "5.0", "5\n", "²", 99, *NEITHER_NUMBER_NOR_TEXT),
    "model.skips": values(None, "", "maybe", 2, 0.5, [], {}),
    "model.dropout_rate": no_number(1, 1.0, 2.0),
    "model.num_classes": no_whole_number(1, 9, 1001, 10**9, 10**400),
    "dataset.name": values("", "cifar20", "CIFAR10", 5, *NEITHER_NUMBER_NOR_TEXT),
    "dataset.data_dir": unless_none(values("/nowhere", "nowhere.npz", "a\0b", "x" * 300, 5, *NEITHER_NUMBER_NOR_TEXT)),
    "dataset.validation_size": no_whole_number(0, 165, 10**9, 10**400),
    "augment.crop_padding": no_whole_number(0, 33, 10**6, 10**400),
    "augment.flip": values(None, "", "maybe", 2, 0.5, [], {}),
    "augment.small_images": values(
        None,
        True,
        16,
        "16",
        (16,),
        (16, 0.5),
        ((16,),),
        ((0, 0.5),),
        ((33, 0.5),),
        ((16.0, 0.5),),
        ((16, 0),),
        ((16, 1.5),),
        ((16, "half"),),
        ((16, float("nan")),),
        ((16, 0.5), (24, 0.5)),
        ((16, 0.5), (24, 0.25)),
        {},
    ),
    "augment.mean": spoiled((0.5, 0.5, 0.5), -0.1, 1.1, 125.3, 10**400),
    "augment.std": spoiled((0.5, 0.5, 0.5), -0.1, 0, 0.0, 1e-50, 1e39, 10**400),
    "optimizer.name": values("", "SGD", "sgdd", 5, *NEITHER_NUMBER_NOR_TEXT),
    "optimizer.momentum": no_number(1, 1.0, 2.0),
    "optimizer.weight_decay": no_number(),
    "schedule.name": values("", "cosin", 5, *NEITHER_NUMBER_NOR_TEXT),
    "schedule.learning_rate": no_number(),
    "schedule.step_per": values("", "batch", 5, *NEITHER_NUMBER_NOR_TEXT),
    "schedule.total_epochs": unless_none(no_number(0, 0.0, 1e-30, 1e-310)),
    "schedule.warmup_epochs": no_number(),
    "schedule.start_factor": no_number(),
    "schedule.end_factor": no_number(),
    "schedule.power": no_number(0, 0.0, 1e-310),
    "schedule.restarts": no_whole_number(0, 2**31, 10**400),
    "checkpoint.every_minutes": no_number(0, 0.0),
    "checkpoint.every_steps": no_whole_number(0),
    "checkpoint.keep": no_whole_number(1),
    "log_every_steps": no_whole_number(0),
    "tracker": unless_none(values("", "wandB", "mlflow", 5, *NEITHER_NUMBER_NOR_TEXT)),
    "paper.accuracy": unless_none(no_number(101)),
    "paper.epoch": values("", "first", 5, *NEITHER_NUMBER_NOR_TEXT),
    "paper.curve": unless_none(values(5, "a\0b", *NEITHER_NUMBER_NOR_TEXT)),
}
TEXT = ("name", "paper.curve")  # any text is valid


def impossible_values(fields):
    """Return a strategy for a field and an invalid value of it."""
    return values(*fields).flatmap(lambda field: st.tuples(st.just(field), IMPOSSIBLE[field]))


def test_every_field_has_values_that_are_refused():
    config = default.get_config()
    assert IMPOSSIBLE.keys() == flatten(config.to_dict()).keys()
    check_config(config)


@contextlib.contextmanager
def nothing_is_done():
    """Yield a workdir, and check that no step is computed, nothing is written there and little memory is used."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_memory()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("jaxresnet.training.loop.dispatch", side_effect=AssertionError("a step was taken")),
    ):
        yield os.path.join(folder, "run")
        assert not os.listdir(folder)
    assert peak_memory() - before < 2**19, "in KiB: half a GiB"


def peak_memory():
    """Return the peak memory of this process in KiB, or 0 if it is unknown, as on other systems than Linux."""
    status = pathlib.Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) if status.exists() else 0


def assert_refused(config, field, value):
    section, _, name = field.rpartition(".")
    with config.ignore_type():
        (config[section] if section else config)[name] = value
    with nothing_is_done() as workdir, pytest.raises(UserError) as error:
        train_and_evaluate(config, workdir)
    message = str(error.value)
    assert field in message and message.isprintable() and len(message) < 2000


@MANY
@given(drawn=configs(), impossible=impossible_values(IMPOSSIBLE))
def test_an_impossible_value_is_refused_in_one_line_that_names_the_field(drawn, impossible, tiny_npz, count):
    config, _ = drawn
    config.dataset.data_dir = str(tiny_npz)
    assert_refused(config, *impossible)
    count("impossible configs refused in one line")


# Each of these once ended the process, ran out of memory, hung, or gave a traceback.
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.channels", (10**9, 10**9)),
        ("model.channels", (4, 10**400)),
        ("model.blocks", (1, 10**9)),
        ("model.kernel_size", 10**9 + 1),
        ("model.shortcut_kernel_size", 10**9 + 1),
        ("model.stem_channels", 10**9),
        ("model.num_classes", 10**9),
        ("model.pooling", "9" * 5000),
        ("augment.crop_padding", 10**6),
        ("augment.mean", (10**400, 0, 0)),
        ("num_epochs", 10**400),
        ("schedule.restarts", 10**400),
        ("dataset.data_dir", "a\0b"),
        ("paper.accuracy", 1j),
    ],
)
def test_a_value_that_did_harm_is_refused(tiny_config, field, value, count):
    assert_refused(tiny_config, field, value)
    count("impossible configs refused in one line")


@pytest.mark.parametrize("section", ["model", "dataset", "augment", "optimizer", "schedule", "checkpoint", "paper"])
@pytest.mark.parametrize("value", [None, 3, {}, {"nothing": 1}])
def test_a_section_that_is_none_is_refused(section, value):
    config = default.get_config()
    with config.ignore_type(), config.unlocked():
        config[section] = value
    with pytest.raises(UserError, match=rf"^{section}\.\w+: is missing; configs/default.py lists them all"):
        check_config(config)


@pytest.mark.parametrize("field", ["lerning_rate", "model.depth"])
def test_a_field_that_configs_do_not_have_is_refused(field):
    config = default.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({field: 1})
    with pytest.raises(UserError, match=f"^{field}: is not a field of a config"):
        check_config(config)


@pytest.fixture
def run_flags(monkeypatch, capfd):
    """Return a function that runs ``jaxresnet.main`` in this process, and returns its status and lines on stderr."""

    def run(*arguments):
        argv = ["main.py", *arguments]
        parsed = flags.FlagValues()
        config = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=parsed, sys_argv=argv)
        workdir = flags.DEFINE_string("workdir", None, "", flag_values=parsed)
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(flags, "FLAGS", parsed)
            cli.refuse_arguments(cli.parse_flags(argv))
            with cli.command():
                train_and_evaluate(config.value, workdir.value)
        # If the status is text, Python prints it and exits with 1.
        status, text = (1, stopped.value.code) if isinstance(stopped.value.code, str) else (stopped.value.code, "")
        return status, (capfd.readouterr().err + text).splitlines()

    return run


@MANY
@given(impossible=impossible_values(IMPOSSIBLE.keys() - set(TEXT)))
def test_an_impossible_flag_is_refused_in_one_line(impossible, run_flags, tiny_npz, count):
    field, value = impossible
    argument = f"--config.{field}={value}"
    assume("\0" not in argument)
    # A flag of {} is read as an empty tuple, which is this field's valid default. As a value, {} is refused above.
    assume((field, value) != ("augment.small_images", {}))
    own = () if field == "dataset.data_dir" else (f"--config.dataset.data_dir={tiny_npz}",)
    with nothing_is_done() as workdir:
        status, lines = run_flags("--config=configs/default.py", f"--workdir={workdir}", *own, argument)
    assert status in (1, 2) and len(lines) == 1 and field in lines[0]
    count("impossible configs refused in one line")


@pytest.mark.parametrize(
    "argument",
    [
        "--config.model=3",
        "--config.model.channels",
        "--config.model.channels[0]=5",
        "--config.model.channels=(",
        "--config.model.channels=4 5 6",
        "--config.model.channels=__import__('os')",
        "--config.batch_size=" + "9" * 5000,
        "--config.batch_size=1e2",
        "--noconfig.batch_size",
        "--config.augment.flip=2",
        "--config.=1",
        "--config..=1",
        "--config.model.stem_channels=many",
    ],
)
def test_a_flag_that_cannot_be_read_is_refused_in_one_line(run_flags, argument, count):
    with nothing_is_done() as workdir:
        status, lines = run_flags("--config=configs/default.py", f"--workdir={workdir}", argument)
    assert status in (1, 2) and len(lines) == 1, lines
    count("impossible configs refused in one line")
