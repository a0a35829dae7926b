"""The interface that users rely on: the commands, the public names, and the content of a wheel."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import jaxresnet
from jaxresnet import __main__
from tests.conftest import REPOSITORY

COMMANDS = {
    "main": "--workdir",
    "sweep": "--arms",
    "evaluate": "--mirror",
    "predict": "--grid",
    "plot": "--out",
    "report": "--configs",
    "export": "--format",
    "summary": "--drawing",
    "convert": "--from_torch",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, subprocess_environment):
    done = subprocess.run(
        [sys.executable, "-m", f"jaxresnet.{command}", "--help"],
        env=subprocess_environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert COMMANDS[command] in done.stdout and "``" not in done.stdout
    assert len(done.stdout.partition("\n\n")[0]) > 20


def test_every_command_is_listed():
    doors = {path.stem for path in (REPOSITORY / "jaxresnet").glob("[a-z]*.py") if "def main(" in path.read_text()}
    doors |= {path.parent.name for path in (REPOSITORY / "jaxresnet").glob("*/__main__.py")}
    assert doors == set(COMMANDS) == {module for module, _ in __main__.COMMANDS.values()}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_package_itself_lists_the_commands(arguments, subprocess_environment):
    done = run_package(arguments, subprocess_environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {command} " in done.stdout for command in __main__.COMMANDS)


def test_the_package_passes_arguments_on(subprocess_environment):
    done = run_package(["evaluate", "--workdir=nowhere"], subprocess_environment)
    assert (done.returncode, done.stderr) == (1, "jaxresnet: nowhere holds no run: there is no config.json in it\n")
    done = run_package(["train", "--workdir=x"], subprocess_environment)
    assert (done.returncode, done.stderr) == (2, "jaxresnet: --config is missing (--help lists the flags)\n")
    done = run_package(["evalute"], subprocess_environment)
    assert done.returncode == 2 and done.stderr.startswith("jaxresnet: there is no command 'evalute'; expected one of ")


def run_package(arguments, environment):
    command = [sys.executable, "-m", "jaxresnet", *arguments]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_text_files_are_utf_8_whatever_the_locale():
    """Python's default encoding depends on the locale."""
    for path in (
        path for folder in ("jaxresnet", "scripts", "examples") for path in (REPOSITORY / folder).rglob("*.py")
    ):
        for call in re.findall(r"\b(?:read|write)_text\(.*", path.read_text(encoding="utf-8")):
            assert "encoding=" in call, f"{path}: {call}"


def test_public_names():
    expected = {"Classifier", "ResNet", "Run", "UserError", "get_config", "load", "set_up_jax", "train"}
    assert {*expected, "train_and_evaluate"} == set(jaxresnet.__all__)
    for name in jaxresnet.__all__:
        assert callable(getattr(jaxresnet, name))
    assert callable(jaxresnet.torch_weights.from_state_dict) and callable(jaxresnet.torch_weights.to_state_dict)
    assert callable(jaxresnet.datasets.load_dataset) and callable(jaxresnet.predict.main)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxresnet.nothing  # noqa: B018


@pytest.mark.reliability
def test_a_wheel_holds_the_whole_package(tmp_path, subprocess_environment):
    """An editable installation hides a package that the build leaves out."""
    source = tmp_path / "source"  # a copy, because a build leaves files in its source
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, source)
    for name in ("jaxresnet", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={tmp_path}", str(source)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("jaxresnet/")}
        archive.extractall(tmp_path / "installed")
    files = [path for path in (REPOSITORY / "jaxresnet").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    configs = {f"jaxresnet/configs/{path.name}" for path in (REPOSITORY / "configs").glob("*.py")}
    assert held == {path.relative_to(REPOSITORY).as_posix() for path in files} | configs
    done = subprocess.run(
        [sys.executable, "-m", "jaxresnet.evaluate", f"--workdir={tmp_path / 'none'}"],
        env=subprocess_environment | {"PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "holds no run" in done.stderr
