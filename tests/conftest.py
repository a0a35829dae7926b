"""Shapes in the package's signatures are enforced while testing, and a run small enough to train in seconds."""

import json
import os
import pathlib
import subprocess
import sys

import hypothesis
import jaxtyping
import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent

# The modules whose signatures state shapes. Before the package is imported anywhere.
CHECKED = [f"jaxresnet.{module}" for module in ("augment", "datasets", "inference", "models", "steps")]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

# Examples that each property-based test draws: the same ones in every quick run, others in every thorough one.
_PROFILE = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("quick", max_examples=25, derandomize=True, **_PROFILE)
hypothesis.settings.register_profile("thorough", max_examples=400, print_blob=True, **_PROFILE)

# Whose tests take longest: they begin first, so that no core is left waiting for another at the end.
_LONG = ("test_random_configs", "test_hosts", "test_kills", "test_damaged_run_files", "test_damaged_checkpoints")

_COUNTS = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="many more kills, damaged files, bad inputs and configs")


def pytest_configure(config):
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else "quick")
    config.stash[_COUNTS] = {}


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(config, items):
    thorough = [item for item in items if item.get_closest_marker("thorough")]
    for item in thorough:
        item.add_marker(pytest.mark.reliability)
    if not config.getoption("--thorough"):
        items[:] = [item for item in items if item not in thorough]
        config.hook.pytest_deselected(items=thorough)
    items.sort(key=lambda item: item.path.stem not in _LONG)


def pytest_sessionfinish(session):
    """In one of several processes that test: hands its counts to the one that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counts"] = session.config.stash[_COUNTS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for name, number in getattr(node, "workeroutput", {}).get("counts", {}).items():
        _add(node.config, name, number)


def _add(config, name, number):
    counts = config.stash[_COUNTS]
    counts[name] = counts.get(name, 0) + number


def pytest_terminal_summary(terminalreporter, config):
    """What docs/reliability.md states."""
    for name, count in config.stash[_COUNTS].items():
        terminalreporter.write_line(f"{count:>7,} {name}")


@pytest.fixture(scope="session")
def thorough(pytestconfig):
    """Whether there is time for more than a quick run."""
    return pytestconfig.getoption("--thorough")


@pytest.fixture(scope="session")
def count(pytestconfig):
    """``count("kills survived")`` adds one to what the end of the test run reports under that name."""
    return lambda name, number=1: _add(pytestconfig, name, number)


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """Many tests compile the same small programs; within one session each is compiled once."""
    import jax

    jax.config.update("jax_num_cpu_devices", 1)  # whatever the machine, and whichever command a test calls first
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    """Decoded images are kept between tests of one session, and never in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny_config(tiny_npz):
    """A run of seconds: two epochs of six steps, the last one smaller, on 165 of scikit-learn's digits."""
    return make_tiny_config(tiny_npz)


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory):
    """165 training and 50 test images, as a .npz file."""
    return save_digits(tmp_path_factory.mktemp("data") / "tiny.npz", 165, 50)


def save_digits(path, train_size, test_size):
    """A .npz file of so many of scikit-learn's digits."""
    import numpy as np

    from jaxresnet.datasets import load_dataset

    digits = load_dataset("digits", None, 10)
    np.savez(
        path,
        train_images=digits.train.images[:train_size],
        train_labels=digits.train.labels[:train_size],
        test_images=digits.test.images[:test_size],
        test_labels=digits.test.labels[:test_size],
    )
    return path


def make_tiny_config(data_dir):
    from configs import default

    config = default.get_config()
    config.dataset.data_dir = str(data_dir)
    config.num_epochs = 2
    config.batch_size = 30
    config.eval_batch_size = 20
    config.model.channels = (4, 8)
    config.model.blocks = (1, 1)
    config.model.pooling = "global"
    config.model.dropout_rate = 0.4
    config.log_every_steps = 2
    return config


def few_often(number, cases):
    """All these cases of a parametrised test, of which only the first few run without ``--thorough``."""
    return [*cases[:number], *(pytest.param(*case, marks=pytest.mark.thorough) for case in cases[number:])]


def arguments_of(fields):
    """The flags that set these fields of a config."""
    return [f"--config.{field}={value}".replace(" ", "") for field, value in fields.items()]


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory):
    """The workdir of an epoch of the quick start, ``runs/quickstart`` of a folder of its own."""
    from configs import quickstart
    from jaxresnet.train import train_and_evaluate

    config = quickstart.get_config()
    config.num_epochs = 1
    workdir = tmp_path_factory.mktemp("user") / "runs" / "quickstart"
    train_and_evaluate(config, str(workdir))
    return workdir


@pytest.fixture
def subprocess_environment():
    """For commands started by tests: one CPU device, as in the tests, and this repository first on the path."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def run_on_devices(subprocess_environment):
    """Runs a program on so many CPU devices and returns the JSON of the last line that it prints."""

    def run(program, count):
        environment = subprocess_environment | {"JAX_NUM_CPU_DEVICES": str(count)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
