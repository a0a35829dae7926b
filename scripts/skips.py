"""Measure how gradients shrink or grow through a network at initialisation, with and without skips and BatchNorm.

    python -m scripts.skips --data_dir=cifar10.npz
    python -m scripts.skips --workdir=runs --out=curves.svg

The first command prints a table for ``docs/skips.md``. For each network it takes the loss of one batch, and the norm of
the gradient of each block's first convolution. The paper's sources trained networks of 20 and 56 layers, and Table 8
has one of 80. The second command draws the training curves of ``configs/skips.py``.
"""

import argparse
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
from jaxresnet.system.files import PICTURES, output_file
from jaxresnet.workdir.log import read_metrics

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
    network: dict[str, Any], skips: bool, norm: bool, images: jax.Array, labels: jax.Array
) -> list[float]:
    """Return the norm of the loss's gradient for the first convolution of each block, in order."""
    with mock.patch.object(model_module, "BatchNorm", model_module.BatchNorm if norm else NoNorm):
        model = ResNet(**network, skips=skips)
        variables = model.init(jax.random.key(0), images[:1], train=False)

        def loss(params: Any) -> jax.Array:
            rest = {name: values for name, values in variables.items() if name != "params"}
            logits, _ = model.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        gradients = jax.jit(jax.grad(loss))(variables["params"])
    blocks = [f"layer{stage + 1}_{block}" for stage, count in enumerate(network["blocks"]) for block in range(count)]
    return [float(jnp.linalg.norm(gradients[name]["conv1"]["kernel"])) for name in blocks]


def print_gradients(data_dir: str | None) -> None:
    """Print the table of gradient norms."""
    train = load_dataset("cifar10", data_dir, 10).train
    images, labels = jnp.float32(train.images[:BATCH]) / 255, jnp.asarray(train.labels[:BATCH])
    print("| layers | BatchNorm | skips | first block | last block | first / last |")
    print("| --- | --- | --- | --- | --- | --- |")
    for layers, network in NETWORKS.items():
        for norm, skips in ((True, True), (True, False), (False, True), (False, False)):
            norms = gradient_norms(network, skips, norm, images, labels)
            ratio = norms[0] / norms[-1] if norms[-1] else float("nan")
            words = " | ".join("yes" if each else "no" for each in (norm, skips))
            print(f"| {layers} | {words} | {norms[0]:.3g} | {norms[-1]:.3g} | {ratio:.3g} |", flush=True)


def draw_curves(workdir: str) -> Figure:
    """Draw training loss and accuracy of every arm of ``configs/skips.py`` against epochs."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2), ("train_loss", "train_accuracy"), ("training loss", "training accuracy, %"), strict=True
    ):
        for arm in experiment.ARMS:
            layers, _, plain = arm.partition("_")
            lines = read_metrics(user_path(workdir) / "skips" / arm / "seed0")
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
    """Print the table, or draw the curves."""
    if arguments.workdir:
        picture = output_file("--out", arguments.out, arguments.force, PICTURES)
        picture.write_figure(draw_curves(arguments.workdir))
    else:
        print_gradients(arguments.data_dir)


def main() -> None:
    """Run the command."""
    parser = cli.Parser("scripts.skips", __doc__.partition("\n")[0])
    parser.add_argument("--data_dir", help="location of CIFAR-10, as in config.dataset.data_dir")
    parser.add_argument("--workdir", help="folder of the runs of configs/skips.py: draw their curves instead")
    parser.add_argument("--out", default="curves.svg", help="picture to write (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --out names")
    cli.run(run, parser)


if __name__ == "__main__":
    main()
