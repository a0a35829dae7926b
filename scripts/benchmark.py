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
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/ and the tests' PyTorch model

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli, environment
from jaxresnet.config import check_config
from jaxresnet.costs import flop_per_image, matrix_product_pace
from jaxresnet.datasets import load_dataset
from jaxresnet.errors import UserError
from jaxresnet.files import output_file
from jaxresnet.steps import steps_per_dispatch
from scripts.benchmark_report import OURS, format_report
from scripts.contenders import Contender, jax_evaluation, jax_training, torch_trainings

CONFIG = config_flags.DEFINE_config_file("config", None, "The config file whose training is timed.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "How many times each is timed, after a first time that does not count.", 1)
AGAINST = flags.DEFINE_multi_enum("against", [], ["torch", "xla"], "What to time by turns with it; may be repeated.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Also time these batch sizes, such as 32,64,128,256,512,1024,2048.")
WIDTHS = flags.DEFINE_list("widths", [], "Also time the model with its channels times these, such as 0.5,1,2.")
OUT = flags.DEFINE_string("out", None, "A JSON file to write.")
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --out names.")


def time_by_turns(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each in each round."""
    seconds = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            _say(f"round {number} of {rounds}: {name}")
            start = time.perf_counter()
            contender.run()
            seconds[name].append((time.perf_counter() - start) / contender.steps)
    return {name: each[1:] for name, each in seconds.items()}


def measure(config: ConfigDict, against: list[str], rounds: int) -> dict[str, Any]:
    """Everything about a config but how it grows; what ``--out`` writes."""
    start = time.perf_counter()
    dataset = load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes)
    load_seconds = time.perf_counter() - start
    steps = steps_per_dispatch(config.steps_per_dispatch)
    _say("compiling")
    contenders = {OURS: jax_training(config, dataset.train, steps)}
    contenders[OURS].run()
    first_step_seconds = time.perf_counter() - START
    if "xla" in against:
        _say("compiling with XLA's convolutions")
        contenders["XLA's convolutions"] = jax_training(config, dataset.train, steps, xla=True)
    if "torch" in against:
        contenders |= torch_trainings(config, dataset.train, steps)
    seconds = time_by_turns(contenders, rounds)
    evaluation = time_by_turns({"evaluation": jax_evaluation(config, dataset.test, steps)}, rounds)["evaluation"]
    _say("a large matrix product")
    versions = {"torch": importlib.metadata.version("torch")} if "torch" in against else {}
    report = environment.describe()
    return report | {
        "config": config.name,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "steps_per_dispatch": steps,
        "flop_per_image": flop_per_image(config),
        "matrix_product_flop_per_second": matrix_product_pace(config.dtype),
        "step_seconds": seconds,
        "compile_seconds": {name: each.compile_seconds for name, each in contenders.items() if each.compile_seconds},
        "memory": {name: each.memory for name, each in contenders.items() if each.memory},
        "load_seconds": load_seconds,
        "first_step_seconds": first_step_seconds,
        "eval_batch_size": config.eval_batch_size,
        "eval_step_seconds": evaluation,
        "versions": report["versions"] | versions,
    }


def measure_growth(config: ConfigDict, batch_sizes: list[int], widths: list[float], rounds: int) -> list[dict]:
    """The training step at other batch sizes, and at other widths of the model."""
    dataset = load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes)
    variants = [{"batch_size": size} for size in batch_sizes]
    variants += [{"width": width} for width in widths]
    measured = []
    for variant in variants:
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.batch_size = variant.get("batch_size", config.batch_size)
            changed.model.channels = _widen(config, variant.get("width", 1))
        check_config(changed)
        _say(f"compiling {variant}")
        training = jax_training(changed, dataset.train, steps_per_dispatch(config.steps_per_dispatch))
        seconds = time_by_turns({str(variant): training}, rounds)[str(variant)]
        measured.append(
            variant | {"step_seconds": seconds, "memory": training.memory, "flop_per_image": flop_per_image(changed)}
        )
    return measured


def _widen(config: ConfigDict, width: float) -> tuple[int, ...]:
    return tuple(max(round(channels * width), 1) for channels in config.model.channels)


def _numbers(flag: flags.FlagHolder, kind: type) -> list:
    try:
        numbers = [kind(text) for text in flag.value]
        if all(number > 0 for number in numbers):
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
        batch_sizes, widths = _numbers(BATCH_SIZES, int), _numbers(WIDTHS, float)
        check_config(CONFIG.value)
        environment.set_up_jax()
        report = measure(CONFIG.value, AGAINST.value, ROUNDS.value)
        report["growth"] = measure_growth(CONFIG.value, batch_sizes, widths, ROUNDS.value)
        _say("")
        print(f"\n{format_report(report)}")
        if out:
            out.write(json.dumps(report, indent=2) + "\n")
            print(out.path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
