"""Importing the package has no effects, and type checkers see its public names."""

import ast
import subprocess
import sys

import pytest

import jaxresnet
from tests.conftest import REPOSITORY

STATE = """
import os, signal, sys
def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return os.getpid(), [*sys.argv], handlers, sys.excepthook, sys.unraisablehook, dict(os.environ), sys.stdout
before = state()
import jaxresnet
assert "jax" not in sys.modules
jaxresnet.get_config("final"), jaxresnet.train
import jaxresnet.main, jaxresnet.sweep, jaxresnet.evaluate
assert state() == before and os.getpid() == int(os.environ.get("EXPECTED", os.getpid()))
print("unchanged")
"""


@pytest.mark.parametrize("form", [["-c", STATE], ["-m", "other", "jaxresnet.main"]])
def test_import_has_no_effects(tmp_path, subprocess_environment, form):
    """Also in a program that is run as a module, as commands of this package are."""
    (tmp_path / "other.py").write_text(STATE)
    environment = subprocess_environment | {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    done = subprocess.run([sys.executable, *form], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("unchanged\n", "")


def test_type_checkers_see_lazy_imports():
    tree = ast.parse((REPOSITORY / "jaxresnet" / "__init__.py").read_text())
    declared = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxresnet.")
        for alias in node.names
    }
    assert declared == {name: f"jaxresnet.{module}" for name, module in jaxresnet._DEFINED_IN.items()}
    assert sorted(declared) == sorted(jaxresnet.__all__)


@pytest.mark.reliability
def test_mypy_knows_types_of_public_names(tmp_path):
    lines = [f"reveal_type(jaxresnet.{name})" for name in jaxresnet.__all__]
    (tmp_path / "user.py").write_text("\n".join(["import jaxresnet", *lines]))
    command = [sys.executable, "-m", "mypy", "--config-file=pyproject.toml", str(tmp_path / "user.py")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    types = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    assert len(types) == len(jaxresnet.__all__), done.stdout
    assert not [line for line in types if '"Any"' in line] and any("def (config: " in line for line in types)
