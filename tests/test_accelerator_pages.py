"""The pages on accelerators have the figures of the compilers' records."""

import json

import pytest

from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "results" / "measurements"
EPOCHS, FULL_STEPS, EVALUATIONS = 200, 390, 10


def records_of(name):
    programs = json.loads((RESULTS / f"{name}.json").read_text())["programs"]
    return {(each["target"], each["dtype"], each["name"], each["steps"]): each for each in programs}


COMPILED, FULL_EFFORT = records_of("compiled"), records_of("full-effort")


def training(records, target, dtype):
    return records[target, dtype, "train", 130]


def minutes(records, target, dtype, field):
    """Return the time of 200 epochs: of full steps, smaller last steps and batches of the evaluation."""
    full, last, evaluation = (
        records[target, dtype, *key][field] for key in (("train", 130), ("train", 1), ("evaluate", 10))
    )
    return EPOCHS * (FULL_STEPS * full + last + EVALUATIONS * evaluation) / 60


def row(*cells):
    return f"| {' | '.join(cells)} |"


def megabytes(size):
    return f"{size / 1e6:,.0f} MB"


def gpu_rows():
    for dtype in ("bfloat16", "float32"):
        record = training(COMPILED, "h100:1", dtype)
        yield row(
            dtype,
            megabytes(record["peak_bytes"]),
            f"{record['bytes'] / 1e9:.1f} GB",
            f"{1000 * record['roofline_seconds']:.1f} ms",
            f"{minutes(COMPILED, 'h100:1', dtype, 'roofline_seconds'):.1f} minutes",
        )


def tpu_rows():
    for target in ("v5e:1x1", "v5e:2x4", "v6e:1x1", "v6e:2x2"):
        for dtype in ("bfloat16", "float32"):
            record = training(COMPILED, target, dtype)
            yield row(
                target,
                dtype,
                megabytes(record["peak_bytes"]),
                f"{record['flop'] / 1e9:,.0f}",
                f"{record['bytes'] / 1e9:.1f} GB",
                f"{1000 * record['roofline_seconds']:.1f} ms",
                f"{minutes(COMPILED, target, dtype, 'roofline_seconds'):.1f} minutes",
            )


def full_effort_rows():
    for target in sorted({target for target, *_ in FULL_EFFORT}):
        record = training(FULL_EFFORT, target, "bfloat16")
        yield row(
            target,
            "bfloat16",
            megabytes(record["peak_bytes"]),
            f"{record['bytes'] / 1e9:.1f} GB",
            f"{1000 * record['estimate_seconds']:.1f} ms",
            f"{minutes(FULL_EFFORT, target, 'bfloat16', 'estimate_seconds'):.1f} minutes",
        )


# Kinds of instructions of a bfloat16 step on one H100, and what of their bytes could be saved.
PASSES = {
    "backward select_n": (
        "ReLU's gradient, summed with that of the shortcut",
        "It recomputes ReLU's input from the convolution's output and the shortcut. It could read ReLU's output.",
    ),
    "backward convert_element_type": ("BatchNorm's gradient by its input", "nothing: two reads and a write"),
    "forward max": (
        "BatchNorm, shortcut, ReLU",
        "the write, where the next convolution is the only reader: it could apply BatchNorm and ReLU to its input",
    ),
    "convForward": ("convolutions", "nothing"),
    "convBackwardFilter": ("convolutions' gradients by their kernels", "nothing"),
    "backward reduce_sum": (
        "BatchNorm's gradients by scale and bias",
        "one of two reads: the kernel before could sum what it writes",
    ),
    "convBackwardInput": ("convolutions' gradients by their inputs", "nothing"),
    "forward reduce_sum": ("BatchNorm's mean and variance", "all: the convolution could sum what it writes"),
    "add": ("optimizer", "nothing"),
}


def pass_rows():
    traffic = training(COMPILED, "h100:1", "bfloat16")["traffic"]
    assert list(traffic) == list(PASSES)
    for kind, (name, saving) in PASSES.items():
        yield row(name, f"{traffic[kind] / 1e6:,.0f}", saving)


def scaling_rows():
    for target in ("h100:8", "v5e:4x8"):
        for dtype in ("float32", "bfloat16"):
            record = training(COMPILED, target, dtype)
            yield row(
                target,
                dtype,
                megabytes(record["argument_bytes"]),
                megabytes(record["peak_bytes"]),
                f"{record['all_reduces']}",
                f"{record['all_reduce_bytes'] / 1e6:.1f} MB",
                f"{record['other_collective_bytes'] / 1e6:.1f} MB",
            )


TABLES = {
    "H100": ("gpu.md", gpu_rows),
    "PASSES": ("gpu.md", pass_rows),
    "TPU": ("tpu.md", tpu_rows),
    "FULL": ("tpu.md", full_effort_rows),
    "SCALING": ("scaling.md", scaling_rows),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_have_the_recorded_figures(table):
    name, rows = TABLES[table]
    assert "\n" + "\n".join(rows()) + "\n\n" in (REPOSITORY / "docs" / name).read_text()


def test_sentences_have_the_recorded_figures():
    names = ("gpu.md", "tpu.md", "scaling.md")
    pages = {name: (REPOSITORY / "docs" / name).read_text().replace("\n", " ") for name in names}
    many, few = (training(COMPILED, target, "bfloat16")["bytes"] / 1e9 for target in ("v5e:4x8", "v5e:2x4"))
    assert f"16 images: {many:.2f} GB instead of {few:.2f} (compiler" in pages["scaling.md"]
    h100, v5e = (training(COMPILED, target, "bfloat16") for target in ("h100:1", "v5e:1x1"))
    assert f"A step is {h100['kernels'] - h100['convolutions']} fusions and 74 convolutions" in pages["gpu.md"]
    assert f"moved 4.44 GB instead of {h100['bytes'] / 1e9:.2f}." in pages["gpu.md"]
    assert f"moved 3.41 GB instead of {v5e['bytes'] / 1e9:.2f}." in pages["gpu.md"]
    assert f"A bfloat16 step on a v5e moves {v5e['bytes'] / 1e9:.1f} GB" in pages["tpu.md"]
    assert f"direction: {v5e['traffic']['forward add'] / 1e9:.1f} GB" in pages["tpu.md"]
    seconds = [FULL_EFFORT["v5e:1x1", "bfloat16", "train", steps]["compile_seconds"] for steps in (130, 1)]
    assert f"libtpu took {seconds[0]:.0f} s for the training program of a v5e and {seconds[1]:.0f} s" in pages["tpu.md"]
