"""Time the training of a config: ``python scripts/benchmark.py --config=configs/final.py --against=torch``.

The training program runs on the config's data, interleaved with the rivals that ``--against`` names. ``xla`` is the
same program with XLA's own convolutions; on CPU the project has others. ``torch`` is PyTorch as the paper's authors
wrote it, and tuned. Each contender is a process, so that its memory and threads do not disturb the others. Results are
medians over the rounds, without a warm-up round. Every timing ends when the result is ready. ``JAX_PLATFORMS`` selects
the device and ``--config.dtype=bfloat16`` the type.
"""

import argparse
import json
import math
import pathlib
import sys
from typing import Any, TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/ and scripts/

from ml_collections import ConfigDict

from jaxresnet import cli
from jaxresnet.config import check_config, get_config
from jaxresnet.data.loading import load_dataset
from jaxresnet.system.errors import UsageError, UserError, user_path
from jaxresnet.system.files import output_file
from scripts import turns
from scripts.benchmark_report import format_report
from scripts.contenders import EVALUATION, OURS, TORCH, XLA

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


def _numbers(flag: str, text: str, kind: type[Number]) -> list[Number]:
    try:
        numbers = [kind(number) for number in text.split(",") if number]
        if all(0 < number < math.inf for number in numbers):
            return numbers
    except ValueError:
        pass
    raise UsageError(f"{flag}={text}: expected positive numbers, with commas between them")


def _say(text: str) -> None:
    print(f"\r{text:<70}", file=sys.stderr, end="", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the benchmark that the flags describe."""
    out = output_file("--out", arguments.out, arguments.force, (".json",)) if arguments.out else None
    profile = user_path(arguments.profile) if arguments.profile else None
    batch_sizes = _numbers("--batch_sizes", arguments.batch_sizes, int)
    widths = _numbers("--widths", arguments.widths, float)
    config = get_config(arguments.config, arguments.overrides)
    check_batch_sizes(config, batch_sizes)
    variants = vary(config, batch_sizes, widths)
    report = measure(config, arguments.against, arguments.rounds, profile)
    report["growth"] = measure_growth(variants, arguments.rounds)
    _say("")
    print(f"\n{format_report(report)}")
    if out:
        out.write(json.dumps(report, indent=2) + "\n")
        print(out.path)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("scripts.benchmark", __doc__)
    parser.add_config("config file whose training is timed")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, after one warm-up round (default: 7)")
    against = "rival to time, interleaved; may be repeated"
    parser.add_argument("--against", action="append", default=[], choices=("torch", "xla"), help=against)
    parser.add_argument("--batch_sizes", default="", help="also time these batch sizes, such as 32,64,128,256,512")
    parser.add_argument("--widths", default="", help="also time the model with its channels times these, as in 0.5,2")
    parser.add_argument("--out", help="JSON file for the measurements")
    parser.add_argument("--profile", help="folder for a profile of one dispatch")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --out names")
    cli.run(run, parser, argv)


if __name__ == "__main__":
    main()
