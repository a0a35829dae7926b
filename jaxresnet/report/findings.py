"""The report's opening: what the runs say of the paper's claims, and how far they keep its order."""

import math

from jaxresnet.report.claims import CLAIMS, Finding, RankCorrelation, judge, rank_correlation
from jaxresnet.report.page import Page, anchor, table
from jaxresnet.report.tables import Table


def add_findings(page: Page, tables: list[Table]) -> None:
    """Append the findings: a row per claim, then a row per table."""
    by_name = {each.name: each for each in tables}
    accuracies = {each.name: each.accuracies() for each in tables}
    spreads = {each.name: each.spread() for each in tables}
    unsteady = {
        each.experiment.get_config(arm).name
        for each in tables
        for arm, stat in accuracies[each.name].items()
        if stat in spreads[each.name].unsteady
    }
    page.add("## Findings")
    rows = []
    for claim in CLAIMS:
        if each := by_name.get(claim.table):
            finding = judge(claim, accuracies[claim.table], spreads[claim.table])
            seeds = min((stat.n for stat in accuracies[claim.table].values()), default=0)
            rows.append([claim.text, *_cells(finding, seeds), _link(each)])
    page.add(table(["claim of the paper", "found here", "how sure", "more"], rows, is_text=True))
    comparisons = sum(len(claim.pairs) for claim in CLAIMS)
    page.add(
        "A comparison counts if 0 is outside of the 95% confidence interval of the difference of the two means. The "
        "interval uses the spread of the seeds, pooled over all arms of the study. An arm whose spread is an outlier, "
        f"by Cochran's test, has its own: {', '.join(f'`{name}`' for name in sorted(unsteady)) or 'here none'}. If no "
        f"arm differed from another, about {comparisons / 20:.0f} of the {comparisons} comparisons would count by "
        "chance. The small study has small networks, a tenth of the images and a tenth of the epochs. So it says what "
        "holds at that size."
    )
    rows = []
    for each in tables:
        if correlation := rank_correlation(each.printed(), accuracies[each.name], spreads[each.name]):
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
    ordered = sorted(finding.differences, key=lambda each: each.value)
    known = not any(math.isnan(each.interval) for each in ordered)
    ends = [f"{each.value:+.2f}" + (f" ± {each.interval:.2f}" if known else "") for each in (ordered[0], ordered[-1])]
    values = " to ".join(ends if len(ordered) > 1 else ends[:1])
    return [finding.verdict, f"{values} points, " + (f"{seeds} or more seeds per arm" if known else "one seed per arm")]


def _order(correlation: RankCorrelation) -> list[str]:
    known = not math.isnan(correlation.low)
    interval = f"{correlation.low:+.2f} to {correlation.high:+.2f}" if known else "one seed"
    chance = f"{100 * correlation.chance:.0f}%" if correlation.chance >= 0.01 else "under 1%"
    return [f"{correlation.tau:+.2f}", interval, chance]


def _link(each: Table) -> str:
    title = each.experiment.title
    return f"[{title.partition(':')[0]}](#{anchor(title)})"
