"""Claims of the paper are judged by rule, here on made-up accuracies."""

import math
import re

import pytest
from scipy import stats

from jaxresnet.report.claims import CLAIMS, CORRECTIONS, Claim
from jaxresnet.report.spread import Spread, Stat
from jaxresnet.report.verdicts import judge, rank_correlation
from tests.report.test_notes import arms_of


def judged(claim, accuracies):
    return judge(claim, accuracies, Spread.of(accuracies.values()), margin=1.0)


def correlated(paper, ours):
    return rank_correlation(paper, ours, Spread.of(ours.values()))


TWO = Claim("a over b and c", "table", (("a", "b"), ("a", "c")))
ONE = Claim("a over b", "table", (("a", "b"),))
THREE = Claim("a over b, and b over c", "table", (("a", "b"), ("a", "c"), ("b", "c")))
SAME = Claim("a as b and c", "table", (("a", "b"), ("a", "c")), equal=True)


def accuracies(a, b, c, spread=0.1, seeds=2):
    """Return accuracies of arms whose seeds differ by ``spread``. Differences of 2.25 times that are outside."""
    return {
        arm: Stat.of([mean + spread * (seed - (seeds - 1) / 2) for seed in range(seeds)])
        for arm, mean in {"a": a, "b": b, "c": c}.items()
    }


@pytest.mark.parametrize(
    ("claim", "means", "verdict"),
    [
        (ONE, (70, 60, 50), "holds"),
        (ONE, (60, 70, 50), "reversed"),
        (ONE, (60, 60.01, 50), "open: no difference is beyond the spread of the seeds"),
        (TWO, (70, 60, 50), "holds in both comparisons"),
        (TWO, (50, 60, 70), "reversed in both comparisons"),
        (TWO, (60, 50, 70), "in part: holds in 1, reversed in 1 of 2 comparisons"),
        (THREE, (60, 50, 40), "holds in all 3 comparisons"),
        (TWO, (60, 50, 60.01), "in part: holds in 1, open in 1 of 2 comparisons"),
        (TWO, (50, 60, 50.01), "not confirmed: reversed in 1, open in 1 of 2 comparisons"),
        (TWO, (60, 60, 60.01), "open: no difference is beyond the spread of the seeds"),
        (SAME, (60, 60.7, 59.3), "holds: all differences are within 1 point"),
        (SAME, (60, 60.9, 60.01), "open: differences of 1 point are within the spread of the seeds"),
        (SAME, (60, 61.1, 60.01), "open: differences of 1 point are within the spread of the seeds"),
        (SAME, (60, 61.3, 60.01), "does not hold: 1 of 2 differences are larger than 1 point"),
    ],
)
def test_verdicts(claim, means, verdict):
    assert judged(claim, accuracies(*means)).verdict == verdict


def test_a_difference_counts_if_its_interval_has_no_zero():
    """Student's t at 3 degrees of freedom is 3.182, the deviation of two seeds 0.1 / sqrt(2), of a mean 0.05."""
    limit = 3.1824 * 0.1 / math.sqrt(2)
    for difference, verdict in ((limit + 0.001, "holds"), (limit - 0.001, "open")):
        finding = judged(ONE, accuracies(60 + difference, 60, 50))
        assert finding.verdict.startswith(verdict)
        assert finding.differences[0].interval == pytest.approx(limit, rel=1e-4)


def test_the_range_of_differences():
    different = judged(TWO, accuracies(70, 60, 50))
    assert re.fullmatch(r"\+10\.00 ± 0\.\d\d to \+20\.00 ± 0\.\d\d", different.range)
    assert re.fullmatch(r"\+10\.00 ± 0\.\d\d", judged(TWO, accuracies(70, 60, 60)).range)
    assert judged(TWO, accuracies(70, 60, 50, seeds=1)).range == "+10.00 to +20.00"


def test_the_range_names_the_widest_interval_if_it_is_at_neither_end():
    arms = {"a": Stat.of([70.0, 70.1]), "b": Stat.of([60.0, 60.1]), "c": Stat.of([30.0, 50.0])}
    arms |= {f"steady {number}": Stat.of([number, number + 0.1]) for number in range(8)}
    claim = Claim("a over all", "table", (("a", "b"), ("a", "c"), ("a", "steady 0")))
    widest = judged(claim, arms).differences[1].interval
    assert judged(claim, arms).range == f"+10.00 ± 0.16 to +70.00 ± 0.16, up to ± {widest:.2f}"


def test_the_margin_of_equal_arms():
    arms = accuracies(60, 60.7, 59.3)
    verdict = judge(SAME, arms, Spread.of(arms.values()), margin=0.25).verdict
    assert verdict == "does not hold: 2 of 2 differences are larger than 0.25 points"


def test_one_seed_decides_nothing():
    finding = judged(ONE, accuracies(70, 60, 50, seeds=1))
    assert finding.verdict == "open: one seed per arm" and math.isnan(finding.differences[0].interval)


def test_a_claim_about_arms_without_runs_is_not_judged():
    assert judged(TWO, {"a": Stat.of([1.0]), "b": Stat.of([2.0])}) is None


def test_every_claim_is_about_arms_of_its_table():
    assert (len(CLAIMS), len(CORRECTIONS)) == (13, 9)
    for claim in (*CLAIMS, *CORRECTIONS):
        assert {arm for pair in claim.pairs for arm in pair} <= set(arms_of(claim.table))


def test_kendalls_tau_and_its_chance():
    paper = {"a": 3.0, "b": 2.0, "c": 1.0}
    same = correlated(paper, accuracies(70, 60, 50))
    assert (same.arms, same.tau, same.low, same.high) == (3, 1, 1, 1)
    assert same.chance == pytest.approx(1 / 6)  # one of six orders
    other = correlated(paper, accuracies(50, 60, 70))
    assert other.tau == -1 and other.chance == pytest.approx(1)
    one_pair_apart = correlated(paper, accuracies(60, 70, 50))
    assert one_pair_apart.tau == pytest.approx(1 / 3)


def test_the_interval_grows_with_the_spread_of_the_seeds():
    paper = {"a": 3.0, "b": 2.0, "c": 1.0}
    near = correlated(paper, accuracies(60.2, 60.1, 60.0))
    assert near.tau == 1 and near.low < 0 and near.high == 1
    alone = correlated(paper, accuracies(60.2, 60.1, 60.0, seeds=1))
    assert alone.tau == 1 and math.isnan(alone.low) and math.isnan(alone.high)


def test_arms_that_score_the_same_have_an_exact_chance_too():
    """Two of six orders put a first. They have two pairs of three in order, and the tie counts as none."""
    tied = correlated({"a": 3.0, "b": 2.0, "c": 1.0}, accuracies(70, 60, 60))
    assert tied.tau == pytest.approx(2 / 3) and tied.chance == pytest.approx(1 / 3)
    assert (tied.low, tied.high) == pytest.approx((2 / 3, 2 / 3))  # one function, which cannot outscore itself


def test_the_chance_of_many_arms_is_that_of_random_orders():
    paper = {name: float(number) for number, name in enumerate("abcdefghi")}
    ours = {name: Stat.of([value, value + 0.1]) for name, value in paper.items()}
    reversed_pair = ours | {"a": ours["b"], "b": ours["a"]}
    assert correlated(paper, ours).chance < 0.001
    expected = stats.kendalltau([*range(9)], [1, 0, *range(2, 9)], alternative="greater").pvalue
    assert correlated(paper, reversed_pair).chance == pytest.approx(expected, abs=0.001)
    backwards = {name: ours[other] for name, other in zip(paper, reversed(paper), strict=True)}
    assert correlated(paper, backwards).tau == -1 and correlated(paper, backwards).chance > 0.999


def test_two_arms_have_no_order_to_speak_of():
    assert correlated({"a": 1.0, "b": 2.0, "d": 3.0}, accuracies(1, 2, 3)) is None
