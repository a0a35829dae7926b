"""Dependencies: every one has bounds, the lock is within them, and the Makefile uses the lock."""

import os
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUN_TIME = [*PROJECT["project"]["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
# An extra may include another extra of this project. Its dependencies are in this list already.
INSTALLED = [text for text in RUN_TIME if Requirement(text).name != PROJECT["project"]["name"]]

# Each lock with what it must hold. The converter to ONNX has a lock of its own, because it holds back orbax-checkpoint,
# and the compilers for GPUs and TPUs, because JAX would look for their devices.
OTHERS = {f"requirements-{extra}.lock": EXTRAS[extra] for extra in ("onnx", "ray", "aot")}
APART = [text for extra in OTHERS.values() for text in extra]
OLDEST, NEWEST = "requirements.lock", "requirements-3.13.lock"
LOCKS = {OLDEST: [text for text in INSTALLED if text not in APART]}
LOCKS |= {lock: [*PROJECT["project"]["dependencies"], *extra] for lock, extra in OTHERS.items()}
# PyTorch is in the lock of Python 3.11 alone.
LOCKS[NEWEST] = [text for text in LOCKS[OLDEST] if not text.startswith("torch")]


def lines_of(lock):
    return [line for line in (REPOSITORY / lock).read_text().splitlines() if not line.startswith("#")]


def versions_of(lock):
    pairs = (line.split("==") for line in lines_of(lock))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.fixture
def planned_commands():
    """Return a function that lists the commands of a ``make`` target in a clean clone."""

    def plan(target, *variables):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", "--dry-run", "--always-make", target, *variables]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return plan


@pytest.mark.parametrize("text", [*PROJECT["build-system"]["requires"], *INSTALLED])
def test_dependency_has_both_bounds(text):
    operators = {specifier.operator for specifier in Requirement(text).specifier}
    assert operators in ({">=", "<"}, {"=="})


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_within_bounds(lock):
    lines, versions = lines_of(lock), versions_of(lock)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)  # not 2.13.0+cpu, one index's build
    assert sorted(lines, key=lambda line: line.partition("==")[0].upper()) == lines and len(versions) == len(lines)
    for requirement in map(Requirement, LOCKS[lock]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


@pytest.mark.parametrize(("version", "lock"), [("3.11", OLDEST), ("3.12", NEWEST), ("3.13", NEWEST)])
@pytest.mark.parametrize("target", ["quickstart", "test", "reliability", "reliability-quick"])
def test_make_installs_from_its_locks(target, version, lock, planned_commands):
    installs = [command for command in planned_commands(target, f"VERSION={version}") if "pip install" in command]
    locks = [lock, *OTHERS][: {"quickstart": 1, "test": 2}.get(target)]
    assert [re.search("--constraint (\\S+) ", install)[1] for install in installs] == locks


def test_documented_make_targets_exist(planned_commands):
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make test", "make site", "make reliability-quick"]
    pages = "\n".join(
        (REPOSITORY / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "docs/reliability.md")
    )
    targets = {first or second for first, second in re.findall(r"(?m)^make ([\w-]+)|`make ([\w-]+)`", pages)}
    assert {"quickstart", "test", "lock", "audit"} <= targets
    assert all(planned_commands(target) for target in targets)
