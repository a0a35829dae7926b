"""Time the training of a config: ``python scripts/benchmark.py --config=configs/final.py --against=torch``.

The training program runs on the config's data, interleaved with the rivals that ``--against`` names. ``xla`` is the
same program with XLA's own convolutions; on CPU the project has others. ``torch`` is PyTorch as the paper's authors
wrote it, and tuned. Each contender is a process, so that its memory and threads do not disturb the others. Results are
medians over the rounds, without a warm-up round. Every timing ends when the result is ready. ``JAX_PLATFORMS`` selects
the device and ``--config.dtype=bfloat16`` the type.
"""

import json
import math
import pathlib
import sys
from typing import Any, TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/ and scripts/

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.data.loading import load_dataset
from jaxresnet.system.atomic_files import output_file
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.config import check_config
from scripts import turns
from scripts.benchmark_report import format_report
from scripts.contenders import EVALUATION, OURS, TORCH, XLA

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file whose training is timed.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds, after one warm-up round.", 1)
AGAINST = flags.DEFINE_multi_enum("against", [], ["torch", "xla"], "Rivals to time, interleaved. May be repeated.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Also time these batch sizes, such as 32,64,128,256,512,1024,2048.")
WIDTHS = flags.DEFINE_list("widths", [], "Also time the model with its channels times these, such as 0.5,1,2.")
OUT = flags.DEFINE_string("out", None, "JSON file for the measurements.")
PROFILE = flags.DEFINE_string("profile", None, "Folder for a profile of one dispatch.")
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --out names.")

Number = TypeVar("Number", int, float)


def measure(config: ConfigDict, against: list[str], rounds: int, profile: pathlib.Path | None) -> dict[str, Any]:
    """Measure a config: its training, the rivals' training, and its evaluation.

    If ``profile`` is given, a profile of one dispatch is written to that folder.
    """
    with turns.started(config, OURS, _say) as ours:
        platform = ours.facts["platform"]
        if "torch" in against and platform not in TORCH:
            raise UserError(f"--against=torch: PyTorch is timed on {' and '.join(TORCH)}, but JAX runs on {platform}")
        if "xla" in against and platform == "tpu":
            raise UserError("--against=xla: on TPU all convolutions are XLA's; leave it out")
        rivals = list(TORCH[platform]) if "torch" in against else []
        rivals += [XLA] if "xla" in against else []
        costs = turns.compare(config, ours, rivals, rounds, _say)
        if profile:
            ours.ask(f"profile {profile.resolve()}")
        _say("a large matrix product")
        ceiling = ours.ask(f"ceiling {config.dtype}")
    with turns.started(config, EVALUATION, _say) as evaluation:
        evaluated = turns.take_turns({EVALUATION: evaluation}, rounds, _say)[EVALUATION]
    return {
        "config": config.name,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "flop_per_image": ours.facts["flop_per_image"],
        "matrix_product_flop_per_second": ceiling,
        "contenders": costs,
        "evaluation": evaluation.facts | turns.describe(evaluated),
    }


def check_batch_sizes(config: ConfigDict, others: list[int]) -> None:
    """Check that no batch is larger than the training set.

    Raises:
        UserError: a batch size is too large, or the data cannot be read.
    """
    size = len(load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes).train)
    for batch_size in [config.batch_size, *others]:
        if batch_size > size:
            raise UserError(f"batch size {batch_size} is larger than the {size:,} training images; give a smaller one")


def vary(config: ConfigDict, batch_sizes: list[int], widths: list[float]) -> list[tuple[dict[str, float], ConfigDict]]:
    """Create configs with other batch sizes and other widths of the model.

    Returns:
        Pairs of the changed field, ``batch_size`` or ``width``, and the config.

    Raises:
        UserError: a config is invalid.
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


def measure_growth(variants: list[tuple[dict[str, float], ConfigDict]], rounds: int) -> list[dict[str, Any]]:
    """Measure the training step of each variant. If one fails, such as for lack of memory, record its error."""
    measured = []
    for variant, config in variants:
        growth: dict[str, Any] = {**variant}
        try:
            with turns.started(config, OURS, _say) as process:
                growth |= {name: process.facts.get(name) for name in ("memory", "flop_per_image")}
                growth |= turns.describe(turns.take_turns({str(variant): process}, rounds, _say)[str(variant)])
        except UserError as error:
            growth |= {"error": str(error)}
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
    print(f"\r{text:<70}", file=sys.stderr, end="", flush=True)


def main(argv: list[str]) -> None:
    """Run the benchmark that the flags describe."""
    with cli.command():
        cli.refuse_arguments(argv)
        out = output_file("--out", OUT.value, FORCE.value, (".json",)) if OUT.value else None
        profile = user_path(PROFILE.value) if PROFILE.value else None
        batch_sizes, widths = _numbers(BATCH_SIZES, int), _numbers(WIDTHS, float)
        config = CONFIG.value
        check_config(config)
        check_batch_sizes(config, batch_sizes)
        variants = vary(config, batch_sizes, widths)
        report = measure(config, AGAINST.value, ROUNDS.value, profile)
        report["growth"] = measure_growth(variants, ROUNDS.value)
        _say("")
        print(f"\n{format_report(report)}")
        if out:
            out.write(json.dumps(report, indent=2) + "\n")
            print(out.path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
