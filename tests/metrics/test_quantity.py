"""Numbers with two kinds of error, by hand."""

from __future__ import annotations

import math

import pytest

from kdwatts.metrics.quantity import (
    Quantity,
    add,
    difference,
    interval_95,
    mean_of,
    ratio,
    scaled,
)
from kdwatts.metrics.student_t import NORMAL_975, t_quantile


def test_what_repeats_average_out_adds_in_squares_and_what_they_share_as_it_is():
    total = add([Quantity(100.0, 3.0, 5.0, "J"), Quantity(200.0, 4.0, 10.0, "J")])
    assert total == Quantity(300.0, 5.0, 15.0, "J")


def test_a_shared_error_cancels_in_a_difference_of_one_meter_alone():
    """5 % of 300 J and of 200 J: 5 J of the difference, which is 5 % of it."""
    one, other = Quantity(300.0, 3.0, 15.0, "J"), Quantity(200.0, 4.0, 10.0, "J")
    assert difference(one, other) == Quantity(100.0, 5.0, 5.0, "J")
    apart = difference(one, other, same_meter=False)
    assert apart.shared_sd == pytest.approx(math.hypot(15.0, 10.0))


def test_a_sum_with_a_term_that_is_missing_is_missing():
    assert add([Quantity(1.0, 0.1), Quantity(None)]).value is None
    assert difference(Quantity(1.0), Quantity(None)).value is None


def test_terms_of_two_qualities_are_mixed():
    parts = [Quantity(1.0, 0.1, quality="measured"), Quantity(1.0, 0.1, quality="estimated")]
    assert add(parts).quality == "mixed"


def test_an_unknown_error_stays_unknown_in_a_sum():
    total = add([Quantity(1.0, None, 0.1), Quantity(1.0, 0.1, 0.1)])
    assert (total.random_sd, total.shared_sd) == (None, 0.2)
    assert interval_95(total) is None


def test_three_measurements_have_the_interval_of_two_degrees_of_freedom():
    """2, 3, 4: mean 3, sd of the mean 1 / sqrt(3), t 4.303."""
    mean = mean_of([2.0, 3.0, 4.0], unit="J")
    ends = interval_95(mean)
    assert ends == pytest.approx((3 - 4.3027 / math.sqrt(3), 3 + 4.3027 / math.sqrt(3)), rel=1e-4)


def test_half_of_an_interval_is_known_without_forming_its_ends():
    """A small error of a large number: the ends would have lost its last digits."""
    one = Quantity(1e9, 1.0 / 3, 0.0)
    assert one.half_width == one.random_half_width == NORMAL_975 / 3
    assert Quantity(1e9, None, 1.0).half_width is None


def test_calibration_is_in_an_absolute_interval_and_not_in_a_comparison():
    one = Quantity(100.0, 3.0, 4.0)
    assert interval_95(one) == pytest.approx((100 - 5 * NORMAL_975, 100 + 5 * NORMAL_975))
    ends = interval_95(one, calibration=False)
    assert ends == pytest.approx((100 - 3 * NORMAL_975, 100 + 3 * NORMAL_975))


def test_degrees_of_a_difference_are_those_of_welch_and_satterthwaite():
    """Equal variances of 2 degrees each have 4; one much larger variance has its own 2."""
    alike = difference(Quantity(5.0, 1.0, degrees=2), Quantity(3.0, 1.0, degrees=2))
    assert alike.degrees == pytest.approx(4)
    unlike = difference(Quantity(5.0, 1.0, degrees=2), Quantity(3.0, 1e-6, degrees=2))
    assert unlike.degrees == pytest.approx(2)


def test_a_ratio_of_one_meter_is_as_sure_as_its_readings_repeat():
    close = ratio(Quantity(4.0, 0.0, 0.4), Quantity(2.0, 0.0, 0.2))
    assert (close.low, close.high) == (2.0, 2.0)
    wide = ratio(Quantity(4.0, 0.0, 0.4), Quantity(2.0, 0.0, 0.2), same_meter=False)
    assert wide.low is not None and wide.high is not None
    assert wide.low < 1.6 and wide.high > 2.4


def test_a_ratio_of_single_measurements_has_a_value_and_no_interval():
    found = ratio(Quantity(4.0), Quantity(2.0, 0.1))
    assert (found.value, found.low, found.high) == (2.0, None, None)


def test_an_exact_factor_scales_both_errors():
    kwh = scaled(Quantity(7.2e6, 3.6e6, 7.2e5, "J"), 1 / 3.6e6, unit="kWh")
    assert (kwh.value, kwh.random_sd, kwh.shared_sd) == pytest.approx((2.0, 1.0, 0.2))
    assert kwh.unit == "kWh"


@pytest.mark.parametrize(("degrees", "tabled"), [(1, 12.706), (2, 4.303), (9, 2.262), (30, 2.042)])
def test_quantiles_are_those_of_the_tables(degrees: int, tabled: float):
    assert t_quantile(degrees) == pytest.approx(tabled, abs=5e-4)
    assert t_quantile(math.inf) == NORMAL_975
    assert t_quantile(math.inf, 0.90) == pytest.approx(1.6449, abs=1e-4)
