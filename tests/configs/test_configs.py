"""Config files: locked, documented, and with the stated number of parameters."""

import importlib

import jax
import numpy as np
import pytest

from jaxresnet.config import check_config, flatten
from jaxresnet.core.model import count_parameters
from jaxresnet.core.schedules import create_learning_rate_fn
from jaxresnet.core.state import create_train_state, create_transform
from tests.conftest import REPOSITORY

PARAMETERS = {
    "default": 4_697_162,
    "baseline": 4_697_162,
    "final": 4_697_162,
    "resnet18": 11_173_962,
    "quickstart": 78_042,
    "cpu": 78_042,
    "fast": 4_697_162,
    "further": 4_697_162,
    "long": 4_697_162,
}
each_config = pytest.mark.parametrize("name", PARAMETERS)


def module(name):
    return importlib.import_module(f"configs.{name}")


def test_every_file_is_tested():
    """Files with arms are tested in test_arms.py, and tables.py through them."""
    paths = [path for path in (REPOSITORY / "configs").glob("*.py") if path.name != "tables.py"]
    assert {path.stem for path in paths if "\nARMS = " not in path.read_text()} == set(PARAMETERS)


@each_config
def test_parameters_and_checks(name):
    config = module(name).get_config()
    check_config(config)
    state = jax.eval_shape(lambda: create_train_state(config, (32, 32, 3)))
    assert count_parameters(state.params) == PARAMETERS[name]


@each_config
def test_locked_with_the_fields_of_the_default(name):
    config = module(name).get_config()
    with pytest.raises((AttributeError, KeyError)):
        config.lerning_rate = 1
    assert flatten(config.to_dict()).keys() == flatten(module("default").get_config().to_dict()).keys()


@each_config
def test_docstring_gives_command_and_figures(name):
    if name == "default":
        return
    docstring = module(name).__doc__
    assert f"jaxresnet train --config=configs/{name}.py --workdir=runs/{name}" in docstring
    assert "Paper:" in docstring and "Measured here:" in docstring


def test_every_field_of_the_default_has_a_comment():
    lines = (REPOSITORY / "configs" / "default.py").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("config.") and "ConfigDict()" not in line:
            assert "#" in line or lines[number - 1].strip().startswith("#"), line


def test_the_final_recipe_is_the_papers():
    config = module("final").get_config()
    learning_rate_fn = create_learning_rate_fn(config, 391)
    assert float(learning_rate_fn(0)) == pytest.approx(0.1)
    assert float(learning_rate_fn(100 * 391)) == pytest.approx(0.05)
    assert (config.batch_size, config.num_epochs, config.optimizer.weight_decay) == (128, 200, 5e-4)
    assert (config.model.pooling, config.model.dropout_rate) == ("global", 0.4)
    assert config.augment.mean == (0, 0, 0) and config.augment.std == (1, 1, 1)


@pytest.mark.parametrize("epochs", ["0", "ten", "-5", "3", ""])
def test_recipe_refuses_impossible_numbers_of_epochs(epochs):
    with pytest.raises(ValueError, match="expected a whole number of epochs, at least 4"):
        module("fast").get_config(epochs)


@pytest.mark.parametrize("epochs", [4, 12, 60])
def test_fast_recipe_stretches_over_epochs(epochs):
    """The rate rises and falls once, and the last epochs train on whole images."""
    config = module("fast").get_config(str(epochs))
    rates = create_learning_rate_fn(config, 98)(np.arange(98 * epochs))
    peak = int(rates.argmax())
    assert peak == pytest.approx(0.15 * 98 * epochs, abs=1) and rates[peak] == pytest.approx(0.12, rel=1e-3)
    assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all() and rates[-1] < 0.001
    sides = [create_transform(config, epoch).side for epoch in range(epochs)]
    assert sides[0] == 16 and sides[-1] is None and sides == sorted(sides, key=lambda side: side or 32)


def test_curves_named_by_configs_exist():
    from jaxresnet.report.paper_curves import read_paper_curve

    final = read_paper_curve(module("final").get_config().paper.curve)
    assert len(final["epoch"]) == 200 and max(final["eval_accuracy"]) == 96.10
    baseline = read_paper_curve(module("baseline").get_config().paper.curve)
    assert baseline["eval_accuracy"][-1] == 95.48
