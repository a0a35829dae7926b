"""Settings of glibc's malloc: the page faults that they save, and cases where they stay unchanged."""

import ctypes
import json
import subprocess
import sys

import pytest

from jaxresnet.system import malloc
from tests.conftest import REPOSITORY

needs_glibc = pytest.mark.skipif(not malloc._glibc_version(), reason="only glibc on Linux has these settings")

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


@pytest.fixture
def give_large_pages(monkeypatch, tmp_path):
    def give(setting):
        (tmp_path / "enabled").write_text(setting)
        monkeypatch.setattr(malloc, "_TRANSPARENT_HUGE_PAGES", tmp_path / "enabled")

    return give


@pytest.mark.reliability
@needs_glibc
def test_commands_start_again_with_large_pages(subprocess_environment, tmp_path):
    """The restart keeps the process ID and the command line, and happens once."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nprint(os.getpid(), sys.orig_argv[1:], os.environ.get('GLIBC_TUNABLES'), file=sys.stderr)\n"
    )
    variables = subprocess_environment | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    words = ["-m", "jaxresnet.evaluate", "--workdir=a folder that is not there"]
    process = subprocess.Popen([sys.executable, *words], env=variables, stderr=subprocess.PIPE, text=True)
    lines = process.communicate()[1].splitlines()
    starts = [f"{process.pid} {words} None"]
    if malloc.with_large_pages({}):
        starts.append(f"{process.pid} {words} glibc.malloc.hugetlb=1")
    assert lines[:-1] == starts and lines[-1].startswith("jaxresnet: ")


@needs_glibc
@pytest.mark.parametrize(("setting", "changes"), [("[madvise]", True), ("[always]", False), ("[never]", False)])
def test_large_pages_are_requested(give_large_pages, setting, changes):
    give_large_pages(f"always madvise never {setting}")
    assert malloc.with_large_pages({"A": "b"}) == {"A": "b"} | (
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if changes else {}
    )


@needs_glibc
def test_the_users_own_settings_stay(give_large_pages, monkeypatch):
    give_large_pages("always [madvise] never")
    own = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    assert malloc.with_large_pages(own) == own
    monkeypatch.setenv("JAXRESNET_TUNE_MALLOC", "0")
    monkeypatch.setattr(ctypes, "CDLL", None)  # fails if it is called
    malloc.keep_freed_blocks()
    assert malloc.with_large_pages({}) == {}
