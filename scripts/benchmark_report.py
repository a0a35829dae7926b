"""What ``benchmark.py`` measured, as Markdown."""

import statistics
from typing import Any

from jaxresnet.metrics import format_seconds

OURS = "jaxresnet"


def format_report(report: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    batch_size, ceiling = report["batch_size"], report["matrix_product_flop_per_second"]
    lines = ["| | step | images/s | TFLOP/s | of the ceiling | time relative to ours (least to most) |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, seconds in report["step_seconds"].items():
        ratios = [each / ours for each, ours in zip(seconds, report["step_seconds"][OURS], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        ratio = "1" if name == OURS else spread
        lines.append(f"| {name} | {_speed(seconds, batch_size, report['flop_per_image'], ceiling)} | {ratio} |")
    compiling = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["compile_seconds"].items())
    memory = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in report["memory"].items())
    devices = "" if report["device_count"] == 1 else f", {report['device_count']} devices"
    rows = {
        "device": f"{report['device']}{devices}, {report['dtype']}, batch size {batch_size}",
        "ceiling, a large matrix product": f"{ceiling / 1e12:.3g} TFLOP/s",
        "steps a dispatch": report["steps_per_dispatch"],
        "compilation": compiling,
        "memory a device, data set included": memory,
        "start of the program to the end of the first dispatch": format_seconds(report["first_step_seconds"]),
        "of that, reading the data": f"{report['load_seconds']:.2f} s",
        "evaluation": f"{report['eval_batch_size'] / statistics.median(report['eval_step_seconds']):,.0f} images/s",
    }
    lines += ["", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    if report["growth"]:
        lines += [
            "",
            "| | step | images/s | TFLOP/s | of the ceiling | memory |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    for each in report["growth"]:
        name, size = next((name.replace("_", " "), each[name]) for name in ("batch_size", "width") if name in each)
        if "error" in each:
            lines.append(f"| {name} {size:g} | {each['error']} | | | | |")
            continue
        speed = _speed(each["step_seconds"], each.get("batch_size", batch_size), each["flop_per_image"], ceiling)
        lines.append(f"| {name} {size:g} | {speed} | {each['memory'] / 2**30:.2f} GiB |")
    return "\n".join(lines)


def _speed(seconds: list[float], batch_size: int, flop: float, ceiling: float) -> str:
    median = statistics.median(seconds)
    pace = flop * batch_size / median
    step = f"{1e3 * median:,.0f} ms" if median > 0.02 else f"{1e3 * median:.2f} ms"
    return f"{step} | {batch_size / median:,.0f} | {pace / 1e12:.3g} | {pace / ceiling:.0%}"
