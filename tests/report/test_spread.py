"""Means, spreads over seeds, and intervals of differences."""

import math

import pytest
from scipy import stats

from jaxresnet.report.spread import Spread, Stat


def test_statistics():
    stat = Stat.of([95.0, 95.1, 95.5])
    assert stat.mean == pytest.approx(95.2) and stat.n == 3
    assert stat.sd == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    # Tables give 4.303 for Student's t at 2 degrees of freedom and 97.5%.
    assert stat.prediction_interval() == pytest.approx(4.3027 * stat.sd * math.sqrt(4 / 3), rel=1e-4)
    assert str(stat) == "95.20 ± 0.26"


def test_a_single_run_has_no_spread():
    stat = Stat.of([95.0])
    assert math.isnan(stat.sd) and math.isnan(stat.prediction_interval()) and str(stat) == "95.00"


def test_the_difference_of_two_means_by_a_pooled_variance():
    pool = [Stat.of([70.0, 71.0]), Stat.of([75.0, 75.2]), Stat.of([60.0])]
    variance = (0.5 + 0.02) / 2
    expected = 4.3027 * math.sqrt(variance * (1 / 2 + 1 / 1))
    assert Spread.of(pool).interval(pool[0], pool[2]) == pytest.approx(expected, rel=1e-4)
    assert math.isnan(Spread.of([pool[2]]).interval(pool[2], pool[2]))


STEADY = [Stat.of([mean, mean + 0.5]) for mean in range(60, 70)]
WILD = Stat.of([20.0, 30.0])


def test_an_arm_with_an_outlying_spread_has_its_own():
    """Cochran's test: the variance ratio is 400, with 1 and 10 degrees of freedom."""
    spread = Spread.of([*STEADY, WILD])
    assert spread.unsteady == {WILD} and (spread.variance, spread.freedom) == pytest.approx((0.125, 10))
    assert [spread.variance_of_mean(arm) for arm in (WILD, STEADY[0])] == pytest.approx([25, 0.0625])
    freedom = 25.0625**2 / (25**2 / 1 + 0.0625**2 / 10)  # Welch and Satterthwaite
    assert spread.interval(WILD, STEADY[0]) == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(25.0625))
    assert spread.interval(STEADY[0], STEADY[1]) == pytest.approx(stats.t.ppf(0.975, 10) * math.sqrt(0.125))


def test_two_arms_with_outlying_spreads_are_compared_as_by_welch():
    first, second = WILD, Stat.of([20.0, 22.0, 40.0])
    welch = stats.ttest_ind([20.0, 30.0], [20.0, 22.0, 40.0], equal_var=False).confidence_interval()
    expected = (welch.high - welch.low) / 2
    assert Spread.of([*STEADY, first, second]).interval(first, second) == pytest.approx(expected)


def test_one_function_under_two_names_counts_once():
    assert Spread.of([*STEADY, *STEADY]) == Spread.of(STEADY)


def test_several_arms_can_have_outlying_spreads():
    other = Stat.of([20.0, 22.0, 40.0])
    assert Spread.of([*STEADY, WILD, other]).unsteady == {WILD, other}


def test_an_arm_of_two_seeds_does_not_hide_an_outlier_of_four():
    four, two = Stat.of([20.0, 22.0, 24.0, 26.0]), Stat.of([60.0, 62.0])
    steady = [Stat.of([mean, mean + 1.0]) for mean in range(60, 90)]
    assert Spread.of([*steady, two, four]).unsteady == {four}
    wider = Stat.of([60.0, 64.2])  # its deviation is the largest, but of 1 degree of freedom
    assert wider.sd > four.sd and four in Spread.of([*steady, wider, four]).unsteady


def test_spreads_that_chance_explains_are_pooled():
    arms = [Stat.of([60.0, 60.1]), Stat.of([61.0, 61.5]), Stat.of([62.0, 64.0])]
    assert not Spread.of(arms).unsteady
    assert not Spread.of([Stat.of([60.0, 60.0]), WILD]).unsteady  # no ratio to judge
