import random

import pytest

from kdwatts.telemetry.energy import Tally, advance, span
from kdwatts.telemetry.readings import MAX_DELTA_S, Reading, Sensor
from multirun_analysis.statistics.joules_so_far import cumulative_energy_j, has_energy
from tests.multirun_analysis.ticking import at, ticks_of


def test_joules_are_differences_of_the_counter_not_of_its_start():
    ticks = ticks_of(at(0, 5000.0, 999.0), at(1, 5100.0, 999.0), at(3, 5400.0, 999.0))
    assert list(cumulative_energy_j(ticks)) == [0, 100, 400]


def test_a_reset_is_filled_by_the_power_samples_on_both_sides_and_not_by_the_counter():
    ticks = ticks_of(
        at(0, 5000.0, 100.0), at(1, 5100.0, 100.0), at(2, 30.0, 200.0), at(3, 230.0, 200.0)
    )
    # 100 J, then (100 + 200) / 2 over one second, then 200 J of the new counter.
    assert list(cumulative_energy_j(ticks)) == [0, 100, 250, 450]


def test_a_jump_beyond_the_power_limit_is_no_energy():
    # At most 1.5 * 300 W * (1 s + 2 * 0.1 s) = 540 J fit between two ticks.
    rows = (at(0, 0.0, 100.0), at(1, 541.0, 100.0), at(2, 1081.0, 100.0))
    assert list(cumulative_energy_j(ticks_of(*rows, power_limit_w=300.0))) == [0, 100, 640]


def test_a_valid_counter_fills_a_gap_and_power_samples_far_apart_do_not():
    counted = ticks_of(at(0, 0.0), at(1, 100.0), at(2, 200.0), at(60, 6000.0))
    assert list(cumulative_energy_j(counted)) == [0, 100, 200, 6000]
    sampled = ticks_of(
        at(0, None, 100.0), at(1, None, 200.0), at(2, None, 200.0), at(60, None, 200.0),
        method="nvml_samples",
    )  # fmt: skip
    assert list(cumulative_energy_j(sampled)) == [0, 150, 350, 350]


def test_attempts_add_up_and_the_wait_between_them_adds_nothing():
    ticks = ticks_of(
        at(100, 5000.0), at(101, 5100.0),
        at(3, 9000.0, attempt=2), at(4, 9050.0, attempt=2),
    )  # fmt: skip
    assert list(cumulative_energy_j(ticks)) == [0, 100, 100, 150]


@pytest.mark.parametrize("method", ["nvml_counter", "nvml_samples", "tdp_model"])
def test_joules_are_those_of_the_meter_on_traces_with_gaps_resets_and_lost_readings(method):
    chance = random.Random(5)
    for _ in range(40):
        second, counter_j, rows = 0.0, 1000.0, []
        for _ in range(60):
            step_s = chance.choice([1.0, 1.0, 1.0, 1.0, 4.0])
            second, counter_j = second + step_s, counter_j + 250 * step_s * chance.random()
            if chance.random() < 0.1:
                counter_j = chance.choice([0.0, counter_j + 1e6])
            lost = chance.random() < 0.1
            is_counted = method != "nvml_samples" and not lost
            power_w = None if chance.random() < 0.1 else 300 * chance.random()
            rows.append(at(second, counter_j if is_counted else None, power_w))
        table = ticks_of(*rows, method=method, power_limit_w=300.0)
        sensor = Sensor(
            "gpu", "0", method, float("inf") if method == "tdp_model" else 300.0,
            MAX_DELTA_S if method == "nvml_counter" else 1.0, max_gap_s=3.0,
        )  # fmt: skip
        tally = Tally()
        for row in rows:
            reading = Reading(row["monotonic_s"], row["energy_counter_j"], row["power_w"])
            tally = advance(tally, reading, sensor)
        expected_j = span(sensor, Tally(), tally).energy_j
        assert cumulative_energy_j(table).iloc[-1] == pytest.approx(expected_j)


def test_a_device_without_counter_and_power_has_no_energy():
    assert not has_energy(ticks_of(at(0), at(1), device_kind="host", method=None))
    assert has_energy(ticks_of(at(0, None, 5.0)))


@pytest.mark.parametrize("method", ["nvml_counter", "nvml_samples"])
def test_joules_are_those_of_the_meter_where_sensors_are_stuck_or_misread(method):
    chance = random.Random(7)
    for _ in range(40):
        counter_j, rows, stuck = 1000.0, [], 0
        for second in range(60):
            stuck = max(0, stuck - 1) or (8 if chance.random() < 0.05 else 0)
            counter_j += 0.0 if stuck else 250 * chance.random()
            told_j = chance.choice([0.0, 1e9]) if chance.random() < 0.05 else counter_j
            power_w = chance.choice([0.0, -5.0, 4e6]) if chance.random() < 0.1 else 200.0
            rows.append(at(second, told_j if method == "nvml_counter" else None, power_w))
        limit_w = chance.choice([300.0, 4294967.295])
        table = ticks_of(*rows, method=method, power_limit_w=limit_w)
        known_w = 300.0 if limit_w == 300.0 else 1500.0
        delta_s = MAX_DELTA_S if method == "nvml_counter" else 1.0
        sensor, tally = Sensor("gpu", "0", method, known_w, delta_s, max_gap_s=3.0), Tally()
        for row in rows:
            reading = Reading(row["monotonic_s"], row["energy_counter_j"], row["power_w"])
            tally = advance(tally, reading, sensor)
        joules = cumulative_energy_j(table)
        assert joules.iloc[-1] == pytest.approx(span(sensor, Tally(), tally).energy_j)
        # The energy of a running meter never falls.
        assert (joules.diff().dropna() >= -1e-9).all()
