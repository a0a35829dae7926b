"""Commands as a user types them: a mistake gets one line, a nonzero status and no traceback."""

import contextlib
import os
import pty
import re
import subprocess
import sys

import jax
import pytest

from jaxresnet.system.startup import blame_environment
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
            ([QUICKSTART, "--config.zzz=1"], "configs/default.py lists them all"),
            ([QUICKSTART, "--config.seed.x=1"], "no such field"),
            ([QUICKSTART, "--config.batch_size=many"], "--config.batch_size=many: expected a whole number"),
            ([QUICKSTART, "--config.num_epochs=1e3"], "--config.num_epochs=1e3: expected a whole number"),
            ([QUICKSTART, "--config.schedule.learning_rate=x"], "learning_rate=x: expected a number"),
            ([QUICKSTART, "--config.augment.flip=maybe"], "--config.augment.flip=maybe: expected true or false"),
            ([QUICKSTART, "--config=final"], "--config is given twice"),
            ([QUICKSTART, "--num-processes=x", "--workdir=y"], "--num_processes=x: expected a whole number"),
            ([QUICKSTART, "--coordinator=nohost", "--num_processes=2", "--process_id=0"], "expected HOST:PORT or auto"),
            ([QUICKSTART, "--noconfig.augment.flipp"], "did you mean config.augment.flip?"),
            ([QUICKSTART + ":adam"], "has no arms, so no 'adam'"),
            (["--config=configs/fynal.py"], "there is no file 'configs/fynal.py'"),
            (["--config", "configs/fynal.py"], "there is no file 'configs/fynal.py'"),
            (["--config"], "there is no file ''"),
            (["--config=fynal"], "there is no file 'fynal'; give the path of a config file, or one of architecture, "),
            (["--config=scheduler:cosin"], "cosin"),
            ([QUICKSTART, "--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
            ([QUICKSTART, "--work-dir=GS://x/y"], "GS://x/y is an address: give a path on this machine"),
            ([], "--config is missing"),
            ([QUICKSTART, "--wrkdir=x"], "wrkdir"),
            ([QUICKSTART, "final"], "'final' is not a flag"),
            ([QUICKSTART, "--config.num_epochs=0"], "num_epochs=0: expected a whole number of at least 1"),
        ],
    ),
)
def test_mistaken_flags(run, tmp_path, arguments, message):
    done = run("jaxresnet.main", f"--workdir={tmp_path / 'run'}", *arguments)
    assert_one_line(done, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("from configs import default\ndef get_config():\n    default.get_config().lerning_rate = 1\n", "lerning_rate"),
        ("x = 1\n", "get_config"),
        ("def get_config(:\n", "SyntaxError"),
        ("from configs import nothing\n", "nothing"),
        ("def get_config(): return None\n", "returned a NoneType; expected a ConfigDict"),
        ("def get_config(): return {}\n", "returned a dict; expected a ConfigDict"),
    ],
    ids=["field", "no function", "syntax", "import", "None", "dict"],
)
def test_mistaken_config_files(run, tmp_path, content, message):
    file = tmp_path / "mine.py"
    file.write_text(content)
    assert_one_line(run("jaxresnet.main", f"--config={file}", f"--workdir={tmp_path / 'run'}"), message)


def test_a_config_file_of_a_report_that_returns_none(run, tmp_path):
    (tmp_path / "table.py").write_text("TITLE = 'x'\nARMS = {'a': 1}\ndef get_config(arm='a'): return None\n")
    done = run("jaxresnet.report", "--workdir=results/runs", f"--out={tmp_path / 'out'}", f"--configs={tmp_path}")
    assert_one_line(done, "returned a NoneType; expected a ConfigDict")


def test_a_file_that_is_called_configs_is_no_obstacle(run, tmp_path):
    (tmp_path / "configs.py").write_text("x = 1")
    done = run(
        "jaxresnet.sweep", "--config=scheduler", f"--workdir={tmp_path}", "--arms=linear", "--list", cwd=tmp_path
    )
    assert done.returncode == 0 and "scheduler" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("variable", "command"),
    [
        ("JAX_PLATFORMS=cuda", "main"),
        ("JAX_PLATFORMS=foo", "evaluate"),
        ("JAX_NUM_CPU_DEVICES=abc", "predict"),
        ("JAX_DEFAULT_MATMUL_PRECISION=banana", "main"),
        ("MPLBACKEND=foo", "plot"),
    ],
)
def test_environment_variables_that_cannot_be_used(run, tmp_path, subprocess_environment, variable, command):
    name, value = variable.split("=")
    subprocess_environment[name] = value
    workdir = "pretrained/cifar10" if command != "main" else str(tmp_path / "run")
    config = [QUICKSTART] if command == "main" else []
    assert_one_line(run(f"jaxresnet.{command}", *config, f"--workdir={workdir}"), f"jaxresnet: {variable} in the")


def test_errors_that_are_about_no_variable_keep_their_traceback():
    """JAX_NUM_CPU_DEVICES=1 is no reason to blame it for an error of this package that quotes '1'."""
    try:
        {}["1"]
    except KeyError as error:
        assert blame_environment(error, {"JAX_NUM_CPU_DEVICES": "1"}) is None
    try:
        jax.config.update("jax_platforms", 3)
    except Exception as error:
        assert blame_environment(error, {"JAX_Y": "not in it", "MPLBACKEND": "", "HOME": "jax_platforms"}) is None


def test_debugging_without_jit(run, tmp_path, tiny_npz, subprocess_environment):
    subprocess_environment["JAX_DISABLE_JIT"] = "1"
    small = ["--config.model.channels=2", "--config.model.blocks=1", f"--config.dataset.data_dir={tiny_npz}"]
    done = run(
        "jaxresnet.main", "--config=final", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1", *small,
        "--config.batch_size=165", "--config.eval_batch_size=50",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "first"),
    [
        (["main", QUICKSTART, "--config.num_epochs=1"], b"reading digits ..."),
        (["sweep", "--config=scheduler", "--list"], b"python -m jaxresnet.main "),
        (["summary", QUICKSTART], b"layer"),
        (["plot", "--workdir=none"], b"jaxresnet: none holds no run"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_terminal_shows_a_sign_of_life_until_the_command_has_something_to_say(
    tmp_path, subprocess_environment, command, first
):
    master, terminal = pty.openpty()
    name, *arguments = command
    workdir = [] if name in ("summary", "plot") else [f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", f"jaxresnet.{name}", *arguments, *workdir],
        env=subprocess_environment,
        cwd=REPOSITORY,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    text = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while first not in text and (piece := os.read(master, 4096)):
            text += piece
    process.kill()
    process.wait()
    os.close(master)
    sign = b"jaxresnet: starting ..."
    assert text.startswith(sign + b"\r" + b" " * len(sign) + b"\r" + first)


DROPPED_COROUTINES = """
import asyncio
from jaxresnet.cli.command import command
from jaxresnet.system.errors import UserError

async def write():
    try:
        await asyncio.Event().wait()
    finally:
        raise ValueError("a file that was closed")

async def never_begun():
    pass

async def fail():
    raise OSError("the disk is full")

with command():
    loop = asyncio.new_event_loop()
    begun = loop.create_task(write())
    try:
        loop.run_until_complete(asyncio.wait_for(fail(), 1))
    except OSError as error:
        dropped = never_begun()
        del dropped, begun, loop
        raise UserError(str(error))
"""


def test_what_libraries_drop_after_an_error_is_not_reported_beside_it(subprocess_environment):
    python = [sys.executable, "-c", DROPPED_COROUTINES]
    done = subprocess.run(python, env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "jaxresnet: the disk is full\n")


def test_an_address_is_no_workdir(run):
    done = run("jaxresnet.main", QUICKSTART, "--workdir=gs://bucket/run")
    assert_one_line(done, "gs://bucket/run is an address: give a path on this machine")
    assert not (REPOSITORY / "gs:").exists()


def test_a_missing_workdir(run):
    assert_one_line(run("jaxresnet.main", QUICKSTART), "--workdir")


@pytest.mark.parametrize("config", ["final", "configs/final.py", str(REPOSITORY / "configs" / "final.py"), "mine.py"])
def test_configs_are_found_in_any_folder(run, tmp_path, config):
    """A folder of the same name in the current one is no obstacle."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "mine.py").write_text("from configs import final\nget_config = final.get_config\n")
    done = run("jaxresnet.summary", f"--config={config}", cwd=tmp_path)
    assert done.returncode == 0 and "4,697,162 parameters" in done.stdout


def test_without_cifar10_or_a_network_the_ways_forward_are_named(run, tmp_path, subprocess_environment):
    """The proxy does not exist, so the test does not depend on the machine's network."""
    nowhere = "http://127.0.0.1:9"
    subprocess_environment |= {"TFDS_DATA_DIR": str(tmp_path / "data"), "https_proxy": nowhere, "HTTPS_PROXY": nowhere}
    done = run("jaxresnet.main", "--config=configs/cpu.py", f"--workdir={tmp_path / 'run'}")
    assert done.returncode not in (0, None)
    lines = done.stderr.splitlines()
    assert "could not be downloaded" in lines[0] and 2 < len(lines) < 8
    assert "Traceback" not in done.stderr


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
    done = run("jaxresnet.export", "--format=torch", f"--out={out}", f"--workdir={quickstart_run}")
    assert done.returncode == 0, done.stderr
    back = ["jaxresnet.convert", "--from_torch", str(out), QUICKSTART, f"--workdir={tmp_path / 'run'}"]
    done = run(*back)
    assert done.returncode == 0, done.stderr
    assert "78,042 parameters" in done.stdout
    scores = [run("jaxresnet.evaluate", f"--workdir={path}").stdout for path in (quickstart_run, tmp_path / "run")]
    first, second = (re.search(r"test accuracy .*, 360 images", score)[0] for score in scores)
    assert first == second
    assert_one_line(run(*back), "a run is never overwritten")

    done = run(
        "jaxresnet.convert", f"--from_torch={out}", "--config=configs/final.py", f"--workdir={tmp_path / 'other'}"
    )
    first, *kinds = done.stderr.splitlines()
    assert done.returncode == 1 and not (tmp_path / "other").exists()
    assert first == f"jaxresnet: {out}: the weights do not fit the model"
    assert [kind.split(":")[0].split(" ", 1)[1] for kind in kinds] == ["missing", "of another shape"]
    assert "layer3.2.bn2.running_var" in kinds[0] and "conv1.weight (16, 3, 3, 3), expected (64, 3, 3, 3)" in kinds[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    few_often(
        3,
        [
            (["--workdir=x", QUICKSTART], "--from_torch is missing"),
            (["--workdir=x", "--from_torch=a"], "--config is missing"),
            (["--workdir=x", "--from_torch=none.pth", QUICKSTART], "none.pth: there is no such file"),
            (["--from_torch=a.pth", QUICKSTART], "--workdir is missing"),
            ([QUICKSTART, "--config.lerning_rate=1", "--workdir=x", "--from_torch=a"], "did you mean"),
        ],
    ),
)
def test_mistaken_conversions(run, arguments, message):
    assert_one_line(run("jaxresnet.convert", *arguments), message)


def test_the_summary_of_the_final_model(run, tmp_path):
    drawing = tmp_path / "final.png"
    done = run("jaxresnet.summary", "--config=configs/final.py", f"--drawing={drawing}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "multiply-adds", "memory"]
    assert lines[1].split() == ["conv1", "conv", "32x32x64", "1,728", "1,769,472", "256.0", "KiB"]
    # Computed by hand: a 3x3 convolution from 128 to 256 channels, 8x8 positions.
    (line,) = [line for line in lines if line.startswith("layer3_0/conv1")]
    assert line.split() == [
        "layer3_0/conv1",
        "conv",
        "8x8x256",
        f"{9 * 128 * 256:,}",
        f"{9 * 128 * 256 * 64:,}",
        "64.0",
        "KiB",
    ]
    (totals,) = [line for line in lines if line.startswith("in all")]
    assert totals.split()[2:4] == ["4,697,162", "798,689,792"]
    assert "799M multiply-adds per image in the forward pass" in done.stdout
    assert drawing.read_bytes().startswith(b"\x89PNG")

    again = run("jaxresnet.summary", "--config=configs/final.py", f"--drawing={drawing}")
    assert_one_line(again, "exists; give another name, or --force")


@pytest.mark.parametrize(
    ("arguments", "message"),
    few_often(
        1,
        [
            ([], "--config is missing"),
            (["--config=configs/final.py", "--config.model.pooling=9"], "model.pooling=9: the window is larger"),
            (["--config=configs/final.py", "--drawing=x.nothing"], "nothing"),
            (["--config=configs/architecture.py:none"], "none"),
        ],
    ),
)
def test_mistaken_summaries(run, arguments, message):
    done = run("jaxresnet.summary", *arguments)
    assert done.returncode not in (0, None) and "Traceback" not in done.stderr
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
