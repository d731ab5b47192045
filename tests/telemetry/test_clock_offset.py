"""The offset of two clocks, from exchanges whose times are known."""

from __future__ import annotations

import pytest

from kdwatts.telemetry.clock_offset import DRIFT, Exchange, offset_at


def test_the_other_clock_was_read_halfway_between_question_and_answer():
    clock = offset_at(10.4, [Exchange(asked_s=10.0, remote_s=3610.2, answered_s=10.4)])
    assert clock == pytest.approx((3600.0, 0.2))


@pytest.mark.parametrize("way_there_s", [0.0, 0.1, 0.4])
def test_the_truth_is_within_the_skew_however_the_round_trip_is_divided(way_there_s: float):
    clock = offset_at(10.4, [Exchange(10.0, 10.0 + way_there_s + 5000.0, 10.4)])
    assert abs(clock.offset_s - 5000.0) <= clock.skew_s + 1e-9


def test_the_least_round_trip_bounds_the_offset_best():
    slow, quick = Exchange(10.0, 15.4, 10.5), Exchange(11.0, 16.01, 11.02)
    clock = offset_at(11.02, [slow, quick, slow])
    assert clock == pytest.approx((5.0, 0.01))


def test_an_old_exchange_is_worth_less_as_clocks_drift():
    old, new = Exchange(0.0, 5.001, 0.002), Exchange(1000.0, 1005.3, 1000.2)
    assert offset_at(10.0, [old]).skew_s == pytest.approx(0.001 + DRIFT * 9.998)
    assert offset_at(1000.2, [old, new]).skew_s == pytest.approx(0.1)


def test_the_truth_is_within_the_skew_where_both_clocks_are_slewed_apart_as_fast_as_they_can():
    # Read at 0 without a round trip. After 100 s of true time one clock gained 500 ppm of it, and
    # the other lost as much.
    clock = offset_at(99.95, [Exchange(0.0, 5000.0, 0.0)])
    assert abs(clock.offset_s - (5100.05 - 99.95)) <= clock.skew_s + 1e-4
