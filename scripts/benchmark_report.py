"""Formatting of ``benchmark.py``'s measurements as Markdown."""

import statistics
from typing import Any

from jaxresnet.system.terminal import format_seconds
from scripts.contenders import OURS

_HEADER = ("step", "processor time", "page faults", "images/s", "TFLOP/s", "of the ceiling")


def format_report(report: dict[str, Any]) -> str:
    """Format the measurements as Markdown tables."""
    batch_size, ceiling = report["batch_size"], report["matrix_product_flop_per_second"]
    ours = report["contenders"][OURS]
    lines = _table("", *_HEADER, "time relative to ours (least to most)")
    for name, cost in report["contenders"].items():
        ratios = cost["relative"]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        speed = _speed(cost, batch_size, report["flop_per_image"], ceiling)
        lines.append(f"| {name} | {speed} | {'1' if name == OURS else spread} |")
    facts = {name: cost for name, cost in report["contenders"].items() if "compile_seconds" in cost}
    compiling = ", ".join(f"{name} {cost['compile_seconds']:.1f} s" for name, cost in facts.items())
    memory = ", ".join(f"{name} {cost['memory'] / 2**30:.2f} GiB" for name, cost in facts.items() if "memory" in cost)
    devices = "" if ours["device_count"] == 1 else f", {ours['device_count']} devices"
    evaluation = report["evaluation"]
    rows = {
        "device": f"{ours['device']}{devices}, {report['dtype']}, batch size {batch_size}",
        "ceiling, a large matrix product": f"{ceiling / 1e12:.3g} TFLOP/s",
        "steps per dispatch": ours["steps_per_dispatch"],
        "compilation": compiling,
        "memory per device, data set included": memory,
        "start of the program to the end of the first dispatch": format_seconds(ours["first_step_seconds"]),
        "of that, reading the data": f"{ours['load_seconds']:.2f} s",
        "evaluation": f"{evaluation['batch_size'] / statistics.median(evaluation['wall_seconds']):,.0f} images/s",
    }
    lines += ["", *_table("", ""), *(f"| {name} | {value} |" for name, value in rows.items())]
    if report["growth"]:
        lines += ["", *_table("", *_HEADER, "memory")]
    for each in report["growth"]:
        name, size = next((name.replace("_", " "), each[name]) for name in ("batch_size", "width") if name in each)
        if "error" in each:
            lines.append(f"| {name} {size:g} | {each['error']} |" + " |" * len(_HEADER))
            continue
        speed = _speed(each, each.get("batch_size", batch_size), each["flop_per_image"], ceiling)
        used = f"{each['memory'] / 2**30:.2f} GiB" if each["memory"] else "unknown"
        lines.append(f"| {name} {size:g} | {speed} | {used} |")
    return "\n".join(lines)


def _table(*header: str) -> list[str]:
    return [f"| {' | '.join(header)} |".replace("|  ", "| "), "| " + "--- | " * (len(header) - 1) + "--- |"]


def _speed(cost: dict[str, Any], batch_size: int, flop: float, ceiling: float) -> str:
    wall, processor, faults = (
        statistics.median(cost[name]) for name in ("wall_seconds", "processor_seconds", "page_faults")
    )
    pace = flop * batch_size / wall
    times = " | ".join(
        f"{1e3 * seconds:,.0f} ms" if seconds > 0.02 else f"{1e3 * seconds:.2f} ms" for seconds in (wall, processor)
    )
    return f"{times} | {faults:,.0f} | {batch_size / wall:,.0f} | {pace / 1e12:.3g} | {pace / ceiling:.0%}"
