"""Means of metrics, the progress display, and the log file."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios

import numpy as np
import pytest

from jaxresnet.core.evaluation import Sums
from jaxresnet.system.errors import UserError
from jaxresnet.system.terminal import ProgressDisplay, format_seconds
from jaxresnet.workdir.folder import METRICS_FILE
from jaxresnet.workdir.log import MetricsWriter, read_metrics


def test_sums_come_before_divisions():
    sums = Sums()
    sums.add({"loss": np.float32([10.0, 2.0]), "correct": np.int32([4, 1]), "count": np.int32([8, 2])}, 0.5)
    sums.add({"loss": np.float32([3.0]), "correct": np.int32([0]), "count": np.int32([5])}, 0.5)
    assert sums.means("test") == {"test_loss": 1.0, "test_accuracy": pytest.approx(100 / 3)}
    assert sums.seconds == 1.0


def show(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("jaxresnet.system.terminal.SECONDS_BETWEEN_LINES", 0.0)
    display = ProgressDisplay(num_epochs=4, work=np.arange(41.0), step=9)
    display.update(1, 10, {"train_loss": 2.0, "train_accuracy": 50.0}, 20.0)
    display.update(2, 11, {"train_loss": 2.0, "train_accuracy": 50.0}, 20.0)
    display.say("epoch 1/4: done")
    display.close()


def show_on_a_terminal(monkeypatch, columns):
    """Return the lines that a terminal of that width is given, with those that are overwritten."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with os.fdopen(master, "rb", buffering=0) as reader, os.fdopen(terminal, "w") as writer:
        show(monkeypatch, writer)
        writer.flush()
        text = reader.read(65536).decode()
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def test_a_bar_on_a_terminal(monkeypatch):
    lines = show_on_a_terminal(monkeypatch, 200)
    assert "epoch 1/4: done" in lines
    (bar,) = (line for line in lines if "time left: ..." in line)
    assert bar.rstrip().endswith("| time left: ...  epoch 1/4  loss 2.0000  accuracy 50.00%  step 10/40  20 images/s")
    assert bar.startswith(" 25%|")


@pytest.mark.parametrize("columns", [60, 80])
def test_time_left_fits_narrow_terminals(monkeypatch, columns):
    lines = show_on_a_terminal(monkeypatch, columns)
    bars = [line for line in lines if "epoch 2/4" in line]
    assert bars and all(re.match(r" 28%\|.{10}\| \d+s left  epoch 2/4  loss 2\.0", bar) for bar in bars)
    assert all(len(line) <= columns for line in lines)


def test_plain_lines_elsewhere(monkeypatch):
    stream = io.StringIO()
    show(monkeypatch, stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "time left: ...  epoch 1/4  loss 2.0000  accuracy 50.00%  step 10/40  20 images/s"
    assert re.match(r"\d+s left  epoch 2/4", lines[1]) and lines[2] == "epoch 1/4: done"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1s"), (59, "59s"), (61, "1m01s"), (3600, "1h00m"), (172_799, "47h59m"), (360_000, "4d04h")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_resuming_drops_later_lines(tmp_path):
    lines = [
        {"epoch": 0.5, "step": 2},
        {"epoch": 1, "step": 4, "seconds": 1.0},
        {"epoch": 1.5, "step": 6},
        {"epoch": 2, "step": 8, "seconds": 2.0},
    ]
    for step, epochs, kept in ((8, 2, 4), (8, 1, 3), (6, 1, 3), (5, 1, 2), (4, 0, 1), (0, 0, 0)):
        text = "".join(f"{json.dumps(line)}\n" for line in lines) + '{"epoch": 3, "st'
        (tmp_path / METRICS_FILE).write_text(text)
        MetricsWriter(tmp_path, step, epochs).close()
        assert read_metrics(tmp_path) == lines[:kept]


def test_damaged_line_is_refused(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"epoch": 1\n{"epoch": 2}\n')
    with pytest.raises(UserError, match="is damaged"):
        read_metrics(tmp_path)
