"""Curves against epochs and against compute."""

import numpy as np
import pytest

from configs import fast, quickstart
from jaxresnet import plot
from jaxresnet.config import save_config
from jaxresnet.core.costs import flop_by_epoch
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.folder import METRICS_FILE

LINE = '{{"epoch": {epoch}, "step": {step}, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 50.0{more}}}\n'
EVALUATED = ', "test_loss": 1.0, "test_accuracy": 60.0, "seconds": 1.0'


def test_smaller_images_take_fewer_operations():
    """A convolution's cost is proportional to the area of its map. Nearly all of the network's cost is convolutions."""
    config = fast.get_config("4")
    config.augment.small_images = ((16, 0.5), (24, 0.75))
    flop = flop_by_epoch(config, (32, 32, 3))
    assert flop[3] * 50_000 / 1e15 == pytest.approx(0.2396, abs=1e-4)  # computed by hand: 6 * 798.7M * 50,000
    np.testing.assert_allclose(flop / flop[3], [1 / 4, 1 / 4, 9 / 16, 1], rtol=1e-4)


def test_axis_of_compute(tmp_path):
    config = fast.get_config("4")
    run = {"epoch": [1, 4], "eval_epoch": [4], "rate_epoch": [0.5, 1]}
    paper = {"epoch": [1, 2], "eval_epoch": [2]}
    plot._to_compute(run, paper, config)
    area = np.array([1 / 4, 1 / 4, 9 / 16, 1]) * 0.2396
    np.testing.assert_allclose(run["epoch"], [area[0], area.sum()], rtol=1e-3)
    np.testing.assert_allclose(run["rate_epoch"], [area[0] / 2, area[0]], rtol=1e-3)
    np.testing.assert_allclose(paper["epoch"], [0.2396, 0.4792], rtol=1e-3)
    assert config.augment.small_images  # the caller's config is unchanged


@pytest.mark.parametrize("x", ["epoch", "pflop"])
def test_unevaluated_epochs_are_drawn_too(tmp_path, x):
    save_config(fast.get_config("4"), tmp_path)
    lines = [
        LINE.format(epoch=epoch, step=98 * epoch, more=EVALUATED if epoch % 2 == 0 else "") for epoch in range(1, 5)
    ]
    (tmp_path / METRICS_FILE).write_text("".join(lines))
    plot.main([f"--workdir={tmp_path}", f"--x={x}"])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    series = plot._run_series(plot.read_metrics(tmp_path), "test")
    assert series["epoch"] == [1, 2, 3, 4] and series["eval_epoch"] == [2, 4]


def test_compute_is_known_for_cifar10_alone(tmp_path):
    save_config(quickstart.get_config(), tmp_path)
    (tmp_path / METRICS_FILE).write_text(LINE.format(epoch=1, step=1, more=EVALUATED))
    with pytest.raises(UserError, match=r"--x=pflop: this run is not on CIFAR-10"):
        plot.plot_run(str(tmp_path), str(tmp_path / "curves.png"), "pflop")
