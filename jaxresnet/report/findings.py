"""The report's opening: what the runs say of the paper's claims, and how far they keep its order."""

import math
import statistics
from typing import Any

from jaxresnet.report.claims import CLAIMS, CORRECTIONS, Claim
from jaxresnet.report.groups import Group
from jaxresnet.report.page import Page, anchor, table
from jaxresnet.report.spread import Spread
from jaxresnet.report.tables import Table
from jaxresnet.report.verdicts import Finding, RankCorrelation, judge, rank_correlation

HOW_TO_READ = "How to read the tables"
# Points by which arms may differ and still score the same. At full length, the paper's five rows of Table 7 span 0.20.
FULL_MARGIN, SMALL_MARGIN = 0.25, 1.0


def add_findings(page: Page, tables: list[Table]) -> None:
    """Append the findings: a row per claim, then a row per table."""
    by_name = {each.name: each for each in tables}
    page.add("## Findings")
    compared = []
    for claims, heading in ((CLAIMS, "claim of the paper"), (CORRECTIONS, "about corrected and new arms")):
        rows = []
        for claim in claims:
            if each := by_name.get(claim.table):
                finding, groups, is_full = judge_claim(claim, each)
                verdict, values = (finding.verdict, finding.range) if finding else ("not run", "")
                rows.append([claim.text, verdict, values, _link(each, is_full)])
                if finding and not claim.equal:
                    compared += [any(groups[arm].name == "baseline" for arm in pair) for pair in claim.pairs]
        page.add(
            table([heading, "found here", "how sure: difference ± 95% interval, points", "more"], rows, is_text=True)
        )
    page.add(_how_to_judge(compared))
    small = {group.name: group for each in tables for group in each.small.values()}
    if limits := _limits(small, tables[0].small_spread):
        page.add(limits)
    rows = []
    for each in tables:
        printed = each.printed()
        groups, spread, is_full = each.evidence(printed)
        ours = {arm: group.accuracy("last") for arm, group in groups.items()}
        if correlation := rank_correlation(printed, ours, spread):
            rows.append([_link(each, is_full), str(correlation.arms), *_order(correlation)])
    if rows:
        page.add("How far the arms keep the order of the paper's table:")
        page.add(table(["table", "arms", "rank correlation", "95% interval", "by chance"], rows))
        page.add(
            "The rank correlation is Kendall's: 1 for the paper's order, -1 for the reversed one. The interval is over "
            "the spread of our seeds. The paper has one run per arm, whose spread is not known. **By chance** is the "
            "probability of a correlation at least as high if the order were random."
        )


def judge_claim(claim: Claim, each: Table) -> tuple[Finding | None, dict[str, Group], bool]:
    """Judge a claim from the runs of its table.

    Returns:
        The finding, or None if an arm of the claim has no run; the runs by arm; and True if they have full length.
    """
    groups, spread, is_full = each.evidence({arm for pair in claim.pairs for arm in pair})
    accuracies = {arm: group.accuracy("last") for arm, group in groups.items()}
    return judge(claim, accuracies, spread, FULL_MARGIN if is_full else SMALL_MARGIN), groups, is_full


def _how_to_judge(compared: list[bool]) -> str:
    """Explain the verdicts. There is an item for each comparison, which is True if it is with the baseline."""
    text = (
        "Verdicts rest on the small study unless they say full length. A difference counts if its interval leaves out "
        f"0. Arms score the same if they differ by at most {SMALL_MARGIN:g} point, at full length {FULL_MARGIN:g}. "
        "Such a claim holds if all of each interval is within that, and does not hold if all of one is beyond it. "
        f"[{HOW_TO_READ}](#{anchor(HOW_TO_READ)}) says what the interval is."
    )
    if compared:
        text += (
            f" If no arm differed from another, about {len(compared) / 20:.0f} of {len(compared)} comparisons would "
            f"count by chance. {sum(compared)} of them are with the baseline, whose runs move them together."
        )
    return text


def _limits(small: dict[str, Group], spread: Spread) -> str:
    """Say what the small study can say of full length, from its runs by experiment. The text is empty without it."""
    if "baseline" not in small:
        return ""
    text = (
        "**What the small study can say.** It has small networks, a tenth of the training images, a tenth of the "
        "epochs, and so a hundredth of the steps."
    )
    if curves := small["baseline"].training_curves()[1]:
        last = statistics.fmean(curve[-1] for curve in curves)
        text += (
            f" Its baseline ends at a training accuracy of {last:.0f}%, the paper's at 100%. Crops and dropout keep a "
            "network from fitting its images too well, so they can cost accuracy there and gain some at full length."
        )
    if {"resnet18", "batch_size/16"} <= small.keys():
        larger = _of_summary(small["resnet18"], "parameters") / _of_summary(small["baseline"], "parameters")
        steps, base = (_of_summary(small[name], "last")["step"] for name in ("batch_size/16", "baseline"))
        text += (
            f" Small batches can gain from taking more steps: {steps:,} at 16 images, {base:,} at 128. The small "
            f"ResNet-18 has {larger:.1f} times the parameters of the small baseline, the full one 2.4 times."
        )
    if unsteady := [f"`{name}`" for name, group in small.items() if group.accuracy("last") in spread.unsteady]:
        text += (
            f" The seeds of {', '.join(sorted(unsteady))} differ more than those of other arms, by Cochran's test. "
            "So the intervals of those arms are wider."
        )
    return text


def _of_summary(group: Group, field: str) -> Any:
    summary = group.runs[0].summary
    assert summary is not None  # Only finished runs are in ``runs``.
    return summary[field]


def _order(correlation: RankCorrelation) -> list[str]:
    known = not math.isnan(correlation.low)
    interval = f"{correlation.low:+.2f} to {correlation.high:+.2f}" if known else "one seed"
    chance = f"{100 * correlation.chance:.0f}%" if correlation.chance >= 0.01 else "under 1%"
    return [f"{correlation.tau:+.2f}", interval, chance]


def _link(each: Table, is_full: bool) -> str:
    title = each.experiment.title
    name = title.removeprefix("Text: ").partition(":")[0]
    return f"[{name[:1].upper()}{name[1:]}](#{anchor(title)})" + (", full length" if is_full else "")
