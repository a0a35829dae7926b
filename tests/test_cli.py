"""Commands as a user types them: a mistake gets one line, a nonzero status and no traceback."""

import os
import re
import subprocess
import sys

import pytest

from jaxresnet import cli
from tests.conftest import REPOSITORY, few_often


@pytest.fixture
def run(subprocess_environment):
    def run(*arguments, cwd=REPOSITORY):
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, env=subprocess_environment, cwd=cwd, capture_output=True, text=True, timeout=120)

    return run


def assert_one_line(done, message):
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert message in line


QUICKSTART = "--config=configs/quickstart.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    few_often(
        5,
        [
            ([QUICKSTART, "--config.lerning_rate=1"], "did you mean config.schedule.learning_rate?"),
            ([QUICKSTART, "--wrkdir=x"], "there is no flag --wrkdir; did you mean --workdir?"),
            ([QUICKSTART, "--config.batch_size=many"], "--config.batch_size=many: expected a whole number"),
            (["--config=fynal"], "there is no file 'fynal'; give the path of a config file, or one of architecture, "),
            (["--config=scheduler:cosin"], "there is no arm 'cosin'; expected one of cosine, linear"),
            ([QUICKSTART, "--config.zzz=1"], "configs/default.py lists them all"),
            ([QUICKSTART, "--config.seed.x=1"], "no such field"),
            ([QUICKSTART, "--config.dtype=fp16"], "--config.dtype=fp16: expected one of float32, bfloat16"),
            ([QUICKSTART, "--config.batch_size", "--workdir=x"], "expected --config.batch_size=VALUE"),
            ([QUICKSTART, "--num-processes=x"], "--num_processes: invalid int value: 'x'"),
            ([QUICKSTART, "--num-processes=2"], "give --coordinator too"),
            ([QUICKSTART + ":adam"], "quickstart.py has no arms, so no 'adam'"),
            (["--config", "configs/fynal.py"], "there is no file 'configs/fynal.py'"),
            (["--config"], "--config: expected one argument"),
            (["--config=http://x/f.py"], "http://x/f.py is an address"),
            (["--config=" + "x" * 300], "there is no file 'xxx"),
            ([], "required: --config"),
            ([QUICKSTART, "final"], "unrecognized arguments: final"),
            ([QUICKSTART, "--config.num_epochs=0"], "num_epochs=0: expected a whole number from 1"),
        ],
    ),
)
def test_wrong_command_line_is_answered_in_one_line(run, tmp_path, arguments, message):
    done = run("jaxresnet.main", *arguments, f"--workdir={tmp_path / 'run'}")
    assert_one_line(done, message)
    assert done.returncode == 2 or "address" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("from configs import default\ndef get_config():\n    default.get_config().lerning_rate = 1\n", "lerning_rate"),
        ("x = 1\n", "get_config"),
        ("def get_config(:\n", "SyntaxError"),
        ("from configs import nothing\n", "nothing"),
        ("def get_config(): return None\n", "a NoneType is not a config"),
        ("def get_config(): return {}\n", "a dict is not a config"),
    ],
    ids=["field", "no function", "syntax", "import", "None", "dict"],
)
def test_wrong_config_file_is_answered_in_one_line(run, tmp_path, content, message):
    file = tmp_path / "mine.py"
    file.write_text(content)
    assert_one_line(run("jaxresnet.main", f"--config={file}", f"--workdir={tmp_path / 'run'}"), message)


@pytest.mark.reliability
def test_debugging_without_jit(run, tmp_path, tiny_npz, subprocess_environment):
    subprocess_environment["JAX_DISABLE_JIT"] = "1"
    small = ["--config.model.channels=2", "--config.model.blocks=1", f"--config.dataset.data_dir={tiny_npz}"]
    done = run(
        "jaxresnet.main", "--config=final", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1", *small,
        "--config.batch_size=165", "--config.eval_batch_size=50",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("config", ["final", "configs/final.py", str(REPOSITORY / "configs" / "final.py"), "mine.py"])
def test_configs_are_found_in_any_folder(run, tmp_path, config):
    """A folder of the same name in the current one is no obstacle."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "mine.py").write_text("from configs import final\nget_config = final.get_config\n")
    done = run("jaxresnet.summary", f"--config={config}", cwd=tmp_path)
    assert done.returncode == 0 and "4,697,162" in done.stdout


def test_missing_cifar10_names_ways_forward(run, tmp_path, subprocess_environment):
    """The proxy does not exist, so the test does not depend on the machine's network."""
    nowhere = "http://127.0.0.1:9"
    subprocess_environment |= {"TFDS_DATA_DIR": str(tmp_path / "data"), "https_proxy": nowhere, "HTTPS_PROXY": nowhere}
    done = run("jaxresnet.main", "--config=configs/cpu.py", f"--workdir={tmp_path / 'run'}")
    assert_one_line(done, "or try --config=quickstart, which needs no download")


def test_train_evaluate_and_plot(run, tmp_path, tiny_npz):
    workdir = tmp_path / "run"
    small = ["--config.model.channels=4,8", "--config.model.blocks=1,1", f"--config.dataset.data_dir={tiny_npz}"]
    done = run(
        "jaxresnet.main", "--config=configs/final.py", f"--workdir={workdir}", "--config.num_epochs=1", *small,
        "--config.log_every_steps=1", "--config.batch_size=60",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "epoch 1/1: loss" in done.stdout and "chosen on the test set" in done.stdout
    assert "the paper" not in done.stdout  # another network on other data

    done = run("jaxresnet.evaluate", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"last checkpoint, step 3: test accuracy [\d.]+%, test loss [\d.]+, 50 images", done.stdout)

    done = run("jaxresnet.plot", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("module", ["evaluate", "plot", "predict"])
def test_commands_on_what_is_no_run(run, tmp_path, module):
    assert_one_line(run(f"jaxresnet.{module}", f"--workdir={tmp_path / 'none'}"), "holds no run")


@pytest.mark.reliability
def test_weights_out_and_in_again(run, tmp_path, quickstart_run):
    out = tmp_path / "w.safetensors"
    done = run("jaxresnet.export", "--format=safetensors", f"--out={out}", f"--workdir={quickstart_run}")
    assert done.returncode == 0, done.stderr
    back = ["jaxresnet.convert", "--from_torch", str(out), QUICKSTART, f"--workdir={tmp_path / 'run'}"]
    done = run(*back)
    assert done.returncode == 0, done.stderr
    assert "78,042 parameters" in done.stdout
    scores = [run("jaxresnet.evaluate", f"--workdir={path}").stdout for path in (quickstart_run, tmp_path / "run")]
    first, second = (re.search(r"test accuracy .*, 360 images", score)[0] for score in scores)
    assert first == second
    assert_one_line(run(*back), "exists; give a new folder")

    done = run("jaxresnet.convert", f"--from_torch={out}", "--config=final", f"--workdir={tmp_path / 'other'}")
    first, *kinds = done.stderr.splitlines()
    assert done.returncode == 1 and not (tmp_path / "other").exists()
    assert first == f"jaxresnet: {out}: the weights do not fit the model"
    assert [kind.split(":")[0].split(" ", 1)[1] for kind in kinds] == ["missing", "of another shape"]
    assert "layer3.2.bn2.running_var" in kinds[0] and "conv1.weight (16, 3, 3, 3), expected (64, 3, 3, 3)" in kinds[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    few_often(
        2,
        [
            (["--workdir=x", "--from_torch=a"], "required: --config"),
            (["--workdir=x", "--from_torch=none.pth", QUICKSTART], "none.pth: there is no such file"),
            ([QUICKSTART, "--config.lerning_rate=1", "--workdir=x", "--from_torch=a"], "did you mean"),
        ],
    ),
)
def test_mistaken_conversions(run, arguments, message):
    assert_one_line(run("jaxresnet.convert", *arguments), message)


def test_summary_of_final_model(run):
    done = run("jaxresnet.summary", "--config=configs/final.py")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "multiply-adds", "memory"]
    # Computed by hand: a 3x3 convolution from 128 to 256 channels, 8x8 positions.
    (line,) = [line.split() for line in lines if line.startswith("layer3_0/conv1")]
    cost = 9 * 128 * 256
    assert line == ["layer3_0/conv1", "conv", "8x8x256", f"{cost:,}", f"{cost * 64:,}", "64.0", "KiB"]
    (totals,) = [line for line in lines if line.startswith("in all")]
    assert totals.split()[2:4] == ["4,697,162", "798,689,792"]

    done = run("jaxresnet.summary", "--config=configs/final.py", "--config.model.pooling=9")
    assert_one_line(done, "model.pooling=9: expected")


@pytest.mark.parametrize(
    ("chosen", "argv", "restarts"),
    [
        ({}, None, True),
        ({}, ["--workdir=x"], False),
        ({"GLIBC_TUNABLES": ""}, None, False),
        ({"JAXRESNET_TUNE_MALLOC": "0"}, None, False),
    ],
)
def test_training_restarts_for_large_pages(monkeypatch, chosen, argv, restarts):
    started = []
    for name in ("GLIBC_TUNABLES", "JAXRESNET_TUNE_MALLOC"):
        monkeypatch.setenv(name, chosen[name]) if name in chosen else monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "jaxresnet.main", "--workdir=x"])
    monkeypatch.setattr(sys, "argv", ["main.py", "--workdir=x"])
    monkeypatch.setattr(os, "execv", lambda *command: started.append((command, dict(os.environ))))
    parser = cli.Parser("train", None)
    parser.add_argument("--workdir")
    cli.run(lambda arguments: None, parser, argv, trains=True)
    if restarts:
        (((program, command), environment),) = started
        assert program == sys.executable and command == [sys.executable, "-m", "jaxresnet.main", "--workdir=x"]
        assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert len(started) == restarts
