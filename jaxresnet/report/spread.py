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

    def prediction_interval(self) -> float:
        """Return half the width of the 95% prediction interval for one more run, or NaN if there is only one.

        The half width is ``t sd sqrt(1 + 1/n)``, with Student's t at n - 1 degrees of freedom.
        """
        if self.n < 2:
            return math.nan
        return stats.t.ppf(_QUANTILE, self.n - 1) * self.sd * math.sqrt(1 + 1 / self.n)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.sd:.2f}" if self.n > 1 else "")


class Spread(NamedTuple):
    """Spread over the seeds of several arms. Arms have few seeds, so their variances are pooled.

    Attributes:
        variance: variance over seeds, pooled over all arms that are not in ``unsteady``. It is NaN if none has two.
        freedom: its degrees of freedom.
        unsteady: arms whose own variance counts, because it is too large to be of the same spread.
    """

    variance: float
    freedom: int
    unsteady: frozenset[Stat]

    @classmethod
    def of(cls, arms: Iterable[Stat]) -> "Spread":
        """Pool the variances of ``arms``, after Cochran's test has taken out the outlying ones.

        Each variance is compared with that of all others, by an F test with Bonferroni's correction. The least likely
        one is taken out, until all pass (W. G. Cochran, Annals of Eugenics 11, 1941).
        """
        # Arms with equal statistics are one function under two names, and count once.
        steady = [arm for arm in dict.fromkeys(arms) if arm.n > 1]
        unsteady = set()
        while len(steady) > 1:
            chances = [_chance(arm, steady[:number] + steady[number + 1 :]) for number, arm in enumerate(steady)]
            if len(steady) * min(chances) >= _OUTLIER:
                break
            unsteady.add(steady.pop(chances.index(min(chances))))
        return cls(*_pool(steady), frozenset(unsteady))

    def freedom_of(self, arm: Stat) -> int:
        """Return the degrees of freedom of ``variance_of_mean``."""
        return arm.n - 1 if arm in self.unsteady else self.freedom

    def variance_of_mean(self, arm: Stat) -> float:
        """Return the variance of an arm's mean over its seeds."""
        return (arm.sd**2 if arm in self.unsteady else self.variance) / arm.n

    def interval(self, first: Stat, second: Stat) -> float:
        """Return half the width of the 95% confidence interval of the difference of two means.

        It uses Student's t. If an arm counts with its own variance, the degrees of freedom are those of Welch and
        Satterthwaite, else the pooled ones. The result is NaN if no arm has two seeds.
        """
        if not self.freedom:
            return math.nan
        steady = [arm for arm in (first, second) if arm not in self.unsteady]
        parts = [(sum(map(self.variance_of_mean, steady)), self.freedom)]
        parts += [(self.variance_of_mean(arm), self.freedom_of(arm)) for arm in (first, second) if arm in self.unsteady]
        variance = sum(part for part, _ in parts)
        if variance == 0:
            return 0.0
        freedom = variance**2 / sum(part**2 / its_own for part, its_own in parts)
        return float(stats.t.ppf(_QUANTILE, freedom) * math.sqrt(variance))


def _chance(arm: Stat, others: list[Stat]) -> float:
    """Return the probability of a variance at least as large as the arm's if its spread is that of the others."""
    variance, freedom = _pool(others)
    return float(stats.f.sf(arm.sd**2 / variance, arm.n - 1, freedom)) if variance else 1.0


def _pool(arms: list[Stat]) -> tuple[float, int]:
    """Return the pooled variance, or NaN if no arm has two seeds, and its degrees of freedom."""
    freedom = sum(arm.n - 1 for arm in arms)
    return sum((arm.n - 1) * arm.sd**2 for arm in arms) / freedom if freedom else math.nan, freedom
