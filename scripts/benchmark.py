"""Times a training step of a config against PyTorch's: ``python scripts/benchmark.py --config=configs/final.py``.

The same model, batch and recipe, in one process and by turns: as this project trains it; with XLA's own convolutions;
and, with ``--against=torch``, in PyTorch as the paper's authors wrote it (float32, default layout) and channels_last.
Medians over the rounds, the first one left out; every timing ends when the result is there.
"""

import functools
import importlib.metadata
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/ and the tests' PyTorch model

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli, environment
from jaxresnet.architecture import multiply_adds
from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.config import check_config
from jaxresnet.files import output_file
from jaxresnet.schedules import Hyperparams
from jaxresnet.steps import train_step
from jaxresnet.train_state import create_model, create_train_state, create_transform

CONFIG = config_flags.DEFINE_config_file("config", None, "The config file whose training step is timed.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "How many times each is timed, after a first time that does not count.")
AGAINST = flags.DEFINE_enum("against", None, ["torch"], "Also time PyTorch, which has to be installed.")
OUT = flags.DEFINE_string("out", None, "A JSON file to write.")
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --out names.")

Step = Callable[[], None]


def jax_step(config: ConfigDict, pixels: np.ndarray, labels: np.ndarray, xla: bool) -> tuple[Step, float]:
    """A training step, and the seconds that compiling it and running it once took."""
    state, transform = create_train_state(config, IMAGE_SHAPE), create_transform(config)
    if xla:
        model = create_model(config).clone(conv_general_dilated=jax.lax.conv_general_dilated)
        state = state.replace(apply_fn=model.apply)
    rates = Hyperparams(np.float32(config.schedule.learning_rate), np.float32(config.optimizer.momentum))
    step = jax.jit(functools.partial(train_step, hyperparams=rates, transform=transform), donate_argnums=0)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, {"image": pixels, "label": labels})
        jax.block_until_ready((state, metrics))

    start = time.perf_counter()
    run()
    return run, time.perf_counter() - start


def torch_step(config: ConfigDict, pixels: np.ndarray, labels: np.ndarray, channels_last: bool) -> Step:
    """A training step of the tests' reference model; its images are cropped and flipped already, ours are not."""
    import torch
    import torch.nn.functional as F

    from tests.torch_reference import TorchResNet, to_torch_images

    pooling = config.model.pooling if config.model.pooling == "global" else int(config.model.pooling)
    model = TorchResNet(
        config.model.channels, config.model.blocks, config.model.kernel_size, config.model.shortcut_kernel_size,
        config.model.stem_channels, pooling, config.model.dropout_rate,
    ).train()  # fmt: skip
    images, targets = to_torch_images(pixels / np.float32(255)), torch.tensor(labels, dtype=torch.int64)
    if channels_last:
        model, images = (each.to(memory_format=torch.channels_last) for each in (model, images))
    optimizer = torch.optim.SGD(
        model.parameters(), config.schedule.learning_rate, config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )  # fmt: skip

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()

    return run


def time_by_turns(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round."""
    seconds = {name: [] for name in steps}
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, end="\r")
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: each[1:] for name, each in seconds.items()}


def main(argv: list[str]) -> None:
    with cli.command():
        cli.refuse_arguments(argv)
        out = output_file("--out", OUT.value, FORCE.value, (".json",)) if OUT.value else None
        config = CONFIG.value
        check_config(config)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (config.batch_size, *IMAGE_SHAPE)).astype(np.uint8)
        labels = rng.integers(0, 10, config.batch_size).astype(np.int32)
        steps, compile_seconds = {}, {}
        for name, xla in (("jaxresnet", False), ("XLA's convolutions", True)):
            steps[name], compile_seconds[name] = jax_step(config, pixels, labels, xla)
        if AGAINST.value:
            steps["PyTorch"] = torch_step(config, pixels, labels, channels_last=False)
            steps["PyTorch, channels_last"] = torch_step(config, pixels, labels, channels_last=True)
        seconds = time_by_turns(steps, ROUNDS.value)

        operations = 6 * multiply_adds(create_model(config), IMAGE_SHAPE) * config.batch_size
        print(f"{'':24}{'step':>10}{'images/s':>10}{'TFLOP/s':>10}{'of ours (least to most)':>28}")
        for name, each in seconds.items():
            median = statistics.median(each)
            ratios = [theirs / ours for theirs, ours in zip(each, seconds["jaxresnet"], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            speed = f"{config.batch_size / median:>10,.0f}{operations / median / 1e12:>10.3f}"
            print(f"{name:24}{1e3 * median:>7.0f} ms{speed}{spread:>28}")
        if out:
            versions = {"torch": importlib.metadata.version("torch")} if AGAINST.value else {}
            report = {"config": config.name, "batch_size": config.batch_size, "dtype": config.dtype}
            report |= {"seconds": seconds, "compile_and_first_step_seconds": compile_seconds}
            report |= environment.describe() | {"other_versions": versions}
            out.write(json.dumps(report, indent=2) + "\n")
            print(out.path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
