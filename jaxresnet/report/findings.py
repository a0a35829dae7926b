"""The report's opening: what the runs say of the paper's claims, and how far they keep its order."""

import math
import statistics

from jaxresnet.report.claims import CLAIMS, CORRECTIONS
from jaxresnet.report.page import Page, anchor, table
from jaxresnet.report.tables import Table
from jaxresnet.report.verdicts import MARGIN, RankCorrelation, judge, rank_correlation

HOW_TO_READ = "How to read the tables"


def add_findings(page: Page, tables: list[Table]) -> None:
    """Append the findings: a row per claim, then a row per table."""
    by_name = {each.name: each for each in tables}
    judged = {each.name: each.judged() for each in tables}  # once, because it loads the config of every arm
    accuracies = {
        name: {arm: group.accuracy("last") for arm, group in groups.items()} for name, (groups, _) in judged.items()
    }
    page.add("## Findings")
    compared = []
    for claims, heading in ((CLAIMS, "claim of the paper"), (CORRECTIONS, "about corrected and new arms")):
        rows = []
        for claim in claims:
            if each := by_name.get(claim.table):
                groups, spread = judged[claim.table]
                finding = judge(claim, accuracies[claim.table], spread)
                verdict, values = (finding.verdict, finding.range) if finding else ("not run", "")
                rows.append([claim.text, verdict, values, _link(each)])
                if finding and not claim.equal:
                    compared += [any(groups[arm].name == "baseline" for arm in pair) for pair in claim.pairs]
        page.add(
            table([heading, "found here", "how sure: difference ± 95% interval, points", "more"], rows, is_text=True)
        )
    text = (
        f"A difference counts if its interval leaves out 0. For claims of equal arms, it counts if the interval leaves "
        f"out all that is within {MARGIN:g} point. [{HOW_TO_READ}](#{anchor(HOW_TO_READ)}) says what the interval is."
    )
    if compared:
        text += (
            f" If no arm differed from another, about {len(compared) / 20:.0f} of {len(compared)} comparisons would "
            f"count by chance. {sum(compared)} of them are with the baseline, whose runs move them together."
        )
    page.add(text)
    if baseline := next((group for each in tables for group in each.small.values() if group.name == "baseline"), None):
        last = statistics.fmean(curve[-1] for curve in baseline.training_curves()[1])
        page.add(
            "**What the small study can say.** It has small networks, a tenth of the training images, a tenth of the "
            f"epochs, and so a hundredth of the steps. Its baseline ends at a training accuracy of {last:.0f}%, the "
            "paper's at 100%. Crops and dropout keep a network from fitting its images too well, so they can cost "
            "accuracy there and gain some at full length."
        )
    rows = []
    for each in tables:
        if correlation := rank_correlation(each.printed(), accuracies[each.name], judged[each.name][1]):
            rows.append([_link(each), str(correlation.arms), *_order(correlation)])
    if rows:
        page.add("How far the arms keep the order of the paper's table:")
        page.add(table(["table", "arms", "rank correlation", "95% interval", "by chance"], rows))
        page.add(
            "The rank correlation is Kendall's: 1 for the paper's order, -1 for the reversed one. The interval is over "
            "the spread of our seeds. The paper has one run per arm, whose spread is not known. **By chance** is the "
            "probability of a correlation at least as high if the order were random."
        )


def _order(correlation: RankCorrelation) -> list[str]:
    known = not math.isnan(correlation.low)
    interval = f"{correlation.low:+.2f} to {correlation.high:+.2f}" if known else "one seed"
    chance = f"{100 * correlation.chance:.0f}%" if correlation.chance >= 0.01 else "under 1%"
    return [f"{correlation.tau:+.2f}", interval, chance]


def _link(each: Table) -> str:
    title = each.experiment.title
    return f"[{title.partition(':')[0]}](#{anchor(title)})"
