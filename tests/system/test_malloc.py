"""Settings of glibc's malloc: the page faults that they save."""

import json
import platform
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc on Linux has these settings")

MEMORY = """
import json, resource, sys
import jaxresnet
import jaxresnet.training
if sys.argv[1] == "set up":
    jaxresnet.set_up_jax()
import jax
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 2**25 for _ in range(4)]  # NumPy's blocks would ask for large pages by themselves
    del blocks
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([faults, jax.device_count(), jax.config.jax_compilation_cache_dir]))
"""


@pytest.fixture
def page_faults(subprocess_environment, tmp_path):
    """Return a function that gives page faults, device count and compilation cache of a process.

    The process takes and frees 32,768 pages five times.
    """
    unset = {name: value for name, value in subprocess_environment.items() if name != "JAX_NUM_CPU_DEVICES"}

    def page_faults(argument, **environment):
        command = [sys.executable, "-c", MEMORY, argument]
        variables = unset | {"XDG_CACHE_HOME": str(tmp_path)} | environment
        done = subprocess.run(command, env=variables, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return page_faults


@pytest.mark.reliability
@needs_glibc
def test_freed_blocks_are_kept(page_faults):
    faults, *_ = page_faults("set up")
    assert faults[0] > 30_000 and max(faults[1:]) < 100
    faults, *_ = page_faults("set up", JAXRESNET_TUNE_MALLOC="0")
    assert min(faults) > 30_000


@pytest.mark.reliability
@needs_glibc
def test_importing_the_package_sets_nothing_up(page_faults):
    faults, devices, compiled = page_faults("only import")
    assert min(faults) > 30_000 and devices == 1 and compiled is None
