"""Joules between two readings: under power samples, and by what a counter may do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdwatts.telemetry.integration import (
    counter_step_j,
    integrate_power_j,
    may_be_step,
    stands_still,
)


def test_a_ramp_from_100_w_to_300_w_over_2_s_is_400_j():
    assert integrate_power_j([0, 2], [100, 300]) == 400


def test_samples_further_apart_than_the_gap_add_nothing():
    assert integrate_power_j([0, 1, 5, 6], [100, 100, 100, 100], max_gap_s=3) == 200


def test_one_sample_has_no_energy():
    assert integrate_power_j([3], [250]) == 0


def test_unequal_lists_are_refused_with_both_lengths():
    with pytest.raises(ValueError, match="2 times but 1 powers"):
        integrate_power_j([0, 1], [100])


def test_times_that_go_back_are_refused_with_both_times():
    with pytest.raises(ValueError, match=r"time 1 s comes after 2 s"):
        integrate_power_j([2, 1], [100, 100])


def test_a_counter_step_is_accepted_up_to_one_and_a_half_limits_and_two_updates():
    # 1.5 * 700 W * (0.1 s + 2 * 0.1 s) = 315 J.
    assert counter_step_j(10, 325, 0.1, limit_w=700, delta_s=0.1) == 315
    assert counter_step_j(10, 325.1, 0.1, limit_w=700, delta_s=0.1) is None


def test_a_counter_that_falls_without_a_range_was_reset():
    assert counter_step_j(10, 9, 0.1, limit_w=700, delta_s=0.1) is None


def test_a_counter_that_falls_within_its_range_wrapped():
    # 990 -> 1000 = 0 -> 20 is 30 J.
    assert counter_step_j(990, 20, 0.1, limit_w=500, delta_s=0.001, range_j=1000) == 30


def test_a_fall_too_large_for_a_wrap_was_a_reset():
    # Wrapped it would be 500 J in 0.1 s; 1.5 * 500 W * 0.102 s = 76.5 J is the most.
    assert counter_step_j(600, 100, 0.1, limit_w=500, delta_s=0.001, range_j=1000) is None


def test_after_a_silence_long_enough_for_unseen_wraps_the_step_is_refused():
    # 500 J at 500 W take 1 s.
    assert counter_step_j(0, 10, 1.1, limit_w=500, delta_s=0.001, range_j=1000) is None


# A device of 100 W whose counter moves every 0.1 s: 1.5 x 100 W x (1 s + 0.2 s) = 180 J in 1 s.
STEPS_J = [-1.0, 0.0, 179.9, 180.1, math.nan, math.inf]


def test_a_step_may_be_as_large_as_half_more_than_the_limit_gives_in_its_time_and_two_updates():
    may_be = [may_be_step(step_j, 1.0, limit_w=100.0, delta_s=0.1) for step_j in STEPS_J]
    assert may_be == [False, True, True, False, False, False]


@pytest.mark.parametrize("limit_w", [100.0, math.inf])
def test_an_array_of_steps_is_judged_as_each_of_them(limit_w: float):
    steps_j = np.array(STEPS_J)
    each = [counter_step_j(0.0, j, 1.0, limit_w=limit_w, delta_s=0.1) is not None for j in STEPS_J]
    assert may_be_step(steps_j, np.ones(6), limit_w=limit_w, delta_s=0.1).tolist() == each
    stood_s = np.array([0.9, 1.1, 1.1])
    still = stands_still(np.array([0.0, 0.0, 1.0]), stood_s, limit_w=limit_w)
    assert still.tolist() == [False, math.isfinite(limit_w), False]
