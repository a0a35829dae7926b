"""Time whole commands from Enter to their answer, and measure their peak memory: ``scripts/benchmark.py --commands``.

Each command runs twice: cold, with nothing kept of programs and images, and warm, with what the first run kept.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK_START = ["train", "--config=quickstart", "--workdir=run", "--config.log_every_steps=1"]
FIRST_STEP = "first step of the quick start"
COMMANDS = {
    "`--help`": ["--help"],
    "`predict --help`": ["predict", "--help"],
    "class of one picture": ["predict", "cat.png"],
    FIRST_STEP: QUICK_START,  # stopped after it
    "quick start, 8 epochs": QUICK_START,
}
# These need CIFAR-10, and minutes.
LONG_COMMANDS = {
    "`evaluate`": ["evaluate"],
    "`evaluate --mirror`": ["evaluate", "--mirror"],
    "`predict --grid=wrong.png`": ["predict", "--grid=wrong.png", "--force"],
    "an epoch of `configs/cpu.py`": ["train", "--config=cpu", "--workdir=run", "--config.num_epochs=1"],
}


def measure(arguments: list[str], folder: pathlib.Path, until: pathlib.Path | None = None) -> tuple[float, int]:
    """Return seconds and peak bytes of a command in ``folder``. It is stopped once the file ``until`` has content."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "jaxresnet", *arguments], env=environment, cwd=folder, **quiet)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        if until is not None and until.exists() and until.stat().st_size:
            process.kill()
        time.sleep(0.005)
    if process.returncode and until is None:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.monotonic() - start, peak


def _peak(pid: int) -> int:
    """Return the peak bytes of a process so far, or 0 if it has ended.

    Its ``ru_maxrss`` would be no less than what the process that started it held.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0


def measure_commands(long: bool) -> list[dict[str, Any]]:
    """Measure each command, cold and warm. ``long`` adds those that need CIFAR-10."""
    results = []
    for name, arguments in (COMMANDS | (LONG_COMMANDS if long else {})).items():
        with tempfile.TemporaryDirectory() as text:
            folder, turns = pathlib.Path(text), []
            Image.effect_noise((32, 32), 64).convert("RGB").save(folder / "cat.png")
            for _ in range(2):
                shutil.rmtree(folder / "run", ignore_errors=True)
                until = folder / "run" / "metrics.jsonl" if name == FIRST_STEP else None
                turns.append(measure(arguments, folder, until))
            seconds, peaks = zip(*turns, strict=True)
            results.append(
                {"command": name, "cold_seconds": seconds[0], "warm_seconds": seconds[1], "peak": max(peaks)}
            )
    return results
