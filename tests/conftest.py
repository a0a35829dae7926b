"""Fixtures and options of all tests: shape checks, fast runs, counts and lanes."""

import json
import os
import pathlib
import subprocess
import sys
import time

import hypothesis
import jaxtyping
import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent

# Modules whose signatures state shapes. The hook must be installed before anything imports the package.
_CHECKED = ("core.augment", "core.model", "core.programs", "core.steps", "data.loading", "inference")
jaxtyping.install_import_hook([f"jaxresnet.{module}" for module in _CHECKED], "beartype.beartype")

# Property-based tests draw the same examples in every quick run, and other ones in every thorough run.
_PROFILE = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("quick", max_examples=25, derandomize=True, **_PROFILE)
hypothesis.settings.register_profile("thorough", max_examples=400, print_blob=True, **_PROFILE)

# These files take longest. They begin first, so that no core waits for another at the end.
_LONG = (
    *("test_random_configs", "test_processes", "test_kills", "test_damaged_run_files", "test_damaged_checkpoints"),
    *("test_notebook", "test_pages", "test_benchmark", "test_finetune", "test_training", "test_web"),
)

_COUNTS = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="many more kills, damaged files, bad inputs and configs")
    parser.addoption("--until", type=float, default=float("inf"), help="Unix time after which tests are skipped")


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


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item):
    if time.time() > item.config.getoption("--until"):
        pytest.skip("the time of --until is over")


def pytest_sessionfinish(session):
    """Hand the counts of a worker process to the process that reports."""
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
    """Print the counts that docs/reliability.md states."""
    for name, count in config.stash[_COUNTS].items():
        terminalreporter.write_line(f"{count:>7,} {name}")


@pytest.fixture(scope="session")
def thorough(pytestconfig):
    """Return True if ``--thorough`` was given."""
    return pytestconfig.getoption("--thorough")


@pytest.fixture(scope="session")
def count(pytestconfig):
    """Return a function: ``count("kills survived")`` adds one to that line at the end of the test run."""
    return lambda name, number=1: _add(pytestconfig, name, number)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """Return a folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _compile_once(shared_folder):
    """Compile each small program once per session, because many tests share them."""
    import jax

    jax.config.update("jax_num_cpu_devices", 1)  # on any machine, and whichever command a test calls first
    jax.config.update("jax_compilation_cache_dir", str(shared_folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True)
def _cache_of_its_own(shared_folder, monkeypatch):
    """Keep decoded images between the tests of a session, outside the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_folder / "cache"))


@pytest.fixture
def tiny_config(tiny_npz):
    """Return the config of a run of seconds: 165 digits, two epochs of six steps, the last step smaller."""
    return make_tiny_config(tiny_npz)


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory):
    """Return the path of a .npz file with 165 training and 50 test images."""
    return save_digits(tmp_path_factory.mktemp("data") / "tiny.npz", 165, 50)


def save_digits(path, train_size, test_size):
    """Save some of scikit-learn's digits as a .npz file, and return its path."""
    import numpy as np

    from jaxresnet.data.loading import load_dataset

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
    """Return all cases of a parametrised test. Without ``--thorough`` only the first ``number`` run."""
    return [*cases[:number], *(pytest.param(*case, marks=pytest.mark.thorough) for case in cases[number:])]


def arguments_of(fields):
    """Return the flags that set these config fields."""
    return [f"--config.{field}={value}".replace(" ", "") for field, value in fields.items()]


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory):
    """Train the quick start for one epoch in ``runs/quickstart`` of a new folder, and return the workdir."""
    from configs import quickstart
    from jaxresnet.training import train_and_evaluate

    config = quickstart.get_config()
    config.num_epochs = 1
    workdir = tmp_path_factory.mktemp("user") / "runs" / "quickstart"
    train_and_evaluate(config, str(workdir))
    return workdir


@pytest.fixture
def subprocess_environment():
    """Return the environment of commands: one CPU device, as in the tests, and this repository first on the path."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def run_on_devices(subprocess_environment):
    """Return a function that runs a program on ``count`` CPU devices and parses its last line as JSON."""

    def run(program, count):
        environment = subprocess_environment | {"JAX_NUM_CPU_DEVICES": str(count)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
