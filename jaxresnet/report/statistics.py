"""Compare arms over seeds: least squares with seeds as blocks, Dunnett's intervals, Welch's test, Holm's correction.

``configs/small.py`` states the rule, which was fixed before the runs of the study were looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

LEVEL = 0.05
POWER = 0.8


class Difference(NamedTuple):
    """Difference of two arms' mean accuracies, in points. Fields are NaN if ``reason`` says why it cannot be judged."""

    value: float = np.nan  # first minus second
    error: float = np.nan  # standard error
    freedom: float = np.nan  # degrees of freedom of the error
    low: float = np.nan  # lower end of the confidence interval
    high: float = np.nan  # upper end
    p: float = np.nan  # probability of such a difference or a larger one if there were none
    reason: str = ""  # why the difference cannot be judged, or an empty text


class Fit:
    """Model of a study: accuracy = arm + seed, by least squares.

    Arms with the same seed share their first weights and their data order, so that a seed shifts all of them. An arm
    whose variance is an outlier is left out of the model and compared by Welch's test, with a variance of its own.
    """

    def __init__(self, runs: pd.DataFrame):
        """Fit the model. If all runs have one seed, it is that of an analysis of variance with one factor."""
        self.runs = runs  # columns arm, seed and accuracy, one row a run
        self.unsteady: set[str] = set()  # arms with a variance of their own
        while True:
            steady = runs[~runs["arm"].isin(self.unsteady)]
            design = pd.concat([pd.get_dummies(steady[name], dtype=float) for name in ("arm", "seed")], axis=1)
            matrix, accuracy = design.to_numpy(), steady["accuracy"].to_numpy(float)
            self._columns, self._inverse = np.array([*design], object), np.linalg.pinv(matrix.T @ matrix)
            self._rows = self._inverse @ matrix.T @ matrix  # projects on what the runs can tell
            self._solution = self._inverse @ matrix.T @ accuracy
            residuals = pd.Series(accuracy - matrix @ self._solution, steady["arm"].to_numpy())
            # The only run of its seed fits exactly, and says nothing about the spread of its arm.
            compared = steady["seed"].duplicated(keep=False).to_numpy()
            self.freedom = len(steady) - round(np.trace(self._rows))
            # Pooled over the steady arms, and NaN if there is one seed.
            self.variance = float((residuals**2).sum()) / self.freedom if self.freedom > 0 else np.nan
            if (outlier := find_outlier(residuals[compared])) is None:
                break
            self.unsteady.add(outlier)

    def accuracies(self, arm: str) -> np.ndarray:
        """Return the accuracy of each run of an arm."""
        return self.runs.loc[self.runs["arm"] == arm, "accuracy"].to_numpy(float)

    def difference(self, first: str, second: str, level: float = LEVEL) -> Difference:
        """Compare two arms, with an interval of 1 - ``level`` for this difference alone."""
        samples = [self.accuracies(arm) for arm in (first, second)]
        if not all(map(len, samples)):
            return Difference(reason="not run")
        value = float(samples[0].mean() - samples[1].mean())
        if {first, second} & self.unsteady:
            if min(map(len, samples)) < 2:
                return Difference(value, reason="one seed")
            test = stats.ttest_ind(*samples, equal_var=False)
            low, high = test.confidence_interval(1 - level)
            return Difference(value, value / test.statistic, test.df, low, high, test.pvalue)
        weights = (self._columns == first) * 1.0 - (self._columns == second)
        if self.freedom < 1:
            return Difference(value, reason="one seed")
        if not np.allclose(self._rows @ weights, weights, atol=1e-6):
            return Difference(value, reason="no seed in common")
        value = float(weights @ self._solution)
        if self.variance < 1e-12:
            return Difference(value, reason="seeds do not differ at all")
        error = float(np.sqrt(self.variance * (weights @ self._inverse @ weights)))
        half = error * stats.t.ppf(1 - level / 2, self.freedom)
        p = 2 * stats.t.sf(abs(value) / error, self.freedom)
        return Difference(value, error, self.freedom, value - half, value + half, float(p))

    def many_to_one(self, arms: Sequence[str], control: str) -> list[Difference]:
        """Compare arms with a control, with intervals that hold all at once with 95%, by Dunnett's test.

        Arms with a variance of their own, or all if the control has one, get Bonferroni's correction of Welch's test.
        """
        alone = [self.difference(arm, control, LEVEL / max(1, len(arms))) for arm in arms]
        steady = [arm for arm, each in zip(arms, alone, strict=True) if not each.reason and arm not in self.unsteady]
        if len(steady) < 2 or control in self.unsteady:
            return alone
        weights = np.array([(self._columns == arm) * 1.0 - (self._columns == control) for arm in steady])
        covariance = weights @ self._inverse @ weights.T
        scale = np.sqrt(np.diagonal(covariance))
        factor = _dunnett_factor(covariance / np.outer(scale, scale), self.freedom, 1 - LEVEL * len(steady) / len(arms))
        for place, each in enumerate(alone):
            if arms[place] in steady:
                half = factor * each.error
                alone[place] = each._replace(low=each.value - half, high=each.value + half)
        return alone


def _dunnett_factor(correlation: np.ndarray, freedom: int, confidence: float) -> float:
    """Return the half width of intervals, in standard errors, that hold all at once with ``confidence``."""

    def excess(factor: float) -> float:
        limits = np.full(len(correlation), factor)
        held = stats.multivariate_t.cdf(
            limits, shape=correlation, df=freedom, lower_limit=-limits, random_state=0, maxpts=20_000 * len(limits)
        )
        return float(held) - confidence

    # Bonferroni's factor is an upper bound, and that of one comparison a lower one.
    alone, all_alone = (stats.t.ppf(1 - (1 - confidence) / 2 / count, freedom) for count in (1, len(correlation)))
    return float(optimize.brentq(excess, 0.95 * alone, 1.05 * all_alone, xtol=1e-4))


def find_outlier(residuals: pd.Series) -> str | None:
    """Return the arm whose residuals have an outlying variance by Cochran's test at 5%, or None."""
    groups = (residuals**2).groupby(level=0)
    freedom = groups.size() - 1
    freedom = freedom[freedom > 0]
    squares = groups.sum()[freedom.index]
    if len(freedom) < 3 or squares.sum() < 1e-12:
        return None
    worst = (squares / freedom).idxmax()
    own, others = freedom[worst], freedom.sum() - freedom[worst]
    ratio = (squares[worst] / own) / max((squares.sum() - squares[worst]) / others, 1e-12)
    return str(worst) if len(freedom) * stats.f.sf(ratio, own, others) < LEVEL else None


def correct(p_values: Sequence[float]) -> np.ndarray:
    """Return p values with Holm's correction for having computed all of them."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]


def detectable(each: Difference, level: float) -> float:
    """Return the difference, in points, that a test at ``level`` finds with a probability of 80%, nearly."""
    return each.error * float(stats.t.ppf(1 - level / 2, each.freedom) + stats.t.ppf(POWER, each.freedom))
