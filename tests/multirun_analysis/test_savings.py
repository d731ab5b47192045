"""What a student saves against its teacher, and what is told apart."""

from __future__ import annotations

import math

import pytest

from kdwatts.metrics.quantity import Quantity
from multirun_analysis.savings import absolute_interval, positive_interval, saving


def test_a_saving_has_fiellers_interval_of_the_share_and_halves_in_squares_of_the_joules():
    """W = 20 +- 1.96, T = 100 +- 5.88. Ratio: (2000 +- sqrt(2000^2 - 9965.4 x 396.16)) / 9965.4,
    so 0.1778 to 0.2236. Joules: 80 +- sqrt(1.96^2 + 5.88^2), so 80 +- 6.198."""
    found = saving(Quantity(20.0, 1.0, 0.0), Quantity(100.0, 3.0, 0.0))
    assert found.share.value == pytest.approx(0.8)
    assert found.share.low == pytest.approx(1 - 0.2236, abs=1e-4)
    assert found.share.high == pytest.approx(1 - 0.1778, abs=1e-4)
    assert (found.joules.low, found.joules.high) == pytest.approx((73.80, 86.20), abs=0.01)


def test_calibration_widens_a_saving_in_joules_and_leaves_its_share():
    """10 % on both: ln(80 / 73.80) = 0.0807 and 0.196 in squares are 0.2120: 80 exp(-0.2120)."""
    without = saving(Quantity(20.0, 1.0, 0.0), Quantity(100.0, 3.0, 0.0))
    found = saving(Quantity(20.0, 1.0, 2.0), Quantity(100.0, 3.0, 10.0))
    assert found.share == without.share
    assert (found.joules.low, found.joules.high) == pytest.approx((64.72, 98.67), abs=0.02)


def test_however_bad_its_calibration_a_meter_that_tells_two_models_apart_resolves_the_saving():
    found = saving(Quantity(20.0, 0.1, 10.0), Quantity(100.0, 0.1, 50.0))
    assert found.is_resolved and found.joules.low is not None and found.joules.low > 0


@pytest.mark.parametrize(
    "taken",
    [Quantity(90.0, 6.0), Quantity(99.0, 0.1), Quantity(20.0, None), Quantity(104.0, 1.0)],
)
def test_a_saving_whose_interval_holds_0_or_is_unknown_has_no_ends(taken: Quantity):
    """100 - 90 = 10 against sqrt(11.76^2 + 5.88^2) = 13.1."""
    found = saving(taken, Quantity(100.0, 3.0))
    assert not found.is_resolved
    assert (found.share.low, found.share.high, found.joules.low) == (None, None, None)
    assert found.share.value is not None


def test_a_student_that_surely_draws_more_saves_less_than_nothing():
    found = saving(Quantity(150.0, 1.0), Quantity(100.0, 1.0))
    assert found.share.high is not None and found.share.high < 0
    assert found.joules.high is not None and found.joules.high < 0


def test_share_and_joules_are_resolved_together():
    """Both where |T - W| is above sqrt(A^2 + B^2); the share by Fieller, the joules by squares."""
    for sd in (0.1, 1.0, 4.9, 5.0, 5.1, 5.2, 20.0, 60.0):
        taken, teacher = Quantity(80.0, sd), Quantity(100.0, sd)
        found = saving(taken, teacher)
        assert found.is_resolved == (math.hypot(1.96 * sd, 1.96 * sd) < 20)
        assert (found.share.low is not None and found.share.low > 0) == found.is_resolved


def test_an_amount_never_reaches_0_by_calibration():
    found = absolute_interval(Quantity(100.0, 1.0, 50.0))
    assert found.low is not None and 30 < found.low < 40
    assert not positive_interval(1.0, 2.0, 0.0).is_bounded
