"""What ``benchmark.py`` times: this project's training steps and evaluation, and PyTorch's training steps.

Each contender is a process of its own: ``contenders.py FOLDER KIND`` reads ``FOLDER/config.json`` and answers in lines
of JSON on stdout. The first line says that the contender is ready, and how it was set up. Then every line on stdin
names one of ``_COMMANDS``: ``turn`` runs one dispatch and answers what it cost.
"""

import time

START = time.perf_counter()  # before the imports, which a user waits for too
# ruff: noqa: E402

import json
import os
import pathlib
import resource
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # for the tests' PyTorch model

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxresnet import environment, malloc
from jaxresnet.config import load_config
from jaxresnet.costs import matrix_product_pace
from jaxresnet.datasets import Dataset, load_dataset
from jaxresnet.errors import UserError, one_line
from jaxresnet.flop import flop_by_epoch
from jaxresnet.schedules import Hyperparams
from jaxresnet.steps import (
    Batch,
    Steps,
    compile_steps,
    create_mesh,
    dispatch,
    eval_dispatches,
    put_on_devices,
    replicate,
    steps_per_dispatch,
)
from jaxresnet.train_state import TrainState, create_model, create_train_state, create_transform

OURS, XLA, EVALUATION = "jaxresnet", "XLA's convolutions", "evaluation"
TORCH = {
    "cpu": ("PyTorch", "PyTorch, channels_last", "PyTorch, channels_last, our malloc settings"),
    "gpu": ("PyTorch", "PyTorch, channels_last", "PyTorch, tuned"),
}


def has_our_malloc(kind: str) -> bool:
    """Return True if a contender of this kind runs with the settings of ``jaxresnet.malloc``."""
    return kind in (OURS, XLA, EVALUATION, TORCH["cpu"][2])


class Turn(NamedTuple):
    """What one step cost.

    Attributes:
        wall: seconds until its result was there.
        processor: seconds of all cores of the process, user's and system's.
        page_faults: pages of memory that the system had to provide.
    """

    wall: float
    processor: float
    page_faults: float


class Contender(NamedTuple):
    """Something to time.

    Attributes:
        run: runs ``steps`` steps and returns when they are done.
        steps: steps per call of ``run``.
        facts: JSON of what was measured while it was set up.
    """

    run: Callable[[], None]
    steps: int
    facts: dict[str, Any]


def create_contender(config: ConfigDict, kind: str) -> Contender:
    """Set up the contender of a kind, up to and including its first run.

    Raises:
        UserError: data that cannot be read.
    """
    is_torch = kind.startswith("PyTorch")
    if not is_torch:
        environment.set_up_jax()
    elif has_our_malloc(kind):
        malloc.keep_freed_blocks()
    start = time.perf_counter()
    dataset = load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes)
    load_seconds = time.perf_counter() - start
    steps = steps_per_dispatch(config.steps_per_dispatch)
    if is_torch:
        contender = _torch_training(config, dataset, steps, kind)
    elif kind == EVALUATION:
        contender = _jax_evaluation(config, dataset, steps)
    else:
        contender = _jax_training(config, dataset, steps, xla=kind == XLA)
    contender.run()
    seconds = {"load_seconds": load_seconds, "first_step_seconds": time.perf_counter() - START}
    return contender._replace(facts=contender.facts | seconds)


def _jax_training(config: ConfigDict, dataset: Dataset, steps: int, xla: bool) -> Contender:
    """The program that training runs, on random images; with XLA's own convolutions if ``xla``."""
    programs, state, data = _create(config, put_on_devices(dataset.train, create_mesh()))
    if xla:
        model = create_model(config).clone(conv_general_dilated=jax.lax.conv_general_dilated)
        state = state.replace(apply_fn=model.apply)
    indices = np.random.default_rng(0).integers(0, len(data["label"]), (steps, config.batch_size), np.int32)
    hyperparams = Hyperparams(config.schedule.learning_rate, config.optimizer.momentum)
    hyperparams = jax.tree.map(lambda value: np.full(steps, value, np.float32), hyperparams)
    start = time.perf_counter()
    train = cast(jax.stages.Wrapped, programs.train)  # which jit has made
    program = train.lower(state, data, indices, hyperparams).compile()
    facts = environment.describe() | {"compile_seconds": time.perf_counter() - start, "steps_per_dispatch": steps}
    # Here, because it starts JAX, of which a TPU serves one process.
    facts["flop_per_image"] = float(flop_by_epoch(config)[-1])
    if sizes := program.memory_analysis():  # of each device, the data set included
        facts["memory"] = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        facts["memory"] -= sizes.alias_size_in_bytes

    def run() -> None:
        nonlocal state
        state, metrics = dispatch(program, state, data, indices, hyperparams)
        jax.block_until_ready((state, metrics))

    return Contender(run, steps, facts)


def _jax_evaluation(config: ConfigDict, dataset: Dataset, steps: int) -> Contender:
    """The program that evaluation runs, on the first test images."""
    programs, state, data = _create(config, put_on_devices(dataset.test, create_mesh()))
    batch_size = min(config.eval_batch_size, len(dataset.test))
    indices, mask = next(eval_dispatches(len(dataset.test), batch_size, steps))

    def run() -> None:
        jax.block_until_ready(dispatch(programs.evaluate, state, data, indices, mask))

    return Contender(run, len(indices), {"batch_size": batch_size})


def _create(config: ConfigDict, data: Batch) -> tuple[Steps, TrainState, Batch]:
    mesh = create_mesh()
    _, height, width, channels = data["image"].shape
    state = replicate(create_train_state(config, (height, width, channels)), mesh)
    transform = create_transform(config, config.num_epochs - 1)  # of whole images, where others come first
    return compile_steps(transform, mesh, config.label_smoothing), state, data


def _torch_training(config: ConfigDict, dataset: Dataset, steps: int, kind: str) -> Contender:
    """The tests' reference model, on the GPU if JAX uses one, in the layout and type that ``kind`` names.

    ``PyTorch`` alone is as the paper's authors wrote it: float32 in the default layout. ``tuned`` is channels_last with
    ``torch.compile``, and with bfloat16 autocast for a config of that type. The images are cropped and flipped already;
    ours are not.
    """
    import torch
    import torch.nn.functional as F

    from tests.torch_reference import TorchResNet, to_torch_images

    gpu = jax.default_backend() == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    torch.backends.cudnn.benchmark = True  # as in the authors' script, and of no effect on CPU
    tuned = kind == TORCH["gpu"][2]
    dimensions = config.model
    pooling = dimensions.pooling if dimensions.pooling == "global" else int(dimensions.pooling)
    model = TorchResNet(
        dimensions.channels, dimensions.blocks, dimensions.kernel_size, dimensions.shortcut_kernel_size,
        dimensions.stem_channels, pooling, dimensions.dropout_rate,
    ).train().to(device)  # fmt: skip
    images = to_torch_images(dataset.train.images[: config.batch_size] / np.float32(255)).to(device)
    targets = torch.tensor(dataset.train.labels[: config.batch_size], dtype=torch.int64, device=device)
    if kind != TORCH["cpu"][0]:
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

    return Contender(run, steps, {"versions": {"torch": str(torch.__version__)}})


def take_turn(contender: Contender) -> Turn:
    """Run the contender once and return what each of its steps cost."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    contender.run()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    costs = (wall, processor, after.ru_minflt - before.ru_minflt)
    return Turn(*(cost / contender.steps for cost in costs))


def _profile(contender: Contender, folder: str) -> None:
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        contender.run()


def _ceiling(dtype: str) -> float:
    """FLOP/s of a large matrix product on all devices. On CPU they are the cores, which share a product."""
    return matrix_product_pace(dtype) * (1 if jax.default_backend() == "cpu" else jax.device_count())


_COMMANDS: dict[str, Callable[[Contender, str], Any]] = {
    "turn": lambda contender, _: take_turn(contender)._asdict(),
    "profile": _profile,
    "ceiling": lambda _, dtype: _ceiling(dtype),
}


def main() -> None:
    folder, kind = sys.argv[1:]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever libraries print is no answer

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        contender = create_contender(load_config(pathlib.Path(folder)), kind)
        answer(contender.facts)
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            answer(_COMMANDS[command](contender, argument))
    except (UserError, jax.errors.JaxRuntimeError) as error:  # such as memory that does not suffice
        sys.exit(one_line(error))


if __name__ == "__main__":
    main()
