"""Dependencies: every one has bounds, the lock is within them, and the Makefile uses the lock."""

import os
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from jaxresnet import convert
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUN_TIME = [*PROJECT["project"]["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
# An extra may include another extra of this project. Its dependencies are in this list already.
INSTALLED = [text for text in RUN_TIME if Requirement(text).name != PROJECT["project"]["name"]]

# Each lock with what it must hold. The converter to ONNX has a lock of its own, because it holds back orbax-checkpoint,
# and the compilers for GPUs and TPUs, because JAX would look for their devices.
OTHERS = {f"requirements-{extra}.lock": EXTRAS[extra] for extra in ("onnx", "aot")}
APART = [text for extra in OTHERS.values() for text in extra]
LOCKS = {"requirements.lock": [text for text in INSTALLED if text not in APART]}
LOCKS |= {lock: [*PROJECT["project"]["dependencies"], *extra] for lock, extra in OTHERS.items()}


def lines_of(lock):
    return [line for line in (REPOSITORY / lock).read_text().splitlines() if not line.startswith("#")]


def versions_of(lock):
    pairs = (line.split("==") for line in lines_of(lock))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.fixture
def planned_commands():
    """Return a function that lists the commands of a ``make`` target in a clean clone."""

    def plan(target):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", "--dry-run", "--always-make", target]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return plan


@pytest.mark.parametrize("text", [*PROJECT["build-system"]["requires"], *INSTALLED])
def test_every_dependency_has_a_lower_and_an_upper_bound(text):
    operators = {specifier.operator for specifier in Requirement(text).specifier}
    assert operators in ({">=", "<"}, {"=="})


@pytest.mark.parametrize(("lock", "text"), [(lock, text) for lock in LOCKS for text in LOCKS[lock]])
def test_a_lock_holds_every_dependency_within_its_bounds(lock, text):
    requirement = Requirement(text)
    assert requirement.specifier.contains(versions_of(lock)[canonicalize_name(requirement.name)])


def test_the_pytorch_that_is_asked_for_is_one_that_reads_files_safely():
    assert f">={convert.SAFE_TORCH}" in str(Requirement(EXTRAS["torch"][0]).specifier)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_one_version_a_line_that_any_index_may_serve(lock):
    lines = lines_of(lock)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)  # not 2.13.0+cpu, one index's build
    assert len(versions_of(lock)) == len(lines)
    assert sorted(lines, key=lambda line: line.partition("==")[0].upper()) == lines


@pytest.mark.parametrize("target", ["quickstart", "test", "reliability", "reliability-quick"])
def test_make_installs_from_the_lock(target, planned_commands):
    installs = [command for command in planned_commands(target) if "pip install" in command]
    locks = list(LOCKS)[: {"quickstart": 1, "test": 2}.get(target)]
    assert [re.search("--constraint (\\S+) ", install)[1] for install in installs] == locks


def test_ci_runs_what_the_pages_say_of_make_test(planned_commands):
    assert (REPOSITORY / ".ci" / "run").read_text().splitlines()[-2:] == ["make test", "make reliability-quick"]
    tools = re.search(r"`make test` runs (\w+), (\w+) and (\w+)", (REPOSITORY / "CONTRIBUTING.md").read_text()).groups()
    assert len(planned_commands("test")[-3:]) == len(tools)
    assert all(tool in command for tool, command in zip(tools, planned_commands("test")[-3:], strict=True))


def test_what_the_pages_make_is_there_to_be_made(planned_commands):
    pages = "\n".join((REPOSITORY / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    targets = set(re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", pages, re.MULTILINE))
    assert {"quickstart", "test", "lock", "audit"} <= {first or second for first, second in targets}
    for first, second in targets:
        assert planned_commands(first or second)
