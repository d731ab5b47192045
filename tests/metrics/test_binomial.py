"""Intervals from counts, against values in print and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from kdwatts.metrics.binomial import percentile_ranks, share_interval


def test_the_interval_of_8_in_10_is_that_of_clopper_and_pearson():
    assert share_interval(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)


def test_all_of_n_have_a_lower_bound_of_0_05_to_the_1_in_n():
    """One-sided, 95 %: 299 requests show that 99 of 100 are good, 298 do not."""
    bounds = [share_interval(n, n, confidence=0.90) for n in (298, 299)]
    assert [bound[0] if bound else None for bound in bounds] == pytest.approx(
        [0.05 ** (1 / 298), 0.05 ** (1 / 299)]
    )
    assert 0.05 ** (1 / 298) < 0.99 < 0.05 ** (1 / 299)
    assert share_interval(0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert share_interval(0, 0) is None


def test_the_median_of_10_draws_lies_between_the_second_and_the_ninth():
    """P(Bin(10, 0.5) <= 1) is 0.0107, of <= 2 it is 0.0547."""
    assert percentile_ranks(10, 0.5) == (2, 9)


@pytest.mark.parametrize("count", [1, 50, 120, 298])
def test_the_99th_percentile_of_fewer_than_299_draws_has_no_upper_end(count):
    assert percentile_ranks(count, 0.99)[1] is None


def test_the_99th_percentile_of_300_draws_ends_at_the_largest():
    low, high = percentile_ranks(300, 0.99)
    assert high == 300
    assert low is not None and 280 < low < 295


def test_no_draws_have_no_percentile():
    assert percentile_ranks(0, 0.5) == (None, None)


@pytest.mark.parametrize(("count", "share"), [(30, 0.5), (100, 0.9), (300, 0.99), (1000, 0.99)])
def test_the_true_percentile_lies_between_its_ranks_in_at_least_95_of_100_cases(count, share):
    draws = np.sort(np.random.default_rng(0).uniform(size=(4000, count)), axis=1)
    low, high = percentile_ranks(count, share)
    assert low is not None and high is not None
    held = np.mean((draws[:, low - 1] <= share) & (share <= draws[:, high - 1]))
    assert held >= 0.945
