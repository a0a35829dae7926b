"""Config files of a user: what they may import, and how their mistakes are answered."""

import pytest

import jaxresnet
from jaxresnet.config import apply, load_experiment
from jaxresnet.system.errors import UsageError
from tests.conftest import REPOSITORY

FIELD = (
    "from configs import default\n\n\ndef get_config():\n    config = default.get_config()\n    {}\n    return config\n"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    return tmp_path


def test_own_default_does_not_replace_shipped_one(folder):
    """Flax's examples all have a configs/default.py."""
    text = (REPOSITORY / "configs" / "default.py").read_text()
    (folder / "configs" / "default.py").write_text(text.replace("learning_rate = 0.1 ", "learning_rate = 0.5 "))
    assert jaxresnet.get_config("final").schedule.learning_rate == 0.1
    (folder / "configs" / "mine.py").write_text("from configs.default import get_config\n")
    assert jaxresnet.get_config("configs/mine.py").schedule.learning_rate == 0.5
    assert jaxresnet.get_config("final").schedule.learning_rate == 0.1


def test_own_configs_import_each_other(folder):
    (folder / "configs" / "base.py").write_text("from configs.final import get_config\n")
    (folder / "mine.py").write_text("from configs.base import get_config\n")
    assert jaxresnet.get_config("mine.py").name == "final"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FIELD.format("config.num_epoch = 3"), r'mine.py:6: .*Did you mean "num_epochs" instead of "num_epoch"\?'),
        (FIELD.format("config.num_epochs = 1.5"), r"mine.py:6: .*num_epochs"),
        (FIELD.format("config.num_epochs = 0"), r"mine.py: num_epochs=0: expected a whole number from 1"),
        ("extra = open('lr.txt').read()\n", r"mine.py:1: .*lr.txt.*FileNotFoundError"),
        ("def get_config(arm):\n    pass\n\n\nARMS = ('a', 'b')\n", r"mine.py: .*missing 1 required .*'arm'"),
    ],
)
def test_mistake_in_file_is_named(folder, content, message):
    (folder / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=message) as error:
        jaxresnet.get_config("mine.py")
    assert len(str(error.value)) < 600 and str(error.value).isprintable()


def test_mistake_in_one_arm_is_named(folder):
    arms = "ARMS = ('a', 'b')\n"
    text = FIELD.format("config.schedul.name = arm if arm == 'b' else None").replace(
        "get_config():", "get_config(arm='a'):", 1
    )
    (folder / "t.py").write_text(arms + text)
    with pytest.raises(UsageError, match=r't.py:7: .*"schedul"'):
        load_experiment("t.py").get_config("b")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("batch_size", "64", 64),
        ("model.blocks", "(2,2,2)", (2, 2, 2)),
        ("model.blocks", "2,2,2", (2, 2, 2)),
        ("model.channels", "2", (2,)),
        ("model.pooling", "5", "5"),
        ("augment.flip", "false", False),
        ("augment.flip", "True", True),
        ("augment.small_images", "((16, 0.5),)", ((16, 0.5),)),
        ("schedule.learning_rate", "1", 1.0),
        ("schedule.total_epochs", "none", None),
        ("dataset.data_dir", "None", None),
        ("dataset.data_dir", "x=1,2", "x=1,2"),
    ],
)
def test_override_has_type_of_field(field, text, value):
    config = jaxresnet.get_config("final")
    apply(config, {field: text})
    *section, leaf = field.split(".")
    found = (config[section[0]] if section else config)[leaf]
    assert found == value and type(found) is type(value)


def test_overrides_remove_figures_of_paper():
    assert jaxresnet.get_config("final", {"seed": "1"}).paper.accuracy == 96.1
    changed = jaxresnet.get_config("final", {"num_epochs": "3"}).paper
    assert changed.accuracy is None and changed.curve == "final"
    assert jaxresnet.get_config("final", {"model.skips": "false"}).paper.curve is None
