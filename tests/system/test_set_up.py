"""Set-up of JAX by the commands."""

import json
import os
import subprocess
import sys

import pytest

from jaxresnet.system import devices
from jaxresnet.system.devices import MAX_CPU_DEVICES
from tests.conftest import REPOSITORY, make_tiny_config

PROGRAM = """
import json, os, sys
os.sched_getaffinity = lambda process: range(int(sys.argv[1]))
import jax
if sys.argv[2] == "late":
    jax.devices()
from jaxresnet.system.devices import set_up_jax
set_up_jax()
print(json.dumps([jax.device_count(), jax.config.jax_compilation_cache_dir]))
"""


@pytest.fixture
def set_up(subprocess_environment):
    """Return a function that gives device count and compilation cache after ``set_up_jax`` on ``cores`` cores."""
    unset = {name: value for name, value in subprocess_environment.items() if name != "JAX_NUM_CPU_DEVICES"}

    def set_up(cores, when="early", **environment):
        command = [sys.executable, "-c", PROGRAM, str(cores), when]
        done = subprocess.run(command, env=unset | environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return set_up


@pytest.mark.parametrize(("cores", "devices"), [(1, 1), (2, 2), (3, 2), (7, 4), (64, MAX_CPU_DEVICES)])
def test_cores_are_devices(set_up, cores, devices):
    assert set_up(cores)[0] == devices


def test_the_user_decides(set_up, tmp_path):
    assert set_up(4, JAX_NUM_CPU_DEVICES="3")[0] == 3
    assert set_up(4, XLA_FLAGS="--xla_force_host_platform_device_count=5")[0] == 5
    assert set_up(4, JAX_COMPILATION_CACHE_DIR=str(tmp_path))[1] == str(tmp_path)


def test_late_cores_are_waited_for(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=5")
    devices.set_up_jax()
    assert os.environ["XLA_FLAGS"].split()[1].startswith("--xla_cpu_collective_call_terminate_timeout_seconds=")
    devices.set_up_jax()
    assert len(os.environ["XLA_FLAGS"].split()) == 3


def test_without_a_cache_nothing_is_kept(set_up, tmp_path):
    (tmp_path / "file").write_text("")
    assert set_up(4, XDG_CACHE_HOME=str(tmp_path / "file")) == [4, None]
    assert set_up(4, XDG_CACHE_HOME=str(tmp_path)) == [4, str(tmp_path / "jaxresnet" / "compiled")]


def test_what_has_begun_is_left_alone(set_up):
    assert set_up(4, "late")[0] == 1


@pytest.mark.reliability
def test_the_second_start_compiles_nothing_anew(tiny_npz, tmp_path, subprocess_environment):
    """The run on two devices, a user's default on two cores, also equals the run on one up to rounding."""
    environment = subprocess_environment | {"XDG_CACHE_HOME": str(tmp_path), "JAX_NUM_CPU_DEVICES": "2"}
    environment |= {"JAX_LOGGING_LEVEL": "DEBUG", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    config = make_tiny_config(tiny_npz)
    flags = [f"--config.{field}={getattr(config, field)}" for field in ("num_epochs", "batch_size", "eval_batch_size")]
    flags += [f"--config.dataset.data_dir={tiny_npz}", "--config.model.channels=4,8", "--config.model.blocks=1,1"]
    flags += ["--config.model.pooling=global", "--config.log_every_steps=1"]
    command = [sys.executable, "-m", "jaxresnet.main", "--config=configs/default.py", *flags]
    losses, compiled = {}, []
    for name, count in (("first", "2"), ("second", "2"), ("one", "1")):
        workdir = tmp_path / name
        variables = environment | {"JAX_NUM_CPU_DEVICES": count}
        done = subprocess.run(
            [*command, f"--workdir={workdir}"], env=variables, cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        compiled.append(done.stderr.count("PERSISTENT COMPILATION CACHE MISS"))
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["train_loss"] for line in lines]
        assert json.loads((workdir / "summary.json").read_text())["device_count"] == int(count)
    assert compiled[0] > 0 and compiled[1] == 0
    assert os.listdir(tmp_path / "jaxresnet" / "compiled")
    assert losses["first"] == losses["second"]
    # Only the first epoch is compared, because rounding grows with the steps.
    assert losses["one"][:6] == pytest.approx(losses["first"][:6], rel=1e-4)


TRAIN_ON = """
import itertools, json, os
import jax, numpy as np
import jaxresnet
jaxresnet.set_up_jax()
from configs import cpu
from jaxresnet.data.loading import Split
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.programs import jit_steps, create_mesh, dispatch, put_on_devices, replicate
from jaxresnet.core.state import create_train_state, create_transform

config, mesh = cpu.get_config(), create_mesh()
rng = np.random.default_rng(0)
split = Split(rng.integers(0, 256, (512, 32, 32, 3), np.uint8), rng.integers(0, 10, 512, np.int32))
data, state = put_on_devices(split.images, split.labels, mesh), replicate(create_train_state(config, (32, 32, 3)), mesh)
train = jit_steps(create_transform(config), mesh).train
resident = []
for step in range(1, 401):
    hyperparams = Hyperparams(np.float32([0.01]), np.float32([0.9]))
    state, metrics = dispatch(train, state, data, rng.integers(0, 512, (1, 32), np.int32), hyperparams)
    jax.device_get(metrics)
    if step in (100, 400):
        pages = int(open("/proc/self/statm").read().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
print(json.dumps(resident))
"""


@pytest.mark.reliability
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux has this file")
def test_memory_does_not_grow_with_steps(run_on_devices):
    """Freed memory that is kept serves the next step.

    If threads overlap as never before, a heap grows once: by 0 to 23 MB in five runs of 1,000 steps. If each step
    leaked one array of the smallest images between two layers, 0.5 MB, that would be 157 MB here.
    """
    after_100, after_400 = run_on_devices(TRAIN_ON, 2)
    assert after_400 < after_100 + 2**26
