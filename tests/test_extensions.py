"""Functions of a file beside one's data: an optimizer, a stage, a block, a loss."""

import hashlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxresnet import extensions
from jaxresnet.config import get_config, load_experiment
from jaxresnet.core.model import BasicBlock
from jaxresnet.core.optim import create_optimizer
from jaxresnet.core.state import create_model, create_transform
from jaxresnet.core.steps import create_loss
from jaxresnet.evaluate import evaluate_run
from jaxresnet.finetune import choose_config
from jaxresnet.inference import load
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from tests.conftest import REPOSITORY
from tests.data.test_loading import save_classes

MINE = """
import flax.linen as nn
import jax
import optax
from jaxresnet.core.model import BasicBlock


def lion(learning_rate, momentum, weight_decay, b2=0.99):
    return optax.lion(learning_rate, momentum, b2, weight_decay=weight_decay)


def invert(rng, images, targets):
    return 255 - images, targets


def gelu(**fields):
    return BasicBlock(**fields | {"relu": nn.gelu})


def brier(logits, targets):
    return ((jax.nn.softmax(logits) - jax.nn.one_hot(targets, logits.shape[-1])) ** 2).sum(-1)


def greedy(learning_rate, temperature):
    return optax.sgd(learning_rate)
"""
FIELDS = {
    "optimizer.name": "mine.py:lion",
    "augment.stages": "mine.py:invert",
    "model.block": "mine.py:gelu",
    "loss": "mine.py:brier",
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return the path of a file of functions in the working directory, which no test before has run."""
    monkeypatch.setattr(extensions, "_USED", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


@pytest.fixture
def own_config(tiny_config, mine):
    tiny_config.update_from_flattened_dict({"num_epochs": 1, **FIELDS})
    return tiny_config


def test_own_optimizer_equals_optax(tiny_config, own_config):
    """It takes the fields that its signature names, and its own default of b2."""
    extensions.use("mine.py")
    tx, expected = create_optimizer(own_config.optimizer), optax.lion(0.1, 0.9, 0.99, weight_decay=5e-4)
    params, grads = {"a": jnp.arange(3.0)}, {"a": jnp.array([1.0, -2.0, 0.0])}
    state = tx.init(params)
    state.hyperparams["learning_rate"] = jnp.float32(0.1)
    updates, _ = tx.update(grads, state, params)
    np.testing.assert_allclose(updates["a"], expected.update(grads, expected.init(params), params)[0]["a"], rtol=1e-6)
    assert create_optimizer(own_config.optimizer) is tx


def test_own_stage_block_and_loss_are_used(own_config, mine):
    extensions.use("mine.py")
    pixels, labels = jnp.full((2, 32, 32, 3), 100, jnp.uint8), jnp.array([3, 7], jnp.int32)
    own_config.augment.update(crop_padding=0, flip=False)
    transform = create_transform(own_config)
    images, _ = transform.train(jax.random.key(0), pixels, labels)
    np.testing.assert_array_equal(images, transform.eval(255 - pixels))

    model = create_model(own_config)
    variables = model.init(jax.random.key(0), images, train=False)
    expected = model.clone(block=lambda **fields: BasicBlock(**fields | {"relu": jax.nn.gelu}))
    np.testing.assert_array_equal(
        model.apply(variables, images, train=False), expected.apply(variables, images, train=False)
    )
    assert create_model(own_config) is model
    np.testing.assert_allclose(create_loss(own_config)(jnp.zeros((2, 10)), labels), 0.9, rtol=1e-6)


def test_stored_run_never_loads_code(own_config, mine, monkeypatch):
    train_and_evaluate(own_config, "run")
    checksum = hashlib.sha256(MINE.encode()).hexdigest()
    assert f'"code": "mine.py:{checksum}"' in (mine.parent / "run" / "config.json").read_text()
    trained = load("run").logits(np.zeros((32, 32, 3), np.uint8))

    monkeypatch.setattr(extensions, "_USED", {})
    mine.write_text(MINE + "raise SystemExit('it was run')\n")
    for read in (load, lambda workdir: evaluate_run(workdir, "last")):
        with pytest.raises(UserError, match=r"^run was trained with code of mine.py; .* give --with=PATH/mine.py$"):
            read("run")
    mine.write_text(MINE)
    extensions.use("mine.py")
    np.testing.assert_array_equal(load("run").logits(np.zeros((32, 32, 3), np.uint8)), trained)


def test_file_beside_the_config_file_is_used(mine):
    """The current folder's file of the same name is another study's, unless a path names it."""
    (mine.parent / "study").mkdir()
    (mine.parent / "study" / "mine.py").write_text(MINE + "# of the study\n")
    table = "from configs import quickstart\n\n\ndef get_config():\n    config = quickstart.get_config()\n"
    (mine.parent / "study" / "table.py").write_text(f"{table}    config.loss = 'mine.py:brier'\n    return config\n")
    of_study, here = (hashlib.sha256(text.encode()).hexdigest() for text in (MINE + "# of the study\n", MINE))
    assert get_config("study/table.py", {"seed": "1"}).code == f"mine.py:{of_study}"
    assert get_config("study/table.py", {"loss": "./mine.py:brier"}).code == f"mine.py:{here}"


def test_finetune_runs_no_stored_code(own_config, mine, monkeypatch):
    """A stored config can name any file of this machine as its block."""
    train_and_evaluate(own_config, "run")
    save_classes(mine.parent / "photos", {"cat": 5, "dog": 5})
    stored = mine.parent / "run" / "config.json"
    text = stored.read_text().replace("mine.py:gelu", f"{mine}:gelu")
    stored.write_text(re.sub(r'"code": ".*"', '"code": ""', text))
    monkeypatch.setattr(extensions, "_USED", {})
    mine.write_text("raise SystemExit('it was run')\n")
    choose = lambda: choose_config(mine.parent / "photos", mine.parent / "new", "run", "", {})  # noqa: E731
    with pytest.raises(UserError, match=r"mine\.py was not run; if you trust it, give --with=mine\.py"):
        choose()
    (mine.parent / "trusted").mkdir()
    (mine.parent / "trusted" / "mine.py").write_text(MINE)
    extensions.use("trusted/mine.py")
    assert choose().code == f"mine.py:{hashlib.sha256(MINE.encode()).hexdigest()}"


def test_changed_file_is_refused(own_config, mine, monkeypatch):
    train_and_evaluate(own_config, "run")
    mine.write_text(MINE + "# changed\n")
    with pytest.raises(UserError, match=r"another config: code='mine.py:.*' .there: 'mine.py:"):
        train_and_evaluate(own_config, "run")  # a resume
    with pytest.raises(UserError, match=r"mine.py is not the mine.py that run was trained with .SHA-256 "):
        load("run")


def test_unchanged_file_runs_once(own_config, mine):
    extensions.use("mine.py")
    module = extensions.find({}, "loss", "mine.py:brier").__module__
    extensions.use("mine.py")
    assert extensions.find({}, "loss", "mine.py:brier") is vars(sys.modules[module])["brier"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:lio", "optimizer.name='mine.py:lio': mine.py has no function lio"),
        ("lion", "expected one of adadelta, .* sgd, FILE.py:NAME"),
        ("none.py:lion", "none.py cannot be run: .*No such file"),
        ("wrong.py:lion", r"wrong.py cannot be run: division by zero \(ZeroDivisionError\)"),
        ("mine.py:greedy", "greedy takes 'temperature', but config.optimizer has no such field"),
    ],
)
def test_mistakes_take_one_line(tiny_config, mine, name, message):
    mine.with_name("wrong.py").write_text("1 / 0\n")
    tiny_config.optimizer.name = name
    with pytest.raises(UserError, match=message) as error:
        train_and_evaluate(tiny_config, "run")
    assert "\n" not in str(error.value) and not mine.with_name("run").exists()


def test_documented_table_is_valid(tmp_path, monkeypatch):
    """docs/extend.md has two files: functions, and a table that names them."""
    monkeypatch.setattr(extensions, "_USED", {})
    page = (REPOSITORY / "docs" / "extend.md").read_text()
    for name, code in zip(("blocks.py", "activations.py"), re.findall(r"(?s)```python\n(.*?)```", page), strict=True):
        (tmp_path / name).write_text(code)
    experiment = load_experiment(tmp_path / "activations.py")
    models = [create_model(experiment.get_config(arm)) for arm in experiment.arms]
    assert [model.block.__name__ for model in models] == ["BasicBlock", "gelu", "tanh"]
