"""Compile the final model's programs for accelerators that are not here.

    .venv-aot/bin/python -m scripts.compile_for h100:1 v5e:2x4

XLA's compilers for GPUs and TPUs run on any Linux machine. ``make .venv-aot/installed`` installs them.
A target is a kind of device and their number (``h100:8``) or arrangement
(``v5e:1x1``, ``v6e:2x2``). For each target and type, three programs are compiled: a dispatch of training, an epoch's
smaller last batch, and the evaluation. Each is checked, and a table shows what it costs. Nothing is run, so times are
estimates.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from configs import final
from jaxresnet import cli
from jaxresnet.core.costs import flop_by_epoch
from jaxresnet.core.programs import DeviceSplit, create_mesh, jit_steps
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.state import create_train_state, create_transform
from jaxresnet.data.cifar import IMAGE_SHAPE
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.system.files import output_file, write_whole
from scripts.compiled_program import LARGE_COPY, Summary, summarise

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of device, with the figures of its data sheet.

    Attributes:
        flop_per_second: peak of matrix products, by type of the values.
        bytes_per_second: bandwidth of its memory.
        packages: packages that compile for it.
        cycles_per_second: clock, if the compiler estimates cycles.
    """

    flop_per_second: dict[str, float]
    bytes_per_second: float
    packages: tuple[str, ...]
    cycles_per_second: float | None = None


# Data sheets of NVIDIA (H100 SXM, without sparsity; float32 is TF32) and Google Cloud. By default JAX rounds float32 to
# bfloat16 in a TPU's products. A v5e's clock is its peak divided by the operations per cycle of four matrix units of
# 128x128 multiply-adds. A v6e's clock is assumed, because sources differ on the number of its units.
KINDS = {
    "h100": Kind({"float32": 494.7e12, "bfloat16": 989.4e12}, 3.35e12, ("jax-cuda13-plugin", "jax-cuda13-pjrt")),
    "v5e": Kind(dict.fromkeys(DTYPES, 197e12), 819e9, ("libtpu",), 1.5e9),
    "v6e": Kind(dict.fromkeys(DTYPES, 918e12), 1640e9, ("libtpu",), 1.75e9),
}

# libtpu optimizes for minutes by default. With less effort the structure is the same, but not schedule and memory.
QUICK: Any = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}

MAX_PEAK_BYTES = {"float32": 1.4e9, "bfloat16": 0.8e9}  # of any device; in November 2026 at most 1.26 and 0.73 GB
MAX_OTHER_COLLECTIVES = 2**20  # bytes; an activation is larger


class Program(NamedTuple):
    """One of the programs of a run.

    Attributes:
        name: ``"train"`` or ``"evaluate"``.
        steps: steps of a dispatch.
        batch: images of a step.
        images: images of the split.
    """

    name: str
    steps: int
    batch: int
    images: int

    def __str__(self) -> str:
        return f"{self.name} {self.steps}x{self.batch}"


def programs_of(config: ConfigDict, train_images: int = 50_000, test_images: int = 10_000) -> tuple[Program, ...]:
    """Return the programs of a run: training, its last batch of an epoch, and the evaluation."""
    return (
        Program("train", config.steps_per_dispatch, config.batch_size, train_images),
        Program("train", 1, train_images % config.batch_size, train_images),
        Program("evaluate", -(-test_images // config.eval_batch_size), config.eval_batch_size, test_images),
    )


def lower(
    config: ConfigDict, mesh: Mesh | AbstractMesh, program: Program, platforms: tuple[str, ...] | None = None
) -> tuple[jax.stages.Lowered, int]:
    """Lower a program for the devices of ``mesh``, as training would.

    Args:
        config: config of the run.
        mesh: mesh of devices, which may be abstract or a topology's.
        program: program to lower.
        platforms: platforms to lower for, needed for an abstract mesh.

    Returns:
        The program, and the size of the state in bytes.
    """
    height, width, channels = IMAGE_SHAPE
    state = jax.eval_shape(lambda: create_train_state(config, IMAGE_SHAPE))
    split = DeviceSplit(
        jax.ShapeDtypeStruct((program.images, height * width * channels), jnp.uint8),
        jax.ShapeDtypeStruct((program.images,), jnp.int32),
        IMAGE_SHAPE,
    )
    indices = jax.ShapeDtypeStruct((program.steps, program.batch), jnp.int32)
    rates: Any = jax.ShapeDtypeStruct((program.steps,), jnp.float32)
    per_step = {
        "train": Hyperparams(learning_rate=rates, momentum=rates),
        "evaluate": jax.ShapeDtypeStruct(indices.shape, jnp.bool_),
    }
    steps: Any = jit_steps(create_transform(config), mesh)
    traced = getattr(steps, program.name).trace(state, split, indices, per_step[program.name])
    arrays = [leaf for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
    return traced.lower(lowering_platforms=platforms), size


def failures(program: Program, dtype: str, devices: int, state_bytes: int, summary: Summary) -> list[str]:
    """Return a line per property that a compiled program should have and has not."""
    is_training = program.name == "train"
    convolutions = {"train": 74, "evaluate": 25}[program.name]  # 25 layers; all but the first have two gradients
    loops = summary.loops - (program.steps > 1)
    checks = [
        (summary.convolutions == convolutions, f"{summary.convolutions} convolutions, expected {convolutions}"),
        (not summary.other_layouts, "a convolution is not in NHWC, so arrays are transposed"),
        (loops == 0, f"{loops} loops besides the one over steps, so an operation takes one image at a time"),
        (not summary.has_float64, "float64 values, expected none"),
        (not summary.host_transfers, f"the host takes part: {', '.join(summary.host_transfers)}"),
        (not summary.large_copies, f"copies of more than {LARGE_COPY / 1e6:.0f} MB: {', '.join(summary.large_copies)}"),
        (not is_training or summary.alias_bytes >= state_bytes, "the state's memory is not used again"),
        (devices == 1 or not is_training or summary.all_reduces > 0, "devices do not sum their gradients"),
        (
            set(summary.all_reduce_types) <= {"f32", "s32"},
            f"values of {dtype} are summed in {', '.join(summary.all_reduce_types)}, expected float32",
        ),
        (
            summary.other_collective_bytes < MAX_OTHER_COLLECTIVES,
            f"devices send each other {summary.other_collective_bytes / 1e6:.1f} MB besides sums, expected less than 1",
        ),
        (
            summary.peak_bytes < MAX_PEAK_BYTES[dtype],
            f"{summary.peak_bytes / 1e6:,.0f} MB at the peak, expected at most {MAX_PEAK_BYTES[dtype] / 1e6:,.0f}",
        ),
    ]
    return [message for holds, message in checks if not holds]


def topology(target: str) -> Sequence[jax.Device]:
    """Return the devices of a target such as ``h100:8`` or ``v5e:2x4``, which need not be here.

    Raises:
        UserError: unknown target, or the package that compiles for it is missing or of another version.
    """
    match = re.fullmatch(r"(\w+):(\d+|\d+x\d+)", target)
    if not match or match[1] not in KINDS or (match[1] == "h100") == ("x" in match[2]):
        raise UserError(
            f"{target!r} is not a known target; expected a number of GPUs, such as h100:8, or an arrangement of TPUs, "
            "such as v5e:2x4 or v6e:1x1"
        )
    kind, size = match.groups()
    for package in KINDS[kind].packages:
        _check_version(package)
    # libtpu asks the cloud for these, and admits one process per machine, unless they are set.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        if kind == "h100":
            description = pathlib.Path(__file__).with_name("h100.txtpb").read_text(encoding="utf-8")
            return topologies.get_topology_desc(kind, "cuda", target_config=description, topology=f"1x1x{size}").devices
        one_chip: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if size == "1x1" else {}
        return topologies.get_topology_desc(target, "tpu", **one_chip).devices
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(f"{target}: the compiler has no such target ({one_line(error)})") from error


def _check_version(package: str) -> None:
    """Check that a compiler's package is installed in the version that JAX asks for."""
    expected = importlib.metadata.version("jax")
    if package == "libtpu":
        (expected,) = re.findall(r"libtpu==([\d.]*\d)", " ".join(importlib.metadata.requires("jax") or []))
    install = "run make .venv-aot/installed, and then .venv-aot/bin/python -m scripts.compile_for"
    try:
        actual = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{package} {expected} is not installed; {install}") from None
    if actual != expected and not actual.startswith(f"{expected}."):
        raise UserError(f"{package} is {actual}, but this JAX needs {expected}; {install}")


def compile_programs(target: str, dtype: str, full_effort: bool) -> list[dict[str, Any]]:
    """Compile and check the programs of the final model for a target.

    Returns:
        A record for each program: what was compiled, its ``Summary``, and ``failures``.

    Raises:
        UserError: see ``topology``.
    """
    config = final.get_config()
    config.dtype = dtype
    mesh = create_mesh(topology(target))
    kind, records = KINDS[target.partition(":")[0]], []
    for program in programs_of(config):
        lowered, state_bytes = lower(config, mesh, program)
        start = time.perf_counter()
        quick = "libtpu" in kind.packages and not full_effort
        compiled = lowered.compile(compiler_options=QUICK if quick else None)
        seconds = time.perf_counter() - start
        summary = summarise(compiled)
        flop = summary.flop or flop_of(config, program) / mesh.size
        records.append(
            {"target": target, "devices": mesh.size, "dtype": dtype, "effort": "quick" if quick else "full"}
            | program._asdict()
            | {"state_bytes": state_bytes, "compile_seconds": round(seconds, 1)}
            | {"estimate_seconds": _seconds(summary.cycles, kind) if full_effort else None}
            | {"roofline_seconds": roofline(kind, dtype, flop, summary.bytes)}
            | summary._asdict()
            | {"failures": failures(program, dtype, mesh.size, state_bytes, summary)}
        )
    return records


def _seconds(cycles: int | None, kind: Kind) -> float | None:
    """Return the time of libtpu's cycles. With less than full effort they are not those of training."""
    return None if cycles is None or kind.cycles_per_second is None else cycles / kind.cycles_per_second


def flop_of(config: ConfigDict, program: Program) -> float:
    """Return the floating-point operations of a step: two per multiply-add, and three times as many in training."""
    per_image = np.mean(flop_by_epoch(config, IMAGE_SHAPE))
    return program.batch * (per_image if program.name == "train" else per_image / 3)


def roofline(kind: Kind, dtype: str, flop: float, size: float) -> float:
    """Return the time of a step's operations or of its bytes in seconds, whichever is longer.

    Devices reach less than these rates. Bytes that stay on the chip take less time.
    """
    return max(flop / kind.flop_per_second[dtype], size / kind.bytes_per_second)


COLUMNS = {
    "compiled in": lambda record: f"{record['compile_seconds']:.0f} s",
    "memory": lambda record: f"{record['peak_bytes'] / 1e6:,.0f} MB",
    "GFLOP": lambda record: "?" if record["flop"] is None else f"{record['flop'] / 1e9:,.0f}",
    "GB": lambda record: f"{record['bytes'] / 1e9:.2f}",
    "estimate": lambda record: _milliseconds(record["estimate_seconds"]),
    "roofline": lambda record: _milliseconds(record["roofline_seconds"]),
    "convolutions": lambda record: f"{record['convolutions']}",
    "kernels": lambda record: f"{record['kernels']:,}",
    "sums": lambda record: f"{record['all_reduces']}",
    "of": lambda record: f"{record['all_reduce_bytes'] / 1e6:.1f} MB",
    "other": lambda record: f"{record['other_collective_bytes'] / 1e6:.1f} MB",
}
HEADER = f"{'target':<9} {'type':<8} {'program':<17}" + "".join(f" {name:>12}" for name in COLUMNS)


def _milliseconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{1000 * seconds:.2f} ms"


def format_record(record: dict[str, Any]) -> str:
    """Return a line of the table, and a line per failed check."""
    program = str(Program(*(record[field] for field in Program._fields)))
    line = f"{record['target']:<9} {record['dtype']:<8} {program:<17}"
    line += "".join(f" {cell(record):>12}" for cell in COLUMNS.values())
    return "\n".join([line, *(f"  not as expected: {failure}" for failure in record["failures"])])


def run(arguments: argparse.Namespace) -> None:
    """Compile for the targets that the flags name, and print a table."""
    output = output_file("--json", arguments.json, arguments.force, [".json"]) if arguments.json else None
    jax.config.update("jax_platforms", "cpu")  # the devices that are compiled for are not here
    records = []
    for target in arguments.targets:
        topology(target)  # Unknown ones are refused before minutes of work.
    print(
        f"Costs are per device and step. The roofline is computed from the rates of data sheets.\n{HEADER}", flush=True
    )
    for target in arguments.targets:
        for dtype in arguments.dtypes:
            for record in compile_programs(target, dtype, arguments.full_effort):
                print(format_record(record), flush=True)
                records.append(record)
    if output:
        compilers = {name for target in arguments.targets for name in KINDS[target.partition(":")[0]].packages}
        versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", *sorted(compilers))}
        facts = {"versions": {"python": platform.python_version()} | versions, "programs": records}
        write_whole(output, json.dumps(facts, indent=1) + "\n")
    if failed := [record for record in records if record["failures"]]:
        raise UserError(f"{len(failed)} of {len(records)} programs are not as expected; see above")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("scripts.compile_for", __doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="such as h100:8 or v5e:2x4")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="types to compute in")
    parser.add_argument("--full_effort", action="store_true", help="let libtpu optimize as for training, for minutes")
    parser.add_argument("--json", help="JSON file for the figures")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --json names")
    cli.run(run, parser, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
