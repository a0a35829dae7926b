"""The report's opening: what the runs say of the paper's claims, and how far they keep its order."""

import math

from jaxresnet.report.claims import CLAIMS, Finding, RankCorrelation, judge, rank_correlation
from jaxresnet.report.page import Page, anchor, table
from jaxresnet.report.tables import Table


def add_findings(page: Page, tables: list[Table]) -> None:
    """Append the findings: a row per claim, then a row per table."""
    by_name = {each.name: each for each in tables}
    accuracies = {each.name: each.accuracies() for each in tables}
    pools = {each.name: each.pool() for each in tables}
    page.add("## Findings")
    rows = []
    for claim in CLAIMS:
        if each := by_name.get(claim.table):
            finding = judge(claim, accuracies[claim.table], pools[claim.table])
            seeds = min((stat.n for stat in accuracies[claim.table].values()), default=0)
            rows.append([claim.text, *_cells(finding, seeds), _link(each)])
    page.add(table(["claim of the paper", "found here", "how sure", "more"], rows, is_text=True))
    page.add(
        "A comparison counts if 0 is outside of the 95% confidence interval of the difference of the two means. The "
        "interval uses the spread of the seeds, pooled over all arms of the study. With some fifty comparisons, two or "
        "three count by chance. The small study has small networks, a tenth of the images and a tenth of the epochs. "
        "So it says what holds at that size."
    )
    rows = []
    for each in tables:
        if correlation := rank_correlation(each.printed(), accuracies[each.name], pools[each.name]):
            rows.append([_link(each), str(correlation.arms), *_order(correlation)])
    if rows:
        page.add("How far the arms keep the order of the paper's table:")
        page.add(table(["table", "arms", "rank correlation", "95% interval", "by chance"], rows))
        page.add(
            "The rank correlation is Kendall's: 1 for the paper's order, -1 for the reversed one. The interval is over "
            "the spread of our seeds. The paper has one run per arm, whose spread is not known. **By chance** is the "
            "probability of a correlation at least as high if the order were random."
        )


def _cells(finding: Finding | None, seeds: int) -> list[str]:
    if finding is None:
        return ["not run", ""]
    widest = max(finding.differences, key=lambda each: abs(each.value))
    low, high = (pick(each.value for each in finding.differences) for pick in (min, max))
    values = f"{low:+.2f}" if len(finding.differences) == 1 else f"{low:+.2f} to {high:+.2f}"
    if math.isnan(widest.interval):
        return [finding.verdict, f"{values} points, one seed per arm"]
    return [finding.verdict, f"{values} points, each ± {widest.interval:.2f}, {seeds} or more seeds per arm"]


def _order(correlation: RankCorrelation) -> list[str]:
    known = not math.isnan(correlation.low)
    interval = f"{correlation.low:+.2f} to {correlation.high:+.2f}" if known else "one seed"
    chance = f"{100 * correlation.chance:.0f}%" if correlation.chance >= 0.01 else "under 1%"
    return [f"{correlation.tau:+.2f}", interval, chance]


def _link(each: Table) -> str:
    title = each.experiment.title
    return f"[{title.partition(':')[0]}](#{anchor(title)})"
