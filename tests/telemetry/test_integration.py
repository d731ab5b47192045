"""What a counter may do from one reading to the next: one rule, for a step and for arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdwatts.telemetry.integration import counter_step_j, may_be_step, stands_still

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


def test_a_model_that_is_read_twice_at_one_moment_has_drawn_nothing():
    assert counter_step_j(5.0, 5.0, 0.0, limit_w=math.inf, delta_s=0.0) == 0
