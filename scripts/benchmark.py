"""Times the training of a config: ``python scripts/benchmark.py --config=configs/final.py --against=torch``.

The program that training runs is timed with the config's data, by turns with what ``--against`` names: ``xla``, the
same with XLA's own convolutions (on CPU there are others), and ``torch``, PyTorch as the paper's authors wrote it and
tuned. Medians over the rounds, of which a first one does not count; every timing ends when the result is there.
``JAX_PLATFORMS`` chooses the device and ``--config.dtype=bfloat16`` the type.
"""

import time

START = time.perf_counter()  # before the imports, which a user waits for too
# ruff: noqa: E402

import importlib.metadata
import json
import math
import pathlib
import sys
from typing import Any, TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/ and the tests' PyTorch model

import jax
from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli, environment
from jaxresnet.config import check_config
from jaxresnet.costs import flop_per_image, matrix_product_pace
from jaxresnet.datasets import Dataset, load_dataset
from jaxresnet.errors import UserError, one_line, user_path
from jaxresnet.files import output_file
from jaxresnet.steps import Batch, create_mesh, put_on_devices, steps_per_dispatch
from scripts.benchmark_report import OURS, format_report
from scripts.contenders import Contender, jax_evaluation, jax_training, torch_trainings

CONFIG = config_flags.DEFINE_config_file("config", None, "The config file whose training is timed.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "How many times each is timed, after a first time that does not count.", 1)
AGAINST = flags.DEFINE_multi_enum("against", [], ["torch", "xla"], "What to time by turns with it; may be repeated.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Also time these batch sizes, such as 32,64,128,256,512,1024,2048.")
WIDTHS = flags.DEFINE_list("widths", [], "Also time the model with its channels times these, such as 0.5,1,2.")
OUT = flags.DEFINE_string("out", None, "A JSON file to write.")
PROFILE = flags.DEFINE_string("profile", None, "A folder to write a profile of one dispatch to.")
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --out names.")

Number = TypeVar("Number", int, float)


def time_by_turns(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            _say(f"round {number} of {rounds}: {name}")
            start = time.perf_counter()
            contender.run()
            seconds[name].append((time.perf_counter() - start) / contender.steps)
    return {name: each[1:] for name, each in seconds.items()}


def measure(
    config: ConfigDict, dataset: Dataset, data: Batch, against: list[str], rounds: int, profile: pathlib.Path | None
) -> dict[str, Any]:
    """Everything about a config but how it grows; what ``--out`` writes. And a profile, to the folder named.

    ``data``: the training images, on the devices.
    """
    steps = steps_per_dispatch(config.steps_per_dispatch)
    _say("compiling")
    contenders = {OURS: jax_training(config, data, steps)}
    contenders[OURS].run()
    first_step_seconds = time.perf_counter() - START
    if "xla" in against:
        _say("compiling with XLA's convolutions")
        contenders["XLA's convolutions"] = jax_training(config, data, steps, xla=True)
    if "torch" in against:
        contenders |= torch_trainings(config, dataset.train, steps)
    seconds = time_by_turns(contenders, rounds)
    if profile:
        with jax.profiler.trace(str(profile), create_perfetto_trace=True):
            contenders[OURS].run()
    eval_batch_size = min(config.eval_batch_size, len(dataset.test))
    evaluation = jax_evaluation(config, put_on_devices(dataset.test, create_mesh()), eval_batch_size, steps)
    eval_seconds = time_by_turns({"evaluation": evaluation}, rounds)["evaluation"]
    _say("a large matrix product")
    versions = {"torch": importlib.metadata.version("torch")} if "torch" in against else {}
    report = environment.describe()
    return report | {
        "config": config.name,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "steps_per_dispatch": steps,
        "flop_per_image": flop_per_image(config),
        # Of all devices. On CPU they are the cores, which share a product.
        "matrix_product_flop_per_second": matrix_product_pace(config.dtype)
        * (1 if report["platform"] == "cpu" else report["device_count"]),
        "step_seconds": seconds,
        "compile_seconds": {name: each.compile_seconds for name, each in contenders.items() if each.compile_seconds},
        "memory": {name: each.memory for name, each in contenders.items() if each.memory},
        "first_step_seconds": first_step_seconds,
        "eval_batch_size": eval_batch_size,
        "eval_step_seconds": eval_seconds,
        "versions": report["versions"] | versions,
    }


def vary(config: ConfigDict, batch_sizes: list[int], widths: list[float]) -> list[tuple[dict[str, float], ConfigDict]]:
    """Configs of other batch sizes, and of other widths of the model, each with what is other about it.

    Raises:
        UserError: one that cannot work.
    """
    variants = []
    changes: list[dict[str, float]] = [{"batch_size": size} for size in batch_sizes]
    changes += [{"width": width} for width in widths]
    for variant in changes:
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.batch_size = variant.get("batch_size", config.batch_size)
            width = variant.get("width", 1)
            changed.model.channels = tuple(max(round(channels * width), 1) for channels in config.model.channels)
        check_config(changed)
        variants.append((variant, changed))
    return variants


def measure_growth(
    variants: list[tuple[dict[str, float], ConfigDict]], data: Batch, rounds: int
) -> list[dict[str, Any]]:
    """The training step of each; where one does not fit into memory, that."""
    measured = []
    for variant, config in variants:
        _say(f"compiling {variant}")
        growth: dict[str, Any] = {**variant, "flop_per_image": flop_per_image(config)}
        try:
            training = jax_training(config, data, steps_per_dispatch(config.steps_per_dispatch))
            growth |= {"memory": training.memory}
            growth |= {"step_seconds": time_by_turns({str(variant): training}, rounds)[str(variant)]}
        except jax.errors.JaxRuntimeError as error:
            growth |= {"error": one_line(error)}
        measured.append(growth)
    return measured


def _numbers(flag: flags.FlagHolder[list[str]], kind: type[Number]) -> list[Number]:
    try:
        numbers = [kind(text) for text in flag.value]
        if all(0 < number < math.inf for number in numbers):
            return numbers
    except ValueError:
        pass
    raise UserError(f"--{flag.name}={','.join(flag.value)}: expected positive numbers, with commas between them")


def _say(text: str) -> None:
    print(f"\r{text:<60}", file=sys.stderr, end="", flush=True)


def main(argv: list[str]) -> None:
    with cli.command():
        cli.refuse_arguments(argv)
        out = output_file("--out", OUT.value, FORCE.value, (".json",)) if OUT.value else None
        profile = user_path(PROFILE.value) if PROFILE.value else None
        batch_sizes, widths = _numbers(BATCH_SIZES, int), _numbers(WIDTHS, float)
        config = CONFIG.value
        check_config(config)
        variants = vary(config, batch_sizes, widths)
        environment.set_up_jax()
        start = time.perf_counter()
        dataset = load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes)
        load_seconds = time.perf_counter() - start
        if (largest := max(config.batch_size, *batch_sizes, 1)) > len(dataset.train):
            raise UserError(
                f"batch size {largest} is larger than the {len(dataset.train):,} training images; give fewer"
            )
        data = put_on_devices(dataset.train, create_mesh())
        report = measure(config, dataset, data, AGAINST.value, ROUNDS.value, profile) | {"load_seconds": load_seconds}
        report["growth"] = measure_growth(variants, data, ROUNDS.value)
        _say("")
        print(f"\n{format_report(report)}")
        if out:
            out.write(json.dumps(report, indent=2) + "\n")
            print(out.path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
