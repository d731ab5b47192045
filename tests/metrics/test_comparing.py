"""Tests of the tests: worked examples, tables, and simulations of what they promise."""

import math

import numpy as np
import pytest

from kdwatts.metrics.comparing import (
    equivalence_p,
    equivalence_power,
    holm,
    holm_over_margins,
    paired_p,
    paired_power,
    seeds_needed,
    seeds_needed_for_equivalence,
)

FEW = 4000
"""Draws of a simulation: a share of 5 % has a standard error of 0.34 %, one of 80 % of 0.63 %."""


def three(d: float) -> list[float]:
    """Three differences with sd 1 and mean d."""
    return [d - 1, d, d + 1]


def test_p_of_a_paired_t_test_is_that_of_a_worked_example():
    # Differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3) with 2 degrees of freedom, where the
    # distribution has a closed form: p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14).
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(1 - (12 / 14) ** 0.5)
    # One degree of freedom is Cauchy's: t = 3 for 1 and 2, p = 1 - 2 atan(3) / pi = 0.2048.
    assert paired_p([1.0, 2.0]) == pytest.approx(0.20483, abs=1e-5)
    assert paired_p([-1.0, -2.0]) == paired_p([1.0, 2.0])


def test_differences_that_are_all_alike_have_no_p_and_those_that_are_0_have_1():
    assert paired_p([2.0, 2.0]) is None
    assert paired_p([0.3 - 0.2, 0.2 - 0.1], scale=0.2) is None
    assert paired_p([0.0, 0.0]) == 1.0
    assert paired_p([5.0]) is None


def test_holm_is_that_of_a_worked_example():
    # Ordered 0.01, 0.015, 0.02, 0.04 times 4, 3, 2, 1: 0.04, 0.045, 0.04 raised to 0.045, and 0.04
    # raised to 0.045.
    assert holm([0.04, 0.01, 0.02, 0.015]) == pytest.approx([0.045, 0.04, 0.045, 0.045])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_over_margins_counts_the_others_at_their_narrowest():
    # At the wide margin 0.01 is beside 0.03 and 0.2: three times. 0.004 is beside 0.02 and 0.2.
    found = holm_over_margins([[0.01, 0.02], [0.004, 0.03], [0.2]])
    assert found[0] == pytest.approx([0.03, 0.06])
    assert found[1] == pytest.approx([0.012, 0.06])
    assert found[2] == pytest.approx([0.2])
    # One margin each is Holm's own, and a narrow margin is never surer than a wide one.
    ps = [0.04, 0.01, 0.02, 0.015]
    assert [p for (p,) in holm_over_margins([[p] for p in ps])] == pytest.approx(holm(ps))
    assert holm_over_margins([[0.02, 0.01]]) == [[0.02, 0.02]]
    assert holm_over_margins([]) == []


def test_power_is_that_of_the_noncentral_t():
    scipy_stats = pytest.importorskip("scipy.stats")
    for d, n, alpha in ((1.0, 10, 0.05), (0.75, 23, 0.0125), (3.0, 3, 0.05), (0.0, 5, 0.05)):
        limit = scipy_stats.t.ppf(1 - alpha / 2, n - 1)
        exact = scipy_stats.nct.sf(limit, n - 1, d * math.sqrt(n))
        exact += scipy_stats.nct.cdf(-limit, n - 1, d * math.sqrt(n)) if d else alpha / 2
        assert paired_power(d, n, alpha) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize(
    ("d", "seeds"),
    [
        # One, four and ten comparisons. At d = 0.75 of four, 23 pairs have 79.97 %.
        (0.5, (34, 48, 58)), (0.75, (16, 24, 28)), (1, (10, 15, 18)), (1.5, (6, 9, 10)),
        (2, (5, 7, 8)), (3, (4, 5, 6)), (4, (3, 4, 5)), (6, (3, 4, 4)), (10, (3, 3, 4)),
    ],
)  # fmt: skip
def test_seeds_needed_are_those_of_the_table_of_a_simulation(d, seeds):
    found = tuple(seeds_needed(three(d), alpha=0.05 / m, most=60) for m in (1, 4, 10))
    assert found == seeds


def test_seeds_needed_are_not_told_without_a_spread_and_above_the_most():
    assert seeds_needed([3.0]) is None
    assert seeds_needed([3.0, 3.0]) is None
    assert seeds_needed([0.0, 0.0]) is None
    assert seeds_needed([0.3 - 0.2, 0.2 - 0.1], scale=0.2) is None
    assert seeds_needed([-1.0, 1.0]) == 51
    assert seeds_needed([-1.0, 1.1], most=10) == 11
    # A difference that any two seeds would show asks for three all the same.
    assert seeds_needed([1000.0, 1000.1]) == 3


def test_seeds_needed_exceed_those_at_hand_wherever_these_do_not_settle_it():
    rng = np.random.default_rng(3)
    for n in (2, 3, 5, 8):
        for differences in rng.normal(1.0, 1.0, (40, n)).tolist():
            p = paired_p(differences)
            assert p is not None and (p < 0.05 / 4 or seeds_needed(differences, alpha=0.05 / 4) > n)


def test_equivalence_is_that_of_a_worked_example():
    # Against 100 each, 101, 102, 103 less 105: mean -3, s = 1, t = -3 sqrt(3) with 2 degrees of
    # freedom, one-sided p = (1 - t / sqrt(t^2 + 2)) / 2. That they are above 95 is surer.
    p = (1 - (27 / 29) ** 0.5) / 2
    assert equivalence_p([101.0, 102.0, 103.0], [100.0] * 3, 0.05) == pytest.approx(p)
    # Below the baseline it is the other test that decides: less 95 they have the mean 3.
    assert equivalence_p([97.0, 98.0, 99.0], [100.0] * 3, 0.05) == pytest.approx(p)
    assert equivalence_p([108.0, 109.0, 110.0], [100.0] * 3, 0.05) > 0.9
    # Of the baseline, not of the other: 1.05 * 100, 200, 300 less 101, 202, 303 are 4, 8, 12.
    ratio = (1 - (12 / 14) ** 0.5) / 2
    assert equivalence_p([101.0, 202.0, 303.0], [100.0, 200.0, 300.0], 0.05) == pytest.approx(ratio)


def test_nothing_is_shown_to_be_the_same_by_one_pair_or_without_a_spread():
    assert equivalence_p([100.0], [100.0], 0.05) is None
    assert equivalence_p([100.0, 100.0], [100.0, 100.0], 0.05) is None
    assert equivalence_p([-1.0, -1.1], [-1.0, -1.2], 0.05) is None
    assert seeds_needed_for_equivalence([100.0, 100.0], [100.0, 100.0], 0.05) is None
    assert seeds_needed_for_equivalence([100.0], [100.0], 0.05) is None


@pytest.mark.parametrize(
    ("width", "seeds"),
    [(0.5, (36, 53)), (0.75, (17, 25)), (1, (11, 16)), (1.5, (6, 9)), (2, (4, 6)), (3, (3, 5))],
)
def test_seeds_for_equivalence_are_those_of_the_table_of_a_simulation(width, seeds):
    # Differences of sd 2 around a baseline of 100; the observed mean, here 1, is no part of it.
    values = [99.0, 101.0, 103.0]
    found = tuple(
        seeds_needed_for_equivalence(values, [100.0] * 3, 0.02 * width, alpha=0.05 / m, most=60)
        for m in (1, 4)
    )
    assert found == seeds


def draws(seed: int, mean: float, shape: tuple[int, ...]) -> list:
    return np.random.default_rng(seed).normal(mean, 1.0, shape).tolist()


@pytest.mark.parametrize("n", [3, 8])
def test_of_four_settings_like_one_baseline_any_differs_by_chance_in_at_most_1_of_20(n):
    """The worst case of a sweep: differences share the baseline's own noise."""
    false = 0
    for *settings, base in draws(n, 0.0, (FEW, 5, n)):
        ps = [paired_p([a - b for a, b in zip(s, base, strict=True)]) for s in settings]
        false += min(holm([p for p in ps if p is not None])) < 0.05
    assert false / FEW <= 0.05 + 3 * 0.0034


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("ratio", [1.05, 0.95])
def test_settings_at_the_edge_of_the_margin_pass_as_the_same_in_at_most_1_of_20(n, ratio):
    """Mean 30 times the noise of the baseline and a margin of 5 %: 1.5 sd."""
    same = 0
    for values, base in draws(n, 0.0, (FEW, 2, n)):
        p = equivalence_p([ratio * 30 + v for v in values], [30 + b for b in base], 0.05)
        same += p is not None and p < 0.05
    assert same / FEW <= 0.05 + 3 * 0.0034
    # Nor is it a test that never passes: of equal settings eight pairs show more.
    assert n == 3 or same / FEW > 0.03


def test_the_smallest_margin_of_several_is_told_falsely_in_at_most_1_of_20_sweeps():
    """Four settings at the edges of four margins: each may be told the margin below its own."""
    margins = (0.10, 0.05, 0.03, 0.01)
    false, told = 0, 0
    for *settings, base in draws(2, 0.0, (1000, 5, 8)):
        ps = []
        for edge, noise in zip((0.10, 0.05, 0.03, 0.01), settings, strict=True):
            values = [(1 + edge) * 200 + v for v in noise]
            ps.append([equivalence_p(values, [200 + b for b in base], x) for x in margins])
        passed = [[p < 0.05 for p in found] for found in holm_over_margins(ps)]
        # At its own margin each setting is at the edge, and beyond all that are narrower.
        false += any(any(found[k:]) for k, found in enumerate(passed))
        told += sum(map(sum, passed))
    assert false / 1000 <= 0.05 + 3 * 0.007
    assert told > 2 * 1000


@pytest.mark.parametrize(("d", "m"), [(1.0, 1), (1.0, 4), (2.0, 4)])
def test_the_seeds_needed_settle_four_of_five(d, m):
    n = seeds_needed(three(d), alpha=0.05 / m)
    found = [paired_p(differences) for differences in draws(m, d, (FEW, n))]
    settled = sum(p is not None and p < 0.05 / m for p in found) / FEW
    assert settled == pytest.approx(paired_power(d, n, 0.05 / m), abs=0.02)
    # 81, 81 and 86 %: n is a whole number. One fewer would not do.
    assert settled > 0.77
    assert paired_power(d, n - 1, 0.05 / m) < 0.8


def test_the_seeds_needed_for_equivalence_show_four_of_five_equal_settings_to_be_the_same():
    # Differences have the sd sqrt(2), the margin is 1 % of 141.42: one sd, so 11 pairs.
    same, mean = 0, 100 * math.sqrt(2)
    for values, base in draws(7, 0.0, (FEW, 2, 11)):
        p = equivalence_p([mean + v for v in values], [mean + b for b in base], 0.01)
        same += p is not None and p < 0.05
    assert same / FEW == pytest.approx(equivalence_power(1.0, 11), abs=0.02)
    assert same / FEW > 0.77
    assert equivalence_power(1.0, 10) < 0.8


def test_a_difference_of_three_pairs_looks_larger_than_it_is():
    """As `seeds_needed` says: the mean of 1 / s over three draws of sd 1 is sqrt(pi)."""
    ds = [abs(np.mean(x)) / np.std(x, ddof=1) for x in draws(5, 2.0, (FEW, 3))]
    assert np.mean(ds) / 2 == pytest.approx(math.sqrt(math.pi), rel=0.1)
