"""Structure and cost of a compiled program: what its text, and XLA's analyses of it, say of one device."""

import math
import re
from typing import Any, NamedTuple

import jax

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"(?:ENTRY )?%?(\S+) .*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\(")

# Names of collectives that send arrays. Asynchronous ones have a start, which counts, and a done.
_SENDING = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "ragged-all-to-all")


class Instruction(NamedTuple):
    """One instruction of an optimized program.

    Attributes:
        computation: name of the computation that it is in.
        name: name of its result.
        shape: type of its result, such as ``f32[128,10]{1,0}``, or a tuple of them.
        opcode: what it does, such as ``fusion``.
        line: its whole text.
    """

    computation: str
    name: str
    shape: str
    opcode: str
    line: str


class Summary(NamedTuple):
    """Structure and cost of a compiled program, on one device. Costs are per training step or evaluated batch.

    Attributes:
        peak_bytes: most memory in use at a time, arguments included.
        argument_bytes: memory of state, data set and other arguments.
        alias_bytes: memory of arguments that results reuse.
        flop: floating-point operations by the compiler's count, or None if it does not count them, as for GPUs.
        cycles: clock cycles by the compiler's estimate, or None if it gives none, as for GPUs.
        bytes: bytes read and written by the compiler's count, or ``bytes_moved`` if it does not count them.
        convolutions: number of convolutions.
        kernels: number of fusions and custom calls in a step, about the number of kernels that a GPU starts.
        loops: number of loops.
        all_reduces: number of sums over the devices.
        all_reduce_bytes: size of their results.
        all_reduce_types: types of their results.
        other_collective_bytes: size of what devices send each other beside sums.
        host_transfers: opcodes of instructions in which the host takes part.
        large_copies: shapes of copies and transposes of more than ``LARGE_COPY`` bytes.
        other_layouts: True if a GPU convolution has another layout than NHWC.
        has_float64: True if a value is of type float64.
    """

    peak_bytes: int
    argument_bytes: int
    alias_bytes: int
    flop: float | None
    cycles: int | None
    bytes: float
    convolutions: int
    kernels: int
    loops: int
    all_reduces: int
    all_reduce_bytes: int
    all_reduce_types: list[str]
    other_collective_bytes: int
    host_transfers: list[str]
    large_copies: list[str]
    other_layouts: bool
    has_float64: bool


LARGE_COPY = 10**8


def summarise(compiled: jax.stages.Compiled) -> Summary:
    """Summarise a compiled program. Counts take a loop's body once, so they are those of one step."""
    text, memory = compiled.as_text() or "", compiled.memory_analysis()
    assert memory is not None
    cost: dict[str, Any] = dict(compiled.cost_analysis() or {})
    return Summary(
        peak_bytes=memory.peak_memory_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        flop=cost.get("flops"),
        cycles=cycles(text),
        bytes=cost.get("bytes accessed", bytes_moved(text)),
        **structure(text),
    )


def structure(text: str) -> dict[str, Any]:
    """Return the fields of ``Summary`` that an optimized program's text holds."""
    every = _instructions(text)
    sums = [each.shape for each in every if each.opcode in ("all-reduce", "all-reduce-start")]
    sent = [each.shape for each in every if each.opcode.startswith(_SENDING) and not each.opcode.endswith("-done")]
    moved = [each.shape for each in every if each.opcode in ("copy", "copy-start", "transpose")]
    on_gpu = re.findall(r"window=\{.*?dim_labels=(\w+)_.*?custom_call_target=\"__cudnn\$conv", text)
    return {
        # A TPU's dense layer is a convolution too.
        "convolutions": len(on_gpu)
        or sum(each.opcode == "convolution" and "conv_general_dilated" in each.line for each in every),
        "kernels": sum(each.opcode in ("fusion", "custom-call") for each in _step(every, text)),
        "loops": sum(each.opcode == "while" for each in every),
        "all_reduces": len(sums),
        "all_reduce_bytes": sum(map(_size, sums)),
        "all_reduce_types": sorted({kind for shape in sums for kind, _ in _ARRAY.findall(shape)}),
        "other_collective_bytes": sum(map(_size, sent)),
        "host_transfers": sorted(
            {each.opcode for each in every if each.opcode in ("infeed", "outfeed", "send", "recv")}
            | {each.opcode for each in every if "MoveToHost" in each.line}
        ),
        # The shape of an asynchronous copy has source and destination.
        "large_copies": [shape for shape in moved if max(_sizes(shape), default=0) > LARGE_COPY],
        "other_layouts": any(labels != "b01f" for labels in on_gpu),
        "has_float64": "f64[" in text,
    }


def bytes_moved(text: str) -> int:
    """Sum the bytes that the instructions of a step read and write, as if no cache held any.

    Images are gathered from the uint8 array of all images. A step reads a small part of it, so it is not counted.
    """
    every = _instructions(text)
    sizes = {each.name: _size(each.shape) for each in every}
    gathered = {each.name for each in every if each.shape.startswith("u8[") and sizes[each.name] > 10**7}
    total = 0
    for each in _step(every, text):
        if each.opcode not in _FREE:
            operands = re.findall(r"%([\w.-]+)", each.line.partition(f" {each.opcode}(")[2].partition(")")[0])
            read = sum(sizes.get(name, 0) for name in operands if name not in gathered)
            total += sizes[each.name] + (sizes[each.name] if each.name.startswith("wrapped_slice") else read)
    return total


def cycles(text: str) -> int | None:
    """Sum the cycles that libtpu estimates for the instructions of a step. Return None if it gives none."""
    estimates = [re.search(r'"estimated_cycles":"(\d+)"', each.line) for each in _step(_instructions(text), text)]
    found = [int(match[1]) for match in estimates if match]
    return sum(found) if found else None


def _step(every: list[Instruction], text: str) -> list[Instruction]:
    """Return the instructions of the only loop's body, or of the whole program."""
    bodies = [match[1] for each in every if (match := re.search(r" while\(.*body=%?([^\s,)]+)", each.line))]
    entry = re.search(r"^ENTRY %?(\S+)", text, re.MULTILINE)
    step = bodies[0] if bodies else entry[1] if entry else ""
    return [each for each in every if each.computation == step]


# Instructions that name arrays and move none.
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while")


def _instructions(text: str) -> list[Instruction]:
    computation, found = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            found.append(Instruction(computation, match[1], match[2], match[3], line))
    return found


def _sizes(shape: str) -> list[int]:
    """Return the bytes of each array in a shape."""
    return [
        _BYTES.get(kind, 0) * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in _ARRAY.findall(shape)
    ]


def _size(shape: str) -> int:
    return sum(_sizes(shape))
