"""The report's comparisons equal SciPy's own, and what cannot be judged says so."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jaxresnet.report.statistics import Fit, correct, detectable, find_outlier


def frame(accuracies):
    """Return runs with the seeds 0, 1, ... of each arm."""
    rows = [(arm, seed, value) for arm, values in accuracies.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["arm", "seed", "accuracy"])


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return {arm: rng.normal(mean, 1, 4) for arm, mean in zip("abcd", (90, 91, 92, 90), strict=True)}


def test_dunnett_equals_scipy(samples):
    fit = Fit(frame(samples).assign(seed=0))
    ours = fit.many_to_one(["b", "c", "d"], "a")
    scipy = stats.dunnett(samples["b"], samples["c"], samples["d"], control=samples["a"], random_state=1)
    interval = scipy.confidence_interval()
    np.testing.assert_allclose([[each.low, each.high] for each in ours], np.transpose(interval), atol=0.005)
    np.testing.assert_allclose([each.value / each.error for each in ours], scipy.statistic)


def test_independent_pair_equals_scipy(samples):
    pair = {arm: samples[arm] for arm in "ab"}
    ours, scipy = Fit(frame(pair).assign(seed=0)).difference("a", "b"), stats.ttest_ind(pair["a"], pair["b"])
    assert ours.p == pytest.approx(scipy.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(scipy.confidence_interval()))


def test_blocked_pair_equals_scipy(samples):
    pair = {arm: samples[arm] for arm in "ab"}
    ours, scipy = Fit(frame(pair)).difference("a", "b"), stats.ttest_rel(pair["a"], pair["b"])
    assert (ours.p, ours.freedom) == pytest.approx((scipy.pvalue, scipy.df))
    assert (ours.low, ours.high) == pytest.approx(tuple(scipy.confidence_interval()))


def test_blocks_remove_the_seeds_shifts(samples):
    shifted = {arm: values + np.arange(0, 40, 10) for arm, values in samples.items()}
    assert Fit(frame(shifted)).difference("b", "a") == pytest.approx(Fit(frame(samples)).difference("b", "a"))


def test_unequal_seeds_are_compared_within_seeds():
    # Seed 2, which is 5 points better, is only the control's.
    fit = Fit(frame({"control": [90.0, 91.2, 96.0], "arm": [91.1, 92.0]}))
    assert fit.difference("arm", "control").value == pytest.approx(0.95)


def test_only_run_of_a_seed_changes_no_other_comparison():
    rng = np.random.default_rng(1)
    accuracies = {f"steady{i}": 90 + rng.normal(0, 0.1, 3) for i in range(5)} | {"wild": np.array([89.7, 90.0, 90.3])}
    more = accuracies | {"wild": np.append(accuracies["wild"], [88.0, 89.0, 90.0, 91.0])}
    for changed in (accuracies, more):
        fit = Fit(frame(changed))
        assert fit.unsteady == {"wild"}
        assert fit.many_to_one(["steady1", "steady2"], "steady0") == Fit(frame(accuracies)).many_to_one(
            ["steady1", "steady2"], "steady0"
        )


def test_blocked_dunnett_equals_the_published_table():
    """Two-sided 5% points of Dunnett (1964) for 2 and 5 comparisons with 10 degrees of freedom are 2.57 and 2.99."""
    rng = np.random.default_rng(0)
    for arms, seeds, factor in ((3, 6, 2.57), (6, 3, 2.99)):
        names = [f"arm{i}" for i in range(arms)]
        fit = Fit(frame({name: rng.normal(90, 1, seeds) for name in names}))
        assert fit.freedom == 10
        for each in fit.many_to_one(names[1:], names[0]):
            assert (each.high - each.value) / each.error == pytest.approx(factor, abs=0.006)


def test_unsteady_arm_gets_welch():
    rng = np.random.default_rng(1)
    accuracies = {f"steady{i}": 90 + rng.normal(0, 0.1, 3) for i in range(5)} | {"wild": np.array([40.0, 60.0, 80.0])}
    fit = Fit(frame(accuracies))
    assert fit.unsteady == {"wild"} and fit.variance < 0.05
    ours = fit.difference("wild", "steady0")
    scipy = stats.ttest_ind(accuracies["wild"], accuracies["steady0"], equal_var=False)
    assert (ours.p, ours.freedom) == pytest.approx((scipy.pvalue, scipy.df))
    many = fit.many_to_one(["steady1", "wild"], "steady0")
    assert many[1].high - many[1].low > ours.high - ours.low  # corrected for two comparisons


def test_outliers_are_rare_among_equal_arms():
    """Cochran's test has a level of 5%."""
    rng = np.random.default_rng(0)
    index = np.repeat([*"abcdefgh"], 3)
    found = 0
    for _ in range(300):
        values = rng.normal(size=(8, 3))
        found += find_outlier(pd.Series((values - values.mean(1, keepdims=True)).ravel(), index)) is not None
    assert 0.01 < found / 300 < 0.1
    # Cochran's critical value at 5% for 5 variances with 2 degrees of freedom each is 0.6838.
    for share, outlier in ((0.70, "a"), (0.66, None)):
        squares = [share, *[(1 - share) / 4] * 4]
        residuals = [[np.sqrt(s / 2), -np.sqrt(s / 2), 0] for s in squares]
        assert find_outlier(pd.Series(np.ravel(residuals), np.repeat([*"abcde"], 3))) == outlier


def test_holm():
    np.testing.assert_allclose(correct([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert [*correct([])] == [] and [*correct([0.9, 0.8])] == [1, 1]


def test_detectable_difference_is_found_in_four_of_five():
    rng = np.random.default_rng(0)
    size = 0
    found = []
    for _ in range(400):
        sample = {arm: rng.normal(0, 1, 4) for arm in "ab"}
        sample["a"] += size or 10
        each = Fit(frame(sample).assign(seed=0)).difference("a", "b")
        size = size or detectable(each._replace(error=np.sqrt(1 / 2)), 0.05)
        found.append(each.p < 0.05)
    assert 0.72 < np.mean(found[1:]) < 0.88


@pytest.mark.parametrize(
    ("accuracies", "reason"),
    [
        ({"a": [90.0], "b": [91.0]}, "one seed"),
        ({"a": [90.0, 90.0], "b": [91.0, 91.0]}, "seeds do not differ at all"),
        ({"a": [90.0, 91.0], "c": [1.0, 2.5]}, "not run"),
    ],
)
def test_difference_that_cannot_be_judged(accuracies, reason):
    each = Fit(frame(accuracies)).difference("a", "b")
    assert each.reason == reason and np.isnan(each.p)


def test_arms_without_a_seed_in_common():
    runs = pd.DataFrame(
        [(arm, seed, 90.0 + seed * 0.1) for arm, seed in itertools.product("ab", (0, 1))]
        + [("c", 7, 80.0), ("c", 8, 81)],
        columns=["arm", "seed", "accuracy"],
    )
    runs.loc[0, "accuracy"] = 89.0
    assert Fit(runs).difference("a", "c").reason == "no seed in common"
    assert Fit(runs).difference("a", "b").reason == ""
