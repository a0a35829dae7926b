"""All arms of all tables, found by rule: contents, size, three steps of training, saving and restoring."""

import pathlib
import re

import jax
import numpy as np
import pytest

from configs import baseline, small
from configs.tables import Arm
from jaxresnet.config import check_config, flatten, load_experiment
from jaxresnet.core.costs import multiply_adds
from jaxresnet.core.model import count_parameters
from jaxresnet.core.programs import create_mesh, jit_steps, put_on_devices, replicate
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import create_model, create_train_state, create_transform
from jaxresnet.data.loading import Split
from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.workdir.checkpoint import Checkpointer, Progress
from tests.conftest import REPOSITORY

TABLES = {table.__name__.rpartition(".")[2]: table for table in small.TABLES}
BASELINE = 4_697_162
# Numbers of parameters of networks that differ from the baseline's.
PARAMETERS = {
    "resnet18": 11_173_962,
    "architecture/32-64-128-256": 4_458_794,
    "architecture/16-32-64-128-256": 4_768_410,
    "architecture/32-64-128": 4_959_770,
    "architecture/32-64-128_stem_32": 4_964_266,
}

each_table = pytest.mark.parametrize("table", TABLES)
ALL = [(name, arm) for name, table in TABLES.items() for arm in table.ARMS]
each_arm = pytest.mark.parametrize(("table", "arm"), ALL)
# The last arm of a table is enough to find most mistakes, and wide networks take long.
OFTEN = {(name, [*table.ARMS][-1]) for name, table in TABLES.items() if name not in ("architecture", "headline")}
each_arm_but_few_often = pytest.mark.parametrize(
    ("table", "arm"),
    [pytest.param(*pair, marks=[pytest.mark.thorough] * (pair not in OFTEN)) for pair in ALL],
)


def fields_of(config):
    return {k: v for k, v in flatten(config.to_dict()).items() if not k.startswith(("paper.", "name"))}


@each_table
def test_docstring_has_command_and_paper(table):
    docstring = TABLES[table].__doc__
    example = re.search(rf"--config=configs/{table}\.py:(\S+) --workdir=runs/(\S+)/seed0\n", docstring)
    assert TABLES[table].get_config(example[1]).name == example[2]
    assert f"jaxresnet sweep --config=configs/{table}.py --seeds=3 --workdir=runs" in docstring
    assert "Paper: " in docstring and "Measured here: " in docstring


@each_table
def test_default_arm_is_the_baseline(table):
    module = TABLES[table]
    assert flatten(module.get_config().to_dict()) == flatten(baseline.get_config().to_dict())
    with pytest.raises(ValueError, match=f"there is no arm 'adamax'; expected one of {', '.join(module.ARMS)}"):
        module.get_config("adamax")


@each_table
def test_claims_name_arms(table):
    module = TABLES[table]
    assert module.NOTE.strip() and module.CLAIMS
    assert all(isinstance(arm, Arm) and arm.words for arm in module.ARMS.values())
    for claim in module.CLAIMS:
        assert claim.text[:1] == claim.text[:1].upper() and not claim.text.endswith(".")
        assert claim.quote is None or 10 < len(claim.quote) < 200
        assert len(set(claim.pairs)) == len(claim.pairs) > 0
        for first, second in claim.pairs:
            names = [module.get_config(arm).name for arm in (first, second)]
            assert names[0] != names[1]


def test_equal_names_are_equal_runs():
    by_name = {}
    for table, arm in ALL:
        config = TABLES[table].get_config(arm)
        assert by_name.setdefault(config.name, fields_of(config)) == fields_of(config)
        assert config.name.startswith(f"{table}/") or TABLES[table].ARMS[arm].shares_runs_with or "/" not in config.name
    different = {tuple(sorted((k, str(v)) for k, v in fields.items())) for fields in by_name.values()}
    assert len(different) == len(by_name)


@each_arm
def test_arm_has_size_and_curve(table, arm):
    config = TABLES[table].get_config(arm)
    check_config(config)
    state = jax.eval_shape(lambda: create_train_state(config, (32, 32, 3)))
    assert count_parameters(state.params) == PARAMETERS.get(config.name, BASELINE)
    if config.paper.curve and config.paper.accuracy:
        curve = read_paper_curve(config.paper.curve)
        accuracy = curve["eval_accuracy"][-1] if config.paper.epoch == "last" else max(curve["eval_accuracy"])
        # For two arms, the surviving log is not from the run that the paper reports.
        printed = {"augmentation/crop": 94.10, "epochs/100": 88.30}.get(config.name, config.paper.accuracy)
        assert accuracy == pytest.approx(printed, abs=0.0101)


def is_share(percent, images):
    """Return True if a whole number of ``images`` rounds to ``percent``, which is printed with three digits."""
    return round(100 * round(percent / 100 * images) / images, 3) == percent


def test_papers_accuracies_fit_the_test_set():
    """In Table 2, 91.048 fits only a whole training epoch, and 78.413 no whole epoch at all."""
    assert [is_share(91.048, images) for images in (10_000, 50_000)] == [False, True]
    assert round(0.91048 * 50_000) == 45_524
    assert not any(is_share(78.413, images) for images in (10_000, 50_000))
    assert is_share(78.413, 6_300)  # 4,940 of the first 63 test batches, for instance
    accuracies = [TABLES[table].get_config(arm).paper.accuracy for table, arm in ALL]
    assert all(is_share(accuracy, 10_000) for accuracy in accuracies if accuracy is not None)


def test_table_outside_the_repository(tmp_path):
    (tmp_path / "rates.py").write_text(
        "from configs import quickstart\n"
        "from configs.tables import Arm, getter\n"
        'ARMS = {"low": Arm({"schedule.learning_rate": 0.01}), "usual": Arm()}\n'
        'get_config = getter("rates", ARMS, quickstart.get_config)\n'
    )
    table = load_experiment(tmp_path / "rates.py")
    assert table.arms == ("low", "usual")
    assert (table.get_config("low").name, table.get_config("low").dataset.name) == ("rates/low", "digits")
    assert table.get_config().name == table.get_config("usual").name == "quickstart"


@each_arm_but_few_often
def test_three_steps_and_back(table, arm, tmp_path):
    """The arm's own recipe trains a model a quarter as wide, with one block per stage and smaller batches."""
    config = TABLES[table].get_config(arm)
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
    final = create_model(TABLES["headline"].get_config("final"))
    assert round(multiply_adds(final, (32, 32, 3)) / 1e6) == 799
    cpu = create_model(load_experiment(REPOSITORY / "configs" / "cpu.py").get_config(""))
    sides, channels = (32, 32, 16, 8), (16, 16, 32, 64)
    by_hand = 32 * 32 * 9 * 3 * 16 + 64 * 10
    for before, after, side, wide in zip(channels, channels[1:], sides[1:], (False, True, True), strict=False):
        by_hand += side * side * (9 * before * after + 9 * after * after + (before * after if wide else 0))
    assert multiply_adds(cpu, (32, 32, 3)) == by_hand
