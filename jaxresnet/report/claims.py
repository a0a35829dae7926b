"""Claims of the paper, judged by rule from the accuracies of runs."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxresnet.report.spread import Spread, Stat

RESAMPLES = 10_000


class Claim(NamedTuple):
    """A claim of the paper about arms of a table.

    Attributes:
        text: what the paper says, or what the corrected arms are to show.
        table: name of the table's config file, without its ending.
        pairs: arms of which the first should score higher, or the same if ``equal``.
        equal: True if the claim is that the arms do not differ.
    """

    text: str
    table: str
    pairs: tuple[tuple[str, str], ...]
    equal: bool = False


def _over(best: str, *others: str) -> tuple[tuple[str, str], ...]:
    return tuple((best, other) for other in others)


CLAIMS = (
    Claim("The final recipe scores higher than the baseline (Table 1)", "headline", (("final", "baseline"),)),
    Claim(
        "Cosine decay is the best schedule (Table 2)",
        "scheduler",
        _over("cosine", "linear", "polynomial", "one_cycle"),
    ),
    Claim(
        "The other schedules lost because they did not run as their names say (corrected arms of Table 2)",
        "scheduler",
        tuple((f"{arm}_fixed", arm) for arm in ("linear", "polynomial", "one_cycle")),
    ),
    Claim(
        "Warm restarts score higher than cosine (future work of the paper)", "scheduler", (("warm_restarts", "cosine"),)
    ),
    Claim(
        "Crops and flips help, alone and together. Normalisation alone scores below nothing (Table 3)",
        "augmentation",
        (
            *(("crop", "none"), ("flip", "none"), ("crop_flip", "crop"), ("crop_flip", "flip")),
            *_over("none", "norm_0.49", "norm_0.5"),
        ),
    ),
    Claim(
        "SGD is the best optimizer (Table 4)",
        "optimizer",
        _over("sgd", "adam", "rmsprop", "adamw", "adagrad", "adadelta"),
    ),
    Claim(
        "The adaptive optimizers lost because their learning rate was too high (corrected arms of Table 4)",
        "optimizer",
        tuple((f"{arm}_fixed", arm) for arm in ("adam", "rmsprop", "adamw", "adagrad")),
    ),
    Claim(
        "Warm-up helps Adam and RMSprop, RAdam replaces it, RMSprop needs more epochs (future work of the paper)",
        "optimizer",
        (
            *(("adam_fixed_warmup", "adam_fixed"), ("rmsprop_fixed_warmup", "rmsprop_fixed")),
            *(("radam", "adam_fixed"), ("rmsprop_longer", "rmsprop")),
        ),
    ),
    Claim("100 epochs are too few (Table 5)", "epochs", (("200", "100"),)),
    Claim("300 and 400 epochs score as 200 do (Table 5)", "epochs", _over("200", "300", "400"), equal=True),
    Claim(
        "With a schedule of their length, more epochs score higher (corrected arms of Table 5)",
        "epochs",
        (("100_fixed", "100"), ("200", "100_fixed"), ("300_fixed", "200"), ("400_fixed", "200")),
    ),
    Claim("The pooling changes little (Table 6)", "pooling", _over("avg_5", "avg_8", "adaptive"), equal=True),
    Claim(
        "Dropout changes little (Table 7)",
        "dropout",
        tuple(("0.0", rate) for rate in ("0.2", "0.3", "0.4", "0.5")),
        equal=True,
    ),
    Claim(
        "Three stages of 64, 128 and 256 channels are the best architecture (Table 8)",
        "architecture",
        _over("64-128-256", "32-64-128-256", "16-32-64-128-256", "32-64-128"),
    ),
)


class Difference(NamedTuple):
    """Difference of two arms.

    Attributes:
        higher: arm that should score higher.
        lower: other arm.
        value: mean of the first minus mean of the second, in points.
        interval: half the width of its 95% confidence interval, or NaN without two seeds of any arm.
    """

    higher: str
    lower: str
    value: float
    interval: float

    @property
    def is_outside(self) -> bool:
        """Return True if 0 is outside of the interval."""
        return abs(self.value) > self.interval

    def __str__(self) -> str:
        return f"`{self.higher}` {self.value:+.2f} over `{self.lower}`"


class Finding(NamedTuple):
    """Verdict on a claim, and the differences of arms that it rests on.

    Attributes:
        verdict: short answer.
        differences: differences that it rests on.
    """

    verdict: str
    differences: list[Difference]


def judge(claim: Claim, accuracies: Mapping[str, Stat], spread: Spread) -> Finding | None:
    """Judge a claim from the accuracy (%) of each arm. Return None if an arm of the claim has no run.

    A difference counts if 0 is outside of its 95% confidence interval, whose variance is that of ``spread``.
    """
    if not all(arm in accuracies for pair in claim.pairs for arm in pair):
        return None
    differences = [
        Difference(
            higher,
            lower,
            accuracies[higher].mean - accuracies[lower].mean,
            spread.interval(accuracies[higher], accuracies[lower]),
        )
        for higher, lower in claim.pairs
    ]
    return Finding(_verdict(differences, claim.equal), differences)


def _verdict(differences: list[Difference], equal: bool) -> str:
    total = len(differences)
    if any(math.isnan(each.interval) for each in differences):
        return "open: one seed per arm"
    up = [each for each in differences if each.is_outside and each.value > 0]
    down = [each for each in differences if each.is_outside and each.value < 0]
    if equal:
        if not up and not down:
            return "holds: no difference is beyond the spread of the seeds"
        return f"does not hold: {_count(len(up) + len(down), total)} beyond the spread of the seeds"
    if len(up) == total:
        return "holds" if total == 1 else f"holds in all {total} comparisons"
    if not up and not down:
        return "open: no difference is beyond the spread of the seeds"
    if len(down) == total:
        return "reversed" if total == 1 else f"reversed in all {total} comparisons"
    parts = [(len(up), "holds"), (len(down), "reversed"), (total - len(up) - len(down), "open")]
    return "in part: " + ", ".join(f"{word} in {_count(number, total)}" for number, word in parts if number)


def _count(number: int, total: int) -> str:
    return f"{number} of {total} comparisons" if total > 1 else "the comparison"


class RankCorrelation(NamedTuple):
    """Agreement of two orders of the same arms.

    Attributes:
        arms: number of arms.
        tau: Kendall's rank correlation, from -1 for the reversed order to 1 for the same. It is the share of pairs in
            the same order minus that of pairs in the other.
        low: lower end of its 95% interval over the spread of the seeds, or NaN without two seeds of any arm.
        high: upper end.
        chance: probability of at least this correlation if the order were random.
    """

    arms: int
    tau: float
    low: float
    high: float
    chance: float


def rank_correlation(paper: Mapping[str, float], ours: Mapping[str, Stat], spread: Spread) -> RankCorrelation | None:
    """Correlate the order of the arms that both have. Return None if there are fewer than three.

    The interval is that of means drawn anew from Student's t distribution around ours, with the variances of
    ``spread``. The paper's figures are single runs, whose spread is not known, so they stay as printed.
    """
    arms = [arm for arm in paper if arm in ours]
    if len(arms) < 3:
        return None
    printed, means = np.array([paper[arm] for arm in arms]), np.array([ours[arm].mean for arm in arms])
    result = stats.kendalltau(printed, means, alternative="greater")
    variances, freedoms = np.array([spread.of_mean(ours[arm]) for arm in arms]).T
    low = high = math.nan
    if spread.pooled.freedom:
        draws = means + np.sqrt(variances) * np.random.default_rng(0).standard_t(freedoms, (RESAMPLES, len(arms)))
        first, second = np.triu_indices(len(arms), 1)
        same = np.sign(draws[:, first] - draws[:, second]) * np.sign(printed[first] - printed[second])
        low, high = np.quantile(same.mean(1), [0.025, 0.975])
    return RankCorrelation(len(arms), float(result.statistic), float(low), float(high), float(result.pvalue))
