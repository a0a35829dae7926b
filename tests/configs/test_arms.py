"""All arms of all tables: size, three steps of training, saving and restoring."""

import ast
import pathlib
import re

import jax
import numpy as np
import pytest

from configs import baseline
from jaxresnet.config import check_config, flatten, load_experiment
from jaxresnet.core.costs import multiply_adds
from jaxresnet.core.model import count_parameters
from jaxresnet.core.programs import create_mesh, jit_steps, put_on_devices, replicate
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import create_model, create_train_state, create_transform
from jaxresnet.data.loading import Split
from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.progress import Progress
from tests.conftest import REPOSITORY

BASELINE = 4_697_162
# Arms by table, with their number of parameters, or None for the baseline's number.
PARAMETERS = {
    "headline": {"baseline": None, "final": None, "resnet18": 11_173_962},
    "scheduler": dict.fromkeys(
        [
            "cosine", "linear", "polynomial", "one_cycle",
            "linear_fixed", "polynomial_fixed", "one_cycle_fixed", "warm_restarts",
        ]
    ),
    "augmentation": dict.fromkeys(
        [
            "baseline", "none", "crop", "flip", "norm_0.49", "norm_0.5", "crop_flip", "crop_norm", "flip_norm", "all",
        ]
    ),
    "optimizer": dict.fromkeys(
        [
            "sgd", "adam", "rmsprop", "adamw", "adagrad", "adadelta", "radam",
            "adam_fixed", "rmsprop_fixed", "adamw_fixed", "adagrad_fixed",
            "adam_fixed_warmup", "rmsprop_fixed_warmup", "adamw_fixed_warmup", "adagrad_fixed_warmup",
            "rmsprop_longer",
        ]
    ),
    "epochs": dict.fromkeys(["200", "100", "300", "400", "100_fixed", "300_fixed", "400_fixed"]),
    "pooling": dict.fromkeys(["avg_5", "avg_8", "adaptive"]),
    "dropout": dict.fromkeys(["0.0", "0.2", "0.3", "0.4", "0.5"]),
    "architecture": {
        "64-128-256": None,
        "32-64-128-256": 4_458_794,
        "16-32-64-128-256": 4_768_410,
        "32-64-128": 4_959_770,
    },
    "batch_size": dict.fromkeys(["16", "32", "64", "128", "256", "512"]),
}  # fmt: skip
# Numbers of rows in the paper's tables, and of distinct runs in them. Nine rows are the baseline itself.
ROWS, DISTINCT = 44, 36

each_table = pytest.mark.parametrize("table", PARAMETERS)
each_arm = pytest.mark.parametrize(
    ("table", "arm"), [(table, arm) for table in PARAMETERS for arm in PARAMETERS[table]]
)
# The last arm of a table is enough to find most mistakes, and wide networks take long.
OFTEN = {(table, [*PARAMETERS[table]][-1]) for table in PARAMETERS if table not in ("architecture", "headline")}
each_arm_but_few_often = pytest.mark.parametrize(
    ("table", "arm"),
    [
        pytest.param(table, arm, marks=[pytest.mark.thorough] * ((table, arm) not in OFTEN))
        for table in PARAMETERS
        for arm in PARAMETERS[table]
    ],
)


def experiment(table):
    return load_experiment(REPOSITORY / "configs" / f"{table}.py")


def test_every_table_is_tested():
    """Configs with arms that are no tables of the paper are tested in test_studies.py."""
    with_arms = {path.stem for path in (REPOSITORY / "configs").glob("*.py") if "\nARMS = " in path.read_text()}
    assert with_arms == {*PARAMETERS, "skips", "small"}


@each_table
def test_arms(table):
    assert sorted(experiment(table).arms) == sorted(PARAMETERS[table])
    assert re.match(r"(Table [1-8]|Text): \w", experiment(table).title)


@each_table
def test_docstrings_give_the_commands_the_paper_and_the_measurement(table):
    docstring = ast.get_docstring(ast.parse(experiment(table).path.read_text()))
    example = re.search(rf"--config=configs/{table}\.py:(\S+) --workdir=runs/(\S+)/seed0\n", docstring)
    assert experiment(table).get_config(example[1]).name == example[2]
    assert f"python -m jaxresnet.sweep --config=configs/{table}.py --seeds=3 --workdir=runs" in docstring
    assert "Paper: " in docstring and "Measured here: " in docstring


@each_table
def test_no_arm_means_the_baseline_and_an_unknown_one_gets_the_list(table):
    module = experiment(table)
    assert flatten(module.get_config().to_dict()) == flatten(baseline.get_config().to_dict())
    with pytest.raises(ValueError, match=f"there is no arm 'adamax'; expected one of {', '.join(module.arms)}"):
        module.get_config("adamax")


def test_the_paper_has_44_rows_and_36_runs():
    configs = [experiment(table).get_config(arm) for table in PARAMETERS for arm in PARAMETERS[table]]
    # The paper cites ResNet-18 and did not run it.
    rows = [config for config in configs if config.paper.accuracy is not None and config.name != "resnet18"]
    assert len(rows) == ROWS
    assert len({config.name for config in rows}) == DISTINCT
    assert sum(config.name == "baseline" for config in rows) == 9


def test_equal_names_are_equal_runs_and_others_differ():
    by_name = {}
    for table in PARAMETERS:
        for arm in PARAMETERS[table]:
            config = experiment(table).get_config(arm)
            fields = {k: v for k, v in flatten(config.to_dict()).items() if not k.startswith(("paper.", "name"))}
            assert by_name.setdefault(config.name, fields) == fields
    different = [tuple(sorted((k, str(v)) for k, v in fields.items())) for fields in by_name.values()]
    assert len(set(different)) == len(different)


@each_arm
def test_size_checks_and_the_papers_curve(table, arm):
    config = experiment(table).get_config(arm)
    check_config(config)
    state = jax.eval_shape(lambda: create_train_state(config, (32, 32, 3)))
    assert count_parameters(state.params) == (PARAMETERS[table][arm] or BASELINE)
    assert config.name in ("baseline", "final", "resnet18", f"{table}/{arm}")
    if config.paper.curve:
        curve = read_paper_curve(config.paper.curve)
        accuracy = curve["eval_accuracy"][-1] if config.paper.epoch == "last" else max(curve["eval_accuracy"])
        # For two arms, the surviving log is not from the run that the paper reports.
        printed = {"augmentation/crop": 94.10, "epochs/100": 88.30}.get(config.name, config.paper.accuracy)
        assert accuracy == pytest.approx(printed, abs=0.0101)


@each_arm_but_few_often
def test_three_steps_and_back(table, arm, tmp_path):
    """The arm's own recipe trains a model a quarter as wide, with one block per stage and smaller batches."""
    config = experiment(table).get_config(arm)
    config.model.channels = tuple(channels // 4 for channels in config.model.channels)
    config.model.blocks = (1,) * len(config.model.blocks)
    config.model.stem_channels = config.model.stem_channels and config.model.stem_channels // 4
    config.batch_size //= 4
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    split = Split(images, (images.mean((1, 2, 3)) * 10 % 10).astype(np.int32))

    mesh = create_mesh()
    steps, data = jit_steps(create_transform(config), mesh), put_on_devices(split.images, split.labels, mesh)
    start = create_train_state(config, (32, 32, 3))
    before = jax.tree.map(np.asarray, start.params)
    state = replicate(start, mesh)
    hyperparams_fn = create_hyperparams_fn(config, 391)
    for i in range(3):
        indices = rng.integers(0, len(split), (1, config.batch_size))
        state, metrics = steps.train(
            state, data, indices, jax.tree.map(np.float32, hyperparams_fn(np.arange(i, i + 1)))
        )
        assert np.isfinite(metrics["loss"]).all()
    moved = [
        np.abs(np.asarray(a) - b).max() for a, b in zip(*map(jax.tree.leaves, (state.params, before)), strict=True)
    ]
    assert max(moved) > 0 and np.isfinite(moved).all()

    with Checkpointer(pathlib.Path(tmp_path)) as checkpointer:
        checkpointer.save(state, Progress("checksum"))
    with Checkpointer(pathlib.Path(tmp_path), read_only=True) as checkpointer:
        restored, _ = checkpointer.restore(replicate(create_train_state(config, (32, 32, 3)), mesh), 3)
    for a, b in zip(*(jax.tree.leaves((s.step, s.variables, s.opt_state)) for s in (restored, state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_multiply_adds():
    """The final model has 799 million multiply-adds. Those of a small model are computed by hand."""
    final = create_model(experiment("headline").get_config("final"))
    assert round(multiply_adds(final, (32, 32, 3)) / 1e6) == 799
    cpu = create_model(load_experiment(REPOSITORY / "configs" / "cpu.py").get_config(""))
    sides, channels = (32, 32, 16, 8), (16, 16, 32, 64)
    by_hand = 32 * 32 * 9 * 3 * 16 + 64 * 10
    for before, after, side, wide in zip(channels, channels[1:], sides[1:], (False, True, True), strict=False):
        by_hand += side * side * (9 * before * after + 9 * after * after + (before * after if wide else 0))
    assert multiply_adds(cpu, (32, 32, 3)) == by_hand
