"""Measure how gradients shrink or grow through a network at initialisation, with and without skips and BatchNorm.

    python -m scripts.skips --data_dir=cifar10.npz --out=results/measurements/gradients.json
    python -m scripts.skips --workdir=results/runs --out=results/runs/skips.svg

The first command takes the loss of one batch, and the norm of the gradient of the first convolution in the first and in
the last block, for several initialisations of each network. The paper's sources trained networks of 20 and 56 layers,
and its Table 8 has one of 80. The second command draws the training curves of ``configs/skips.py``.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

from configs import skips as experiment
from jaxresnet import cli
from jaxresnet.core import model as model_module
from jaxresnet.core.model import ResNet
from jaxresnet.data.loading import load_dataset
from jaxresnet.system.errors import user_path
from jaxresnet.system.files import PICTURES, output_file, write_figure, write_whole
from jaxresnet.workdir.runs import read_runs

BATCH = 128
NETWORKS: dict[int, dict[str, Any]] = {
    20: {"channels": (16, 32, 64), "blocks": (3, 3, 3)},
    56: {"channels": (16, 32, 64), "blocks": (9, 9, 9)},
    80: {"channels": (32, 64, 128), "blocks": (13, 13, 13), "stem_channels": 16},
}


class NoNorm(nn.Module):
    """Stand-in for BatchNorm that changes nothing."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return ``x``."""
        return x


def gradient_norms(
    network: dict[str, Any], skips: bool, norm: bool, images: jax.Array, labels: jax.Array, draws: int = 1
) -> list[tuple[float, float]]:
    """Return the norms of the loss's gradient for the first convolution of the first and of the last block.

    Args:
        network: fields of ``ResNet``.
        skips: whether blocks have shortcuts.
        norm: whether layers have BatchNorm.
        images: (batch, height, width, channels) float32.
        labels: (batch,) integers.
        draws: number of initialisations, from the seeds 0, 1, ...
    """
    with mock.patch.object(model_module, "BatchNorm", model_module.BatchNorm if norm else NoNorm):
        model = ResNet(**network, skips=skips)

        @jax.jit
        def norms(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            variables = model.init(key, images[:1], train=False)
            rest = {name: values for name, values in variables.items() if name != "params"}

            def loss(params: Any) -> jax.Array:
                logits, _ = model.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            gradients = jax.grad(loss)(variables["params"])
            last = f"layer{len(network['blocks'])}_{network['blocks'][-1] - 1}"
            first, last = (jnp.linalg.norm(gradients[name]["conv1"]["kernel"]) for name in ("layer1_0", last))
            return first, last

        pairs = [norms(jax.random.key(seed)) for seed in range(draws)]
    return [(float(first), float(last)) for first, last in pairs]


def measure(data_dir: str | None, draws: int) -> Iterator[dict[str, Any]]:
    """Yield a record for each network: its layers, ``norm``, ``skips``, and the norms ``first`` and ``last``."""
    train = load_dataset("cifar10", data_dir, 10).train
    images, labels = jnp.float32(train.images[:BATCH]) / 255, jnp.asarray(train.labels[:BATCH])
    for layers, network in NETWORKS.items():
        for norm, skips in ((True, True), (True, False), (False, True), (False, False)):
            first, last = zip(*gradient_norms(network, skips, norm, images, labels, draws), strict=True)
            yield {"layers": layers, "norm": norm, "skips": skips, "first": first, "last": last}


def draw_curves(workdir: pathlib.Path) -> Figure:
    """Draw training loss and accuracy of every arm of ``configs/skips.py`` against epochs."""
    runs = read_runs(workdir)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2), ("train_loss", "train_accuracy"), ("training loss", "training accuracy, %"), strict=True
    ):
        for arm in experiment.ARMS:
            layers, _, plain = arm.partition("_")
            (lines,) = (run.lines for run in runs if run.config.name == f"skips/{arm}")
            axes.plot(
                [line["epoch"] for line in lines],
                [line[name] for line in lines],
                color={"20": "#4477aa", "56": "#cc3311"}[layers],
                linestyle="--" if plain else "-",
                label=f"{layers} layers, {'plain' if plain else 'skips'}",
            )
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def run(arguments: argparse.Namespace) -> None:
    """Measure gradients, or draw the curves."""
    out = output_file("--out", arguments.out, arguments.force, PICTURES if arguments.workdir else (".json",))
    if arguments.workdir:
        write_figure(out, draw_curves(user_path(arguments.workdir)))
    else:
        records = []
        for record in measure(arguments.data_dir, arguments.draws):
            print(json.dumps(record), flush=True)
            records.append(record)
        write_whole(out, json.dumps(records, indent=1) + "\n")


def main() -> None:
    """Run the command."""
    parser = cli.Parser("scripts.skips", __doc__.partition("\n")[0])
    parser.add_argument("--data_dir", help="location of CIFAR-10, as in config.dataset.data_dir")
    parser.add_argument("--draws", type=int, default=8, help="initialisations of each network (default: %(default)s)")
    parser.add_argument("--workdir", help="folder of the runs of configs/skips.py: draw their curves instead")
    parser.add_argument("--out", required=True, help="JSON file or picture to write")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --out names")
    cli.run(run, parser)


if __name__ == "__main__":
    main()
