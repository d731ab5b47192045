"""What a student saves against its teacher, and what is told apart."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kdwatts.metrics.quantity import Quantity
from multirun_analysis.statistics.accuracy_words import MeanInterval
from multirun_analysis.statistics.candidates import Candidate
from multirun_analysis.statistics.savings import (
    absolute_interval,
    differ_in_joules,
    more_to_build,
    positive_interval,
    saving,
)


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


def built_at(own_j: float, quality: str, inherited_j: float = 0.0) -> Candidate:
    """A setting of one seed on a machine that all share, whose record states no random error."""
    one = Quantity(own_j, 0.0, 0.5 * own_j, "J", quality)
    nothing = Quantity(None)
    return Candidate(
        "a", "a", ("run",), 1e9, quality, MeanInterval(None), MeanInterval(None), (), (), one,
        replace(one, value=inherited_j, shared_sd=0.5 * inherited_j),
        frozenset({str(inherited_j)}), nothing, "alike", 3, nothing, None, None,
        frozenset({("host", "cpu", None, 0)}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (built_at(43.6, "estimated"), False),
        (built_at(24.6, "estimated", 34.0), False),
        (built_at(200.0, "estimated"), True),
        (built_at(43.5, "estimated", 669.0), True),
    ],
)
def test_estimates_are_told_apart_beyond_what_their_model_does_not_share(
    other: Candidate, told: bool
):
    """43.5 J against 43.6: 1.96 x 0.2 x hypot(43.5, 43.6) = 24 J; against 24.6 + 34.0 J, 15 J in
    24; against 200 J, 156 in 80; with 669 J inherited, 669 in 263."""
    one = built_at(43.5, "estimated")
    assert differ_in_joules(other, one, more_to_build(other, one)) is told


def test_a_sensors_random_error_is_the_one_that_it_states():
    one, other = built_at(43.5, "measured"), built_at(43.6, "measured")
    assert differ_in_joules(other, one, more_to_build(other, one))
