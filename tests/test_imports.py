"""Imports run one way: each layer of the package needs only lower ones."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "jaxresnet"

# Folders and top-level modules, lowest first, with the modules that each may import besides itself.
MAY_IMPORT = {
    "system": set(),
    "kernels": set(),
    "released": {"system"},
    "calibration": {"system.errors"},
    "extensions": {"system.errors"},
    "core": {"system.errors", "kernels", "extensions"},
    "data": {"system"},
    "weights": {"system", "core", "data"},
    "config": {"system", "extensions"},
    "cli": {"system", "released", "extensions"},
    "workdir": {"system", "core", "data", "config"},
    "convert": {"system", "core", "config", "weights", "workdir", "cli"},
    "inference": {"system", "released", "extensions", "core", "data", "config", "weights", "workdir"},
    "initial": {"system", "config", "core", "weights", "workdir", "released", "convert", "inference"},
    "training": {"system", "extensions", "core", "data", "config", "workdir", "inference", "initial"},
    "finetune": {"system", "released", "extensions", "config", "data", "cli", "training"},
    "evaluate": {"system", "released", "calibration", "core", "data", "config", "workdir", "cli", "inference"},
    "main": {"system", "config", "cli", "training"},
    "engines": {"system.errors", "workdir", "main"},
    "sweep": {"system", "config", "workdir", "cli", "training", "engines"},
    "report": {"system", "core", "data", "config", "workdir", "cli"},
    "plot": {"system", "released", "core", "data", "config", "workdir", "cli", "report.paper_curves"},
    "predict": {"system", "data", "config", "workdir", "cli", "inference"},
    "explain": {"system", "data", "config", "workdir", "cli", "inference"},
    "portable": {"system", "kernels", "inference"},
    "web": {"system", "released", "config", "workdir", "inference", "portable"},
    "export": {"system", "released", "calibration", "core", "data", "config", "weights"}
    | {"workdir", "cli", "inference", "evaluate", "portable", "web"},
    "summary": {"system", "core", "data", "config", "cli"},
    "list_configs": {"config", "cli"},
    "__main__": {"system.errors", "cli"},
    "__init__": {"system", "calibration", "config", "core", "data", "inference", "report.paper_curves", "training"},
}

# Modules that must not import JAX, so that commands answer a mistyped flag without waiting seconds for it.
WITHOUT_JAX = (
    *("__main__", "cli", "config", "main", "released"),
    *("evaluate", "explain", "finetune", "predict", "plot", "summary", "sweep", "convert", "list_configs"),
    "data",
)


def imports_of(path):
    """Yield the dotted names below ``jaxresnet`` that a file imports, such as ``core.model``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("jaxresnet.") for alias in node.names if "jaxresnet." in alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxresnet":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxresnet."):
            module = node.module.removeprefix("jaxresnet.")
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else module for name in names)


def is_module(name):
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists()


def test_imports_run_one_way():
    files = list(PACKAGE.rglob("*.py"))
    needed = [(path, name) for path in files for name in imports_of(path)]
    assert len(needed) > 200
    upward = []
    for path, name in needed:
        layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        allowed = MAY_IMPORT[layer] | {layer}
        if not any(name == each or name.startswith(f"{each}.") for each in allowed):
            upward.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert upward == []


def test_layers_import_only_earlier_ones():
    order = list(MAY_IMPORT)
    for layer, allowed in MAY_IMPORT.items():
        assert all(order.index(each.partition(".")[0]) < order.index(layer) for each in allowed)


def test_every_module_has_a_layer():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert {name.removesuffix(".py") for name in entries if name != "py.typed"} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_mistakes_are_answered_before_jax(module):
    code = f"import sys, jaxresnet.{module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60).returncode == 0
