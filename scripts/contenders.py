"""Training steps that ``benchmark.py`` times: this project's, and PyTorch's of the same model, batch and recipe."""

import time
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxresnet.datasets import Split
from jaxresnet.schedules import Hyperparams
from jaxresnet.steps import Batch, Steps, compile_steps, create_mesh, dispatch, eval_dispatches, replicate
from jaxresnet.train_state import TrainState, create_model, create_train_state, create_transform


class Contender(NamedTuple):
    """Something to time.

    Attributes:
        run: takes ``steps`` training steps and returns when they are done.
        steps: how many.
        compile_seconds: what compiling them took; None where compilation is part of the first run.
        memory: bytes that the program holds on each device, the data set included; None where that is not known.
    """

    run: Callable[[], None]
    steps: int
    compile_seconds: float | None = None
    memory: int | None = None


def jax_training(config: ConfigDict, data: Batch, steps: int, xla: bool = False) -> Contender:
    """The program that training runs, with random images of ``data``, which lie on the devices.

    Args:
        config: of the run.
        data: from ``put_on_devices``.
        steps: how many in a dispatch.
        xla: with XLA's own convolutions.
    """
    programs, state = _create(config, data)
    if xla:
        model = create_model(config).clone(conv_general_dilated=jax.lax.conv_general_dilated)
        state = state.replace(apply_fn=model.apply)
    indices = np.random.default_rng(0).integers(0, len(data["label"]), (steps, config.batch_size), np.int32)
    hyperparams = Hyperparams(config.schedule.learning_rate, config.optimizer.momentum)
    hyperparams = jax.tree.map(lambda value: np.full(steps, value, np.float32), hyperparams)
    start = time.perf_counter()
    train = cast(jax.stages.Wrapped, programs.train)  # which jit has made
    program = train.lower(state, data, indices, hyperparams).compile()
    compile_seconds = time.perf_counter() - start

    def run() -> None:
        nonlocal state
        state, metrics = dispatch(program, state, data, indices, hyperparams)
        jax.block_until_ready((state, metrics))

    memory = None
    if sizes := program.memory_analysis():
        memory = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        memory -= sizes.alias_size_in_bytes
    return Contender(run, steps, compile_seconds, memory)


def jax_evaluation(config: ConfigDict, data: Batch, batch_size: int, steps: int) -> Contender:
    """As ``jax_training``, of evaluation steps of ``batch_size`` images."""
    programs, state = _create(config, data)
    indices, mask = next(eval_dispatches(len(data["label"]), batch_size, steps))

    def run() -> None:
        jax.block_until_ready(dispatch(programs.evaluate, state, data, indices, mask))

    return Contender(run, len(indices))


def _create(config: ConfigDict, data: Batch) -> tuple[Steps, TrainState]:
    mesh = create_mesh()
    _, height, width, channels = data["image"].shape
    state = replicate(create_train_state(config, (height, width, channels)), mesh)
    return compile_steps(create_transform(config), mesh), state


def torch_trainings(config: ConfigDict, split: Split, steps: int) -> dict[str, Contender]:
    """The tests' reference model, on the GPU if JAX uses one, each in the layouts and types that a user may choose.

    As the paper's authors wrote it: float32 in the default layout. Then channels_last; and on a GPU bfloat16 autocast
    and ``torch.compile`` on top, for a config of that type. The images are cropped and flipped already; ours are not.
    """
    import torch
    import torch.nn.functional as F

    from tests.torch_reference import TorchResNet, to_torch_images

    gpu = jax.default_backend() == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    torch.backends.cudnn.benchmark = True  # as in the authors' script, and of no effect on CPU
    pixels, labels = split.images[: config.batch_size], split.labels[: config.batch_size]

    def create(channels_last: bool = False, tuned: bool = False) -> Contender:
        dimensions = config.model
        pooling = dimensions.pooling if dimensions.pooling == "global" else int(dimensions.pooling)
        model = TorchResNet(
            dimensions.channels, dimensions.blocks, dimensions.kernel_size, dimensions.shortcut_kernel_size,
            dimensions.stem_channels, pooling, dimensions.dropout_rate,
        ).train().to(device)  # fmt: skip
        images = to_torch_images(pixels / np.float32(255)).to(device)
        targets = torch.tensor(labels, dtype=torch.int64, device=device)
        if channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its annotation leaves it out
            images = images.to(memory_format=torch.channels_last)
        forward = torch.compile(model) if tuned else model
        optimizer = torch.optim.SGD(
            model.parameters(), config.schedule.learning_rate, config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )  # fmt: skip

        def run() -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=tuned and config.dtype == "bfloat16"):
                    loss = F.cross_entropy(forward(images), targets)
                loss.backward()
                optimizer.step()
            if gpu:
                torch.cuda.synchronize()

        return Contender(run, steps)

    trainings = {"PyTorch": create(), "PyTorch, channels_last": create(channels_last=True)}
    if gpu:
        trainings["PyTorch, tuned"] = create(channels_last=True, tuned=True)
    return trainings
