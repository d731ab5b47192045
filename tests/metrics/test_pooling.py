"""Means over runs: their coverage by simulation, and what runs disagree by."""

from __future__ import annotations

import numpy as np
import pytest

from kdwatts.metrics.pooling import Spread, agree_p, pool, relative_spread
from kdwatts.metrics.quantity import interval_95
from kdwatts.metrics.student_t import mean_and_half_width


def test_three_runs_are_their_mean_with_two_degrees_of_freedom():
    pooled = pool([180.0, 190.0, 200.0], unit="J/token", shared_relative=0.05)
    assert (pooled.value, pooled.unit, pooled.degrees) == (190.0, "J/token", 2)
    assert pooled.random_sd == pytest.approx(10 / 3**0.5)
    assert pooled.shared_sd == pytest.approx(9.5)


def test_a_single_run_has_no_error_of_its_own():
    assert pool([180.0]).random_sd is None
    assert interval_95(pool([180.0])) is None


def test_a_single_run_may_borrow_the_spread_of_others_on_its_machine():
    """4 % between runs, known by 4 degrees of freedom."""
    pooled = pool([400.0], borrowed=Spread(0.04, 4))
    assert (pooled.random_sd, pooled.degrees) == (16.0, 4)


def test_nothing_measured_is_missing():
    assert pool([]).value is None
    assert pool([]).quality == "missing"


def test_the_common_spread_weighs_groups_by_their_degrees_of_freedom():
    """Relative deviations 0.1 of two values (1 degree), 0 of three (2 degrees)."""
    found = relative_spread([[90.0, 110.0], [5.0, 5.0, 5.0], [7.0]])
    assert found is not None
    assert found.degrees == 3
    assert found.relative_sd == pytest.approx((2 * 0.1**2 / 3) ** 0.5)
    assert relative_spread([[1.0], [2.0]]) is None


def test_measurements_of_0_tell_nothing_of_the_common_spread():
    assert relative_spread([[0.0, 0.0], [90.0, 110.0]]) == relative_spread([[90.0, 110.0]])
    assert relative_spread([[0.0, 0.0, 0.0]]) is None


def test_run_means_hold_the_truth_in_95_of_100_cases_and_windows_in_far_fewer():
    """20,000 worlds of 5 runs x 5 windows, both with one standard deviation: 95 against 72 %."""
    generator = np.random.default_rng(0)
    truth, worlds = 100.0, 20_000
    run = generator.normal(0, 1, (worlds, 5, 1))
    windows = truth + run + generator.normal(0, 1, (worlds, 5, 5))
    held = by_windows = 0
    for world in windows[:4000]:
        ends = interval_95(pool(world.mean(axis=1).tolist()))
        assert ends is not None
        held += ends[0] <= truth <= ends[1]
        mean, half = mean_and_half_width(world.ravel().tolist())
        by_windows += abs(mean - truth) <= (half or 0.0)
    assert held / 4000 == pytest.approx(0.95, abs=0.01)
    assert by_windows / 4000 < 0.80


def test_runs_of_one_mean_disagree_in_5_of_100_cases():
    generator = np.random.default_rng(1)
    found = [agree_p(generator.normal(9, 1, (3, 4)).tolist()) for _ in range(4000)]
    assert sum(p is not None and p < 0.05 for p in found) / 4000 == pytest.approx(0.05, abs=0.012)


def test_runs_far_apart_disagree():
    p = agree_p([[1.0, 1.1, 0.9], [2.0, 2.1, 1.9]])
    assert p is not None
    assert p < 0.001


def test_what_has_no_windows_to_judge_by_is_not_judged():
    assert agree_p([[1.0], [2.0]]) is None
    assert agree_p([[1.0, 1.1]]) is None
    assert agree_p([[1.0, 1.0], [2.0, 2.0]]) is None
