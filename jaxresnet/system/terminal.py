"""Show progress on the terminal."""

import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where they are used, because commands import this module before they parse flags
    import numpy as np
    from jaxtyping import Float
    from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class ProgressDisplay:
    """Progress bar on a terminal; otherwise one line every 30 seconds."""

    def __init__(self, num_epochs: int, work: "Float[np.ndarray, ' steps']", step: int):
        """Start after ``step`` steps. ``work`` is the work done after 0, 1, ... and all steps, in any unit."""
        from tqdm import tqdm

        self._num_epochs, self._work, self._total_steps = num_epochs, work, len(work) - 1
        self._bar = tqdm(
            total=self._total_steps,
            initial=step,
            file=sys.stdout,
            bar_format="{percentage:3.0f}%|{bar:10}| {desc}",
            dynamic_ncols=True,
            disable=None,  # there is none off a terminal
        )
        self._last_line = time.monotonic()
        # The clock starts after the first update, which includes compilation.
        self._start: tuple[float, int] | None = None

    def update(self, epoch: int, step: int, means: dict[str, float], images_per_second: float) -> None:
        """Show where training stands.

        Args:
            epoch: running epoch, from 1.
            step: steps taken.
            means: ``train_loss`` and ``train_accuracy`` (%) of the running epoch.
            images_per_second: training speed over the running epoch.
        """
        now = time.monotonic()
        self._start = self._start or (now, step)
        # The terminal cuts off what does not fit, so what matters most comes first.
        text = (
            f"{self._time_left(now, step)}  epoch {epoch}/{self._num_epochs}  loss {means['train_loss']:.4f}  "
            f"accuracy {means['train_accuracy']:.2f}%  step {step:,}/{self._total_steps:,}  "
            f"{images_per_second:,.0f} images/s"
        )
        self._bar.n = step
        self._bar.set_description_str(text)
        if self._bar.disable and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(text, flush=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()

    def _time_left(self, now: float, step: int) -> str:
        start, start_step = self._start or (now, step)
        if step == start_step:
            return "time left: ..."
        pace = (self._work[step] - self._work[start_step]) / (now - start)
        return f"{format_seconds((self._work[-1] - self._work[step]) / pace)} left"


def image_bar(total: int) -> "tqdm":
    """Return a bar on stderr with images per second and the time left. Off a terminal there is none."""
    from tqdm import tqdm

    return tqdm(total=total, unit=" images", delay=0.1, leave=False, dynamic_ncols=True, disable=None)


def format_seconds(seconds: float) -> str:
    """Format a duration, such as 48s, 12m05s, 3h07m or 5d02h."""
    seconds = math.ceil(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a table with its first ``left`` columns left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{'<' if i < left else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in (header, *rows)
    )
