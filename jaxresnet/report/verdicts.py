"""Verdicts on claims, and rank correlations, by rule from the accuracies of runs."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxresnet.report.claims import Claim
from jaxresnet.report.spread import Spread, Stat

RESAMPLES = 10_000


class Difference(NamedTuple):
    """Difference of two arms.

    Attributes:
        value: mean of the arm that should score higher minus that of the other, in points.
        interval: half the width of its 95% confidence interval, or NaN without two seeds of any arm.
    """

    value: float
    interval: float

    @property
    def is_outside(self) -> bool:
        """Return True if 0 is outside of the interval."""
        return abs(self.value) > self.interval

    def is_within(self, margin: float) -> bool:
        """Return True if the whole interval is within ``margin`` points."""
        return abs(self.value) + self.interval <= margin

    def is_beyond(self, margin: float) -> bool:
        """Return True if no part of the interval is within ``margin`` points."""
        return abs(self.value) - self.interval > margin

    def __str__(self) -> str:
        return f"{self.value:+.2f}" + ("" if math.isnan(self.interval) else f" ± {self.interval:.2f}")


class Finding(NamedTuple):
    """Verdict on a claim, and the differences of arms that it rests on, in the order of the claim's pairs."""

    verdict: str
    differences: list[Difference]

    @property
    def range(self) -> str:
        """Return the lowest and the highest difference with their intervals, in points, and the widest interval."""
        ordered = sorted(self.differences, key=lambda each: each.value)
        ends = " to ".join(dict.fromkeys([str(ordered[0]), str(ordered[-1])]))  # once if they are the same
        widest = f"± {max(each.interval for each in ordered):.2f}"
        return ends if widest in ends or math.isnan(ordered[0].interval) else f"{ends}, up to {widest}"


def judge(claim: Claim, accuracies: Mapping[str, Stat], spread: Spread, margin: float) -> Finding | None:
    """Judge a claim from the accuracy (%) of each arm. Return None if an arm of the claim has no run.

    A difference counts if 0 is outside of its 95% confidence interval, whose variance is that of ``spread``. Arms score
    the same if they differ by no more than ``margin`` points.
    """
    if not all(arm in accuracies for pair in claim.pairs for arm in pair):
        return None
    arms = [(accuracies[higher], accuracies[lower]) for higher, lower in claim.pairs]
    differences = [Difference(higher.mean - lower.mean, spread.interval(higher, lower)) for higher, lower in arms]
    if any(math.isnan(each.interval) for each in differences):
        return Finding("open: one seed per arm", differences)
    return Finding(_same(differences, margin) if claim.equal else _higher(differences), differences)


def _same(differences: list[Difference], margin: float) -> str:
    points = f"{margin:g} point{'' if margin == 1 else 's'}"
    if all(each.is_within(margin) for each in differences):
        return f"holds: all differences are within {points}"
    if larger := sum(each.is_beyond(margin) for each in differences):
        return f"does not hold: {larger} of {len(differences)} differences are larger than {points}"
    return f"open: differences of {points} are within the spread of the seeds"


def _higher(differences: list[Difference]) -> str:
    total = len(differences)
    up = sum(each.is_outside and each.value > 0 for each in differences)
    down = sum(each.is_outside and each.value < 0 for each in differences)
    for number, word in ((up, "holds"), (down, "reversed")):
        if number == total:
            return word + {1: "", 2: " in both comparisons"}.get(total, f" in all {total} comparisons")
    if not up and not down:
        return "open: no difference is beyond the spread of the seeds"
    parts = [(up, "holds"), (down, "reversed"), (total - up - down, "open")]
    counts = ", ".join(f"{word} in {number}" for number, word in parts if number)
    return f"{'in part' if up else 'not confirmed'}: {counts} of {total} comparisons"


class RankCorrelation(NamedTuple):
    """Agreement of two orders of the same arms.

    Attributes:
        arms: number of arms.
        tau: Kendall's rank correlation, from -1 for the reversed order to 1 for the same. It is the share of pairs in
            the same order minus that of pairs in the other.
        low: lower end of its 95% interval over the spread of the seeds, or NaN without two seeds of any arm.
        high: upper end.
        chance: probability of at least this correlation if the order were random: exact for up to 7 arms, else from
            ``RESAMPLES`` random orders.
    """

    arms: int
    tau: float
    low: float
    high: float
    chance: float


def rank_correlation(paper: Mapping[str, float], ours: Mapping[str, Stat], spread: Spread) -> RankCorrelation | None:
    """Correlate the order of the arms that both have. Return None if there are fewer than three.

    The interval is that of means drawn from Student's t distribution around ours, with the variances of ``spread``. The
    paper's figures are single runs, whose spread is not known, so they stay as printed.
    """
    arms = [arm for arm in paper if arm in ours]
    if len(arms) < 3:
        return None
    printed, means = np.array([paper[arm] for arm in arms]), np.array([ours[arm].mean for arm in arms])
    # SciPy's kendalltau approximates the probability if two arms score the same, as one function under two names does.
    test = stats.permutation_test(
        (printed,),
        lambda order, axis: _kendall(order, means),
        permutation_type="pairings",
        alternative="greater",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    low = high = math.nan
    if spread.freedom:
        distinct = [*dict.fromkeys(ours[arm] for arm in arms)]
        freedom, scale = [*map(spread.freedom_of, distinct)], np.sqrt([*map(spread.variance_of_mean, distinct)])
        noise = scale * np.random.default_rng(0).standard_t(freedom, (RESAMPLES, len(distinct)))
        draws = means + noise[:, [distinct.index(ours[arm]) for arm in arms]]
        low, high = np.quantile(_kendall(printed, draws), [0.025, 0.975])
    return RankCorrelation(len(arms), float(test.statistic), float(low), float(high), float(test.pvalue))


def _kendall(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Kendall's rank correlation of values along the last axis. Pairs with equal values count as 0."""
    one, other = np.triu_indices(first.shape[-1], 1)
    signs = [np.sign(values[..., one] - values[..., other]) for values in (first, second)]
    return (signs[0] * signs[1]).mean(-1)
