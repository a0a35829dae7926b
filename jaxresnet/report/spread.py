"""Statistics over seeds: means, their spread, and intervals of differences."""

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from scipy import stats

_QUANTILE = 0.975  # of a two-sided interval of 95%
_OUTLIER = 0.05  # level of the test for outlying variances


class Stat(NamedTuple):
    """Mean and sample standard deviation of ``n`` values. The deviation of a single value is NaN."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Stat":
        """Compute the statistics of at least one value."""
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))

    def interval(self) -> float:
        """Return half the width of the 95% prediction interval for one more run, or NaN if there is only one.

        The half width is ``t sd sqrt(1 + 1/n)``, with Student's t at n - 1 degrees of freedom.
        """
        if self.n < 2:
            return math.nan
        return stats.t.ppf(_QUANTILE, self.n - 1) * self.sd * math.sqrt(1 + 1 / self.n)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.sd:.2f}" if self.n > 1 else "")


class Variance(NamedTuple):
    """Estimate of a variance, NaN if there is none, and its degrees of freedom."""

    value: float
    freedom: float


class Spread(NamedTuple):
    """Spread over the seeds of several arms. Arms have few seeds, so their variances are pooled.

    An arm whose variance is too large to be of the same spread has its own.

    Attributes:
        pooled: variance over seeds of all arms that are not in ``unsteady``.
        unsteady: arms with a variance of their own.
    """

    pooled: Variance
    unsteady: frozenset[Stat]

    @classmethod
    def of(cls, arms: Iterable[Stat]) -> "Spread":
        """Pool the variances of ``arms``, after Cochran's test has taken out the outlying ones.

        The largest variance is compared with that of all others, by an F test with Bonferroni's correction, until
        it passes (W. G. Cochran, Annals of Eugenics 11, 1941).
        """
        steady = sorted((arm for arm in arms if arm.n > 1), key=lambda arm: arm.sd)
        unsteady = set()
        while len(steady) > 1:
            *others, largest = steady
            rest = _pool(others)
            if rest.value == 0:
                break
            chance = len(steady) * stats.f.sf(largest.sd**2 / rest.value, largest.n - 1, rest.freedom)
            if chance >= _OUTLIER:
                break
            unsteady.add(largest)
            steady = others
        return cls(_pool(steady), frozenset(unsteady))

    def of_mean(self, arm: Stat) -> Variance:
        """Return the variance of an arm's mean over its seeds."""
        value, freedom = Variance(arm.sd**2, arm.n - 1) if arm in self.unsteady else self.pooled
        return Variance(value / arm.n, freedom)

    def interval(self, first: Stat, second: Stat) -> float:
        """Return half the width of the 95% confidence interval of the difference of two means.

        It uses Student's t, with Welch's degrees of freedom if an arm has a variance of its own. It is NaN if no arm
        has two seeds.
        """
        one, two = self.of_mean(first), self.of_mean(second)
        variance, freedom = one.value + two.value, self.pooled.freedom
        if {first, second} & self.unsteady:
            freedom = variance**2 / sum(each.value**2 / each.freedom for each in (one, two))
        return float(stats.t.ppf(_QUANTILE, freedom) * math.sqrt(variance)) if freedom else math.nan


def _pool(arms: list[Stat]) -> Variance:
    freedom = sum(arm.n - 1 for arm in arms)
    return Variance(sum((arm.n - 1) * arm.sd**2 for arm in arms) / freedom if freedom else math.nan, freedom)
