"""Streams, settings, file systems and metadata: what surrounds a command does not decide what it computes."""

import json
import os
import subprocess
import sys

import filelock
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxresnet import config, plot, predict
from jaxresnet.data import images, loading
from jaxresnet.system import devices, processes
from jaxresnet.system.errors import UsageError, UserError
from jaxresnet.system.files import cache_folder, to_json
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.folder import check_workdir
from tests.conftest import REPOSITORY

CPU = f"--workdir={REPOSITORY / 'results' / 'runs' / 'cpu'}"


@pytest.fixture
def shell(tmp_path, subprocess_environment):
    """Return a function that runs a line of a shell in a new folder, where $J is ``python -m jaxresnet``."""

    def run(line, **variables):
        environment = subprocess_environment | variables | {"J": f"{sys.executable} -m jaxresnet"}
        command = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.parametrize("command", ["", "predict", "configs"])
def test_help_into_a_closed_pipe(shell, command):
    done = shell(f"$J {command} --help | true; $J {command} --help | head -1")
    assert done.stderr == "" and done.stdout.startswith("usage: jaxresnet ")


def test_closed_and_narrow_streams(shell, tmp_path):
    assert shell("$J summary --config=quickstart <&- >&- 2>&-").returncode == 0
    done = shell("$J evaluate --workdir=größe", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (
        1,
        "jaxresnet: gr\\xf6\\xdfe holds no run: there is no config.json in it\n",
    )
    (tmp_path / "größe.py").write_bytes((REPOSITORY / "configs" / "quickstart.py").read_bytes())
    done = shell("$J sweep --config=größe.py --workdir=r --list", PYTHONIOENCODING="ascii")
    assert done.stdout == "jaxresnet train '--config=gr??e.py' --config.seed=0 --workdir=r/quickstart/seed0\n"


def test_files_are_written_before_printing(quickstart_run, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "format_table", lambda *_: 1 / 0)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(ZeroDivisionError):
        predict.main([f"--workdir={quickstart_run}", str(tmp_path / "a.png"), f"--out={tmp_path / 'o.csv'}"])
    assert (tmp_path / "o.csv").read_text().startswith("ID,Labels\na,")


def test_matplotlibrc_of_the_user_is_ignored(shell, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    done = shell(f"$J plot {CPU} --out=a.png", MPLBACKEND="nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    done = shell(f"$J plot {CPU} --out=b.png", MPLCONFIGDIR="/dev/null/m", TMPDIR="/dev/null/t")
    assert "Traceback" not in done.stderr
    assert plot.plot_run(CPU.partition("=")[2], str(tmp_path / "c.png")) is None
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_changed_settings_are_noted(tiny_config, tmp_path, monkeypatch, capsys):
    tiny_config.checkpoint.every_steps = 5
    with monkeypatch.context() as patch:
        patch.setattr("jaxresnet.training._Trainer._summarise", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_and_evaluate(tiny_config, str(tmp_path))
    monkeypatch.setattr(devices, "settings", lambda: {"jax_enable_x64": True})
    train_and_evaluate(tiny_config, str(tmp_path))
    assert "note: jax_enable_x64 was False and is True, which may change the numbers\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "summary.json").read_text())["settings"] == {"jax_enable_x64": True}

    (tmp_path / "summary.json").unlink()
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    tiny_config.seed = 1
    with pytest.raises(UserError, match=r"is of another run \(seed=0\)"):
        train_and_evaluate(tiny_config, str(tmp_path))


@pytest.mark.parametrize("name", ["lr=[0.1]", "a\\b", "a\udce9"])
def test_unreadable_workdirs_are_refused(tiny_config, tmp_path, name):
    with pytest.raises(UserError, match="cannot be read again; give another"):
        check_workdir(tiny_config, tmp_path / name)


def test_holder_of_a_soft_lock(tiny_config, tmp_path, monkeypatch):
    """On file systems without locks, filelock's file names its holder."""
    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
    (tmp_path / ".lock").write_text("123\nnode17\n")
    with pytest.raises(UserError, match=r"by process 123 on node17 \(if it has ended, delete .*\.lock\)"):
        train_and_evaluate(tiny_config, str(tmp_path))


def test_home_may_be_unknown(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(OSError):
        cache_folder().mkdir(parents=True)


def test_metadata_does_not_spoil_pictures(tmp_path, monkeypatch):
    image, info = Image.new("RGB", (64, 32), "blue"), PngImagePlugin.PngInfo()
    image.paste("red", (0, 0, 32, 32))
    info.add_text("comment", "x" * 3_000_000, zip=True)
    image.save(tmp_path / "text.png", pnginfo=info)
    image.save(tmp_path / "no-header.png", exif=b"\0\x08\0\2\1\x12\0\3\0\0\0\1")
    # The orientation, and an entry of another type than usual, which Pillow reads and cannot write.
    entries = b"\x12\1\3\0\1\0\0\0\6\0\0\0" + b"\x1c\1\6\0\1\0\0\0\xff\0\0\0"
    image.save(tmp_path / "turned.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4))
    for name in ("text.png", "no-header.png"):
        assert images.read_image(tmp_path / name)[0][16, 0].tolist() == [255, 0, 0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # A photograph may have more pixels than Pillow allows.
    top, bottom = images.read_image(tmp_path / "turned.jpg")[0][[2, -3], 16]
    assert top[0] > 200 > 50 > top[2] and bottom[2] > 200 > 50 > bottom[0]


def test_object_arrays_are_named(tiny_npz, tmp_path):
    arrays = dict(np.load(tiny_npz)) | {"class_names": np.array([*"abcdefghij"], object)}
    np.savez(tmp_path / "o.npz", **arrays)
    with pytest.raises(UserError, match="class_names: Object arrays"):
        loading.load_dataset("cifar10", str(tmp_path / "o.npz"), 10)


def test_linked_folders_are_named(tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "more").symlink_to(tmp_path)
    assert [file.name for file in predict.find_files([str(tmp_path)])] == ["a.png", "b.png"]
    assert "more: is a link to a folder; give it by name" in capsys.readouterr().err


def test_coordinator_auto_without_a_cluster(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    with pytest.raises(UsageError, match="no task of srun or mpirun"):
        processes.connect("auto", None, None)


def test_json_holds_no_nan():
    assert to_json({"a": [float("nan"), (1.5, float("inf"))], "b": "ü"}) == '{"a": [null, [1.5, null]], "b": "ü"}'


@pytest.mark.parametrize("arms", ["3", "()", "(1, 2)"])
def test_odd_arms_are_refused(tmp_path, arms):
    (tmp_path / "t.py").write_text(f"ARMS = {arms}\ndef get_config(arm=''): pass\n")
    with pytest.raises(UsageError, match="expected one or more names of arms"):
        config.load_experiment(tmp_path / "t.py")
