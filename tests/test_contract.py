"""The interface that users rely on: the commands, the public names, and the content of a wheel."""

import email
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from PIL import Image

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
    "explain": "--neighbours",
    "export": "--format",
    "summary": "--config",
    "list_configs": "jaxresnet configs",
    "finetune": "--freeze",
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
    doors = {path.stem for path in (REPOSITORY / "jaxresnet").glob("[a-z]*.py") if "\ndef main(" in path.read_text()}
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
    assert (done.returncode, done.stderr) == (
        2,
        "jaxresnet: the following arguments are required: --config (--help lists the flags)\n",
    )
    done = run_package(["evalute"], subprocess_environment)
    assert done.returncode == 2 and done.stderr.startswith("jaxresnet: there is no command 'evalute'; expected one of ")


def run_package(arguments, environment):
    command = [sys.executable, "-m", "jaxresnet", *arguments]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_text_files_are_utf_8():
    """Python's default encoding depends on the locale."""
    for path in (
        path for folder in ("jaxresnet", "scripts", "examples") for path in (REPOSITORY / folder).rglob("*.py")
    ):
        for call in re.findall(r"\b(?:read|write)_text\(.*", path.read_text(encoding="utf-8")):
            assert "encoding=" in call, f"{path}: {call}"


def test_public_names():
    expected = {
        "BasicBlock",
        "BatchNorm",
        "Classifier",
        "ResNet",
        "Run",
        "UserError",
        "create_learning_rate_fn",
        "fit_temperature",
        "get_config",
        "load",
        "load_dataset",
        "read_paper_curve",
        "set_up_jax",
        "torch_kernel_init",
        "train",
    }
    assert {*expected, "train_and_evaluate"} == set(jaxresnet.__all__)
    for name in jaxresnet.__all__:
        assert callable(getattr(jaxresnet, name))
    assert callable(jaxresnet.weights.from_state_dict) and callable(jaxresnet.weights.to_state_dict)
    assert callable(jaxresnet.predict.main)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxresnet.nothing  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because a build leaves files in its source
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("jaxresnet", "configs", "pretrained"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(source)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.reliability
def test_a_wheel_holds_the_whole_package(wheel):
    """An editable installation hides a package that the build leaves out."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("jaxresnet/")}
    files = [path for path in (REPOSITORY / "jaxresnet").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    beside = [*(REPOSITORY / "configs").glob("*.py"), *(REPOSITORY / "pretrained").glob("*/*")]
    inside = {f"jaxresnet/{path.relative_to(REPOSITORY).as_posix()}" for path in beside}
    assert held == {path.relative_to(REPOSITORY).as_posix() for path in files} | inside


@pytest.mark.reliability
def test_description_of_a_wheel_links_absolutely(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = email.message_from_bytes(archive.read(name))
    description = fields.get_payload()
    assert fields["Description-Content-Type"] == "text/markdown" and "# jaxresnet" in description
    links = re.findall(r"\]\(([^)\s]+)\)", description)
    assert len(links) > 15 and all(link.startswith("https://") for link in links)
    site = dict(url.split(", ") for url in fields.get_all("Project-URL"))["Documentation"]
    assert f"{site}try/" in links


@pytest.mark.reliability
def test_wheel_trains_without_a_clone(wheel, tmp_path, subprocess_environment):
    """The environment holds this wheel alone. It finds the dependencies in the tests' own, so it needs no network."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    install = [bin_folder / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=300)
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # Python does not read the .pth files in a folder that is named in one, so this package's clone stays out of sight.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.py").write_text(
        "from configs import quickstart\n\n\ndef get_config():\n    config = quickstart.get_config()\n"
        "    config.num_epochs = 1\n    return config\n"
    )
    environment = {name: value for name, value in subprocess_environment.items() if name != "PYTHONPATH"}

    def run(*arguments):
        done = subprocess.run(
            [bin_folder / "jaxresnet", *arguments],
            env=environment,
            cwd=elsewhere,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    found = [bin_folder / "python", "-c", "import jaxresnet; print(jaxresnet.__file__)"]
    where = subprocess.run(found, env=environment, cwd=elsewhere, check=True, capture_output=True, text=True).stdout
    assert pathlib.Path(where).is_relative_to(tmp_path)
    check = [bin_folder / "python", "-m", "pip", "check"]  # it may complain of the tests' own environment
    assert "jaxresnet" not in subprocess.run(check, env=environment, capture_output=True, text=True).stdout
    assert "epoch 1/1" in run("train", "--config=quickstart", "--workdir=run", "--config.num_epochs=1")
    assert "epoch 1/1" in run("train", "--config=mine.py", "--workdir=own")
    assert "test accuracy" in run("evaluate", "--workdir=own")
    assert (elsewhere / "run" / "summary.json").is_file()
    Image.new("RGB", (32, 32)).save(elsewhere / "cat.png")
    assert "1 image" in run("predict", "cat.png")
