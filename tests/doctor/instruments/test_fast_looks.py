"""A sensor's period, lag and window, recovered from readings that were made from known ones."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from kdwatts.doctor.instruments.fast_looks import Looks, period_of, sensor_times
from kdwatts.doctor.instruments.known_load import Pulse, uneven_s
from kdwatts.telemetry.readings import Reading

LOW_W, HIGH_W = 80.0, 600.0


def watts(time_s: float, drawn: list[Pulse]) -> float:
    return HIGH_W if any(on_s <= time_s < off_s for on_s, off_s in drawn) else LOW_W


def made(
    *, window_s: float, period_s: float, lag_s: float = 0.0, noise: float = 0.03
) -> tuple[Looks, list[Pulse]]:
    """What a sensor says when the load is looked at about each millisecond.

    The mean over its window is that of 200 moments in it, each with noise of its own.
    """
    dice, drawn, time_s = random.Random(0), [], 100.0
    turns_s = uneven_s(8.0)
    for on_s, off_s in zip(turns_s[::2], turns_s[1::2], strict=True):
        drawn.append(Pulse(time_s, time_s + on_s))
        time_s += on_s + off_s
    readings, told = [], (math.nan, 0.0)
    now_s = 99.0
    while now_s < time_s:
        renewed_s = math.floor(now_s / period_s) * period_s
        if renewed_s != told[0]:
            moments_s = [renewed_s - lag_s - window_s * (k + 0.5) / 200 for k in range(200)]
            mean_w = sum(watts(moment_s, drawn) for moment_s in moments_s) / 200
            told = renewed_s, round(mean_w * (1 + dice.gauss(0, noise)), 3)
        readings.append(Reading(now_s, None, told[1]))
        now_s += dice.uniform(0.0008, 0.0016)
    return Looks(readings), drawn


@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize("window_s", [0.025, 0.1, 1.0])
def test_window_lag_and_period_of_a_sensor_lie_in_their_intervals(window_s: float, period_s: float):
    looks, drawn = made(window_s=window_s, period_s=period_s, lag_s=0.03)
    power = looks.changes("power_w")
    times = sensor_times(power, drawn)
    assert times is not None
    assert times.window_s.low <= window_s <= times.window_s.high
    assert times.lag_s.low <= 0.03 <= times.lag_s.high
    # An interval that holds everything would say nothing.
    assert times.window_s.high - times.window_s.low < max(0.02, 0.15 * window_s)
    assert times.lag_s.high - times.lag_s.low < 0.08
    assert times.high_w == pytest.approx(HIGH_W, rel=0.02)
    period = period_of(power)
    assert period is not None and period.number == pytest.approx(period_s, rel=1e-3)


def test_a_sensor_that_does_not_follow_the_load_has_no_lag_and_no_window():
    looks, drawn = made(window_s=0.025, period_s=0.1)
    later = [Pulse(on_s + 500, off_s + 500) for on_s, off_s in drawn]
    assert sensor_times(looks.changes("power_w"), later) is None
    dice = random.Random(1)
    noise = Looks([Reading(one.time_s, None, dice.random()) for one in looks.readings[::50]])
    assert sensor_times(noise.changes("power_w"), drawn) is None


def test_renewals_that_were_not_seen_do_not_change_the_period():
    times_s = [7.0 + 0.02 * k for k in range(400) if k % 7 and k % 11]
    dice = random.Random(2)
    readings = [
        Reading(at_s + shift_s, float(k))
        for k, time_s in enumerate(times_s)
        for at_s, shift_s in ((time_s, dice.uniform(0, 0.001)), (time_s + 0.015, 0.0))
    ]
    period = period_of(Looks(readings).changes("energy_counter_j"))
    assert period is not None and period.random_half_width is not None
    assert abs(period.number - 0.02) < 1e-4
    assert period.random_half_width < 1e-4


def test_a_value_that_changed_seven_times_has_no_period():
    readings = [Reading(float(k), float(k)) for k in range(8)]
    assert period_of(Looks(readings).changes("energy_counter_j")) is None
    assert period_of(Looks().changes("power_w")) is None


def test_late_looks_are_left_out_of_sharp_changes():
    readings = [Reading(0.001 * k, float(k)) for k in range(100)]
    late = [Reading(one.time_s + 0.5, one.energy_counter_j) for one in readings[50:]]
    changes = Looks(readings[:50] + late).changes("energy_counter_j")
    assert np.isclose(changes.widths_s.max(), 0.501)
    assert np.isclose(changes.sharp().widths_s.max(), 0.001)
