"""A contender of ``benchmark.py``: this project's training or evaluation, or PyTorch's training.

``contenders.py FOLDER KIND`` reads ``FOLDER/config.json`` and answers in JSON lines on stdout: facts about itself once
it is ready, and then an answer to each line on stdin. ``turn`` runs one dispatch and answers what a step of it cost,
``profile FOLDER`` profiles one, and ``ceiling DTYPE`` answers the FLOP/s of a large matrix product.
"""

import time

START = time.perf_counter()  # before the imports, because a user waits for them too
# ruff: noqa: E402

import functools
import json
import os
import pathlib
import resource
import sys
from collections.abc import Callable
from typing import Any, cast

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # for the tests' PyTorch model

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxresnet.config import load_config
from jaxresnet.core.costs import flop_by_epoch
from jaxresnet.core.programs import (
    DeviceSplit,
    Steps,
    create_mesh,
    dispatch,
    eval_batch_size,
    eval_batches,
    jit_steps,
    put_on_devices,
    replicate,
    steps_per_dispatch,
)
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.state import TrainState, create_model, create_train_state, create_transform
from jaxresnet.data.cifar import IMAGE_SHAPE
from jaxresnet.data.loading import Dataset, Split, load_dataset
from jaxresnet.system import devices
from jaxresnet.system.errors import UserError, one_line
from scripts.benchmark import EVALUATION, XLA, Turn

# A function that runs a number of steps and returns when they are done, that number, and facts for the report.
Contender = tuple[Callable[[], None], int, dict[str, Any]]


def create_contender(config: ConfigDict, kind: str) -> Contender:
    """Set up the contender of a kind, including its first run.

    Raises:
        UserError: the data cannot be read.
    """
    is_torch = kind.startswith("PyTorch")
    if not is_torch:
        devices.set_up_jax()
    elif "our malloc settings" in kind:
        devices.keep_freed_memory()
    start = time.perf_counter()
    dataset = load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes)
    load_seconds = time.perf_counter() - start
    if is_torch:
        run, steps, facts = _torch_training(config, dataset, kind)
    elif kind == EVALUATION:
        run, steps, facts = _jax_evaluation(config, dataset)
    else:
        run, steps, facts = _jax_training(config, dataset, xla=kind == XLA)
    run()
    first = {"load_seconds": load_seconds, "first_step_seconds": time.perf_counter() - START}
    return run, steps, facts | first | {"peak_memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _jax_training(config: ConfigDict, dataset: Dataset, xla: bool) -> Contender:
    """Create the training program, on random images. If ``xla``, it has XLA's own convolutions."""
    programs, state, data = _create(config, dataset.train)
    if xla:
        model = create_model(config).clone(conv_general_dilated=jax.lax.conv_general_dilated, relu=jax.nn.relu)
        state = state.replace(apply_fn=model.apply)
    steps = steps_per_dispatch(config.steps_per_dispatch)
    indices = np.random.default_rng(0).integers(0, len(dataset.train), (steps, config.batch_size), np.int32)
    hyperparams = Hyperparams(config.schedule.learning_rate, config.optimizer.momentum)
    hyperparams = jax.tree.map(lambda value: np.full(steps, value, np.float32), hyperparams)
    start = time.perf_counter()
    train = cast(jax.stages.Wrapped, programs.train)  # made by jit
    program = train.lower(state, data, indices, hyperparams).compile()
    facts = devices.describe() | {"compile_seconds": time.perf_counter() - start, "steps_per_dispatch": steps}
    # This starts JAX, and a TPU serves only one process, so only this contender computes it.
    facts["flop_per_image"] = float(flop_by_epoch(config, IMAGE_SHAPE)[-1])
    if sizes := program.memory_analysis():  # per device, data set included
        facts["memory"] = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        facts["memory"] -= sizes.alias_size_in_bytes

    def run() -> None:
        nonlocal state
        state, metrics = dispatch(program, state, data, indices, hyperparams)
        jax.block_until_ready((state, metrics))

    return run, steps, facts


def _jax_evaluation(config: ConfigDict, dataset: Dataset) -> Contender:
    """Create the evaluation program, on the first test images."""
    programs, state, data = _create(config, dataset.test)
    batch_size = min(eval_batch_size(config.eval_batch_size), len(dataset.test))
    indices, mask = next(eval_batches(len(dataset.test), batch_size, steps_per_dispatch(config.steps_per_dispatch)))

    def run() -> None:
        jax.block_until_ready(dispatch(programs.evaluate, state, data, indices, mask))

    return run, len(indices), {"batch_size": batch_size}


def _create(config: ConfigDict, split: Split) -> tuple[Steps, TrainState, DeviceSplit]:
    mesh = create_mesh()
    data = put_on_devices(split.images, split.labels, mesh)
    state = replicate(create_train_state(config, data.image_shape), mesh)
    transform = create_transform(config, config.num_epochs - 1)  # the last epochs train on whole images
    return jit_steps(transform, mesh), state, data


def _torch_training(config: ConfigDict, dataset: Dataset, kind: str) -> Contender:
    """Create training of the tests' PyTorch model, on the GPU if JAX uses one.

    ``kind`` names what makes it faster: ``channels_last``, ``autocast`` to bfloat16, and ``compiled`` by
    ``torch.compile``. PyTorch trains on one fixed batch without augmentation; this project's program also crops and
    flips.
    """
    import torch
    import torch.nn.functional as F

    from tests.torch_reference import TorchResNet, to_torch_images

    gpu = jax.default_backend() == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    torch.backends.cudnn.benchmark = True  # as in the authors' script; no effect on CPU
    steps, dimensions = steps_per_dispatch(config.steps_per_dispatch), config.model
    pooling = dimensions.pooling if dimensions.pooling == "global" else int(dimensions.pooling)
    model = TorchResNet(
        dimensions.channels, dimensions.blocks, dimensions.kernel_size, dimensions.shortcut_kernel_size,
        dimensions.stem_channels, pooling, dimensions.dropout_rate,
    ).train().to(device)  # fmt: skip
    images = to_torch_images(dataset.train.images[: config.batch_size] / np.float32(255)).to(device)
    if side := create_transform(config, config.num_epochs - 1).side:
        images = F.interpolate(images, side, mode="area")
    targets = torch.tensor(dataset.train.labels[: config.batch_size], dtype=torch.int64, device=device)
    if "channels_last" in kind:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its annotation
        images = images.to(memory_format=torch.channels_last)
    forward = torch.compile(model) if "compiled" in kind else model
    optimizer = torch.optim.SGD(
        model.parameters(), config.schedule.learning_rate, config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )  # fmt: skip

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled="autocast" in kind):
                loss = F.cross_entropy(forward(images), targets)
            loss.backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    return run, steps, {"versions": {"torch": str(torch.__version__)}}


def take_turn(run: Callable[[], None], steps: int) -> Turn:
    """Run a contender once and return what each of its steps cost."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    costs = {"wall_seconds": wall, "processor_seconds": processor, "page_faults": after.ru_minflt - before.ru_minflt}
    return {name: cost / steps for name, cost in costs.items()}


def ceiling(dtype: str) -> float:
    """Return the FLOP/s of a large matrix product on all devices, the best of five: an upper bound for any model."""
    on_cpu = jax.default_backend() == "cpu"
    size = 2048 if on_cpu else 8192
    # With a result in bfloat16, XLA:CPU does not use the processor's units for bfloat16.
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    matrix = jnp.ones((size, size), dtype)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.monotonic() - start)
    return 2 * size**3 / min(seconds) * (1 if on_cpu else jax.device_count())  # on CPU one product uses all cores


def main() -> None:
    """Set up the contender of the command line and answer the commands on stdin."""
    folder, kind = sys.argv[1:]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps what libraries print out of the answers

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        run, steps, facts = create_contender(load_config(pathlib.Path(folder)), kind)
        answer(facts)
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            if command == "profile":
                with jax.profiler.trace(argument, create_perfetto_trace=True):
                    run()
                answer(None)
            else:
                answer(take_turn(run, steps) if command == "turn" else ceiling(argument))
    except (UserError, jax.errors.JaxRuntimeError) as error:  # such as out of memory
        sys.exit(one_line(error))


if __name__ == "__main__":
    main()
