import math
from dataclasses import replace
from itertools import pairwise

import pytest

from kdwatts.telemetry.energy import Tally, advance, span
from kdwatts.telemetry.parts import Part, component, total
from kdwatts.telemetry.readings import Reading, Sensor, known_limit_w
from kdwatts.telemetry.uncertainty import gap_s, uncertainty_j

GPU = Sensor("gpu", "GPU-0", "nvml_counter", limit_w=700, delta_s=0.1, max_gap_s=3)
PACKAGE = Sensor("cpu", "package-0", "rapl", 500, delta_s=0.001, max_gap_s=3, range_j=1000)


def fold(sensor: Sensor, *readings: tuple[float, float | None, float | None]) -> Tally:
    tally = Tally()
    for reading in readings:
        tally = advance(tally, Reading(*reading), sensor)
    return tally


def part(
    sensor: Sensor, duration_s: float, *readings: tuple[float, float | None, float | None]
) -> Part:
    return component([span(sensor, Tally(), fold(sensor, *readings))], duration_s)


def test_a_window_is_the_difference_of_counters():
    result = part(GPU, 10, (0, 1000, 300), (2, 1600, 300), (10, 4000, 300))
    assert result.energy_j == 3000
    assert result.quality == "measured"
    assert result.method == "nvml_counter"
    assert result.coverage == 1
    assert result.reason is None


def test_the_counter_fills_lost_ticks_exactly():
    # Samples are 9 s apart, further than the gap of 3 s; the counter saw all of it.
    result = part(GPU, 10, (0, 0, 200), (1, 200, 200), (10, 4700, 500))
    assert result.energy_j == 4700
    assert result.coverage == 1
    assert result.sampled_energy_j == 200


def test_a_reset_is_bridged_by_samples_and_marked():
    result = part(GPU, 11, (0, 5000, 300), (5, 6500, 300), (6, 10, 300), (11, 1510, 300))
    # 1500 J + 300 W for the second of the reset + 1500 J.
    assert result.energy_j == 3300
    assert result.coverage == 1
    assert result.reason == "reset: 1 counter differences refused"


def test_a_reset_without_samples_near_it_leaves_a_gap_that_widens_the_uncertainty():
    readings = ((0, 5000, None), (5, 6500, None), (6, 10, None), (11, 1510, None))
    result = part(GPU, 11, *readings)
    assert result.energy_j == 3000
    assert result.coverage == pytest.approx(10 / 11)
    assert "not covered: GPU-0 1.0 s of 11.0 s" in (result.reason or "")
    # Quantum 3000/11 * 0.1 / sqrt(6) = 11.134, at the reset 700 * 0.1 / sqrt(6) = 28.577,
    # gap and one update 1.1 * 700/sqrt(3) = 444.56, calibration 150.
    assert result.uncertainty_j == pytest.approx(470.19, abs=0.01)


def test_a_gpu_whose_updates_come_later_than_at_the_start_was_not_reset():
    # 70 J of the last 0.1 s arrive within 1 ms; 1.5 * 700 W * 0.041 s would allow 43 J.
    assert fold(replace(GPU, delta_s=0.02), (0, 1000, 700), (0.001, 1070, 700)).num_resets == 0


def test_no_energy_is_ever_negative():
    for values in ([5, 4, 3, 2], [0, 100, 0, 100], [1e9, 0, 1e9, 0]):
        tally = fold(GPU, *((float(t), value, None) for t, value in enumerate(values)))
        assert tally.counted_j >= 0
        assert tally.filled_j >= 0


def test_uncertainty_of_a_covered_window_is_quantum_and_calibration():
    one = span(GPU, Tally(), fold(GPU, (0, 0, 300), (10, 3000, 300)))
    # 300 W * 0.1 s / sqrt(6) = 12.247 J and 5 % of 3000 J = 150 J.
    assert uncertainty_j([one], 10, calibration=0.05) == pytest.approx(
        math.hypot(12.247, 150), 1e-4
    )


def test_idle_power_narrows_the_bound_of_time_that_samples_fill():
    one = replace(span(GPU, Tally(), Tally()), filled_s=2.0, covered_s=10.0)
    # 2 s * (700 W - 100 W) / sqrt(12) = 346.41 J.
    assert uncertainty_j([one], 10, calibration=0, idle_power_w=100) == pytest.approx(346.41, 1e-4)


def test_time_at_an_edge_too_short_to_be_called_a_gap_still_widens_the_uncertainty():
    one = span(replace(GPU, delta_s=0), Tally(), fold(GPU, (0, 0, None), (9.96, 300, None)))
    # 0.04 s * 700 W / sqrt(3).
    assert gap_s(one, 10) == 0
    assert uncertainty_j([one], 10, calibration=0) == pytest.approx(16.17, abs=0.01)


def test_a_reset_errs_as_both_edges_do_at_the_power_limit():
    one = replace(span(GPU, Tally(), Tally()), covered_s=10.0, num_resets=2)
    # Twice (700 W * 0.1 s)^2 / 6.
    assert uncertainty_j([one], 10, calibration=0) == pytest.approx(40.41, abs=0.01)


def test_a_jump_between_two_samples_may_be_anywhere_between_them():
    sampled = replace(GPU, method="nvml_samples", delta_s=0)
    one = span(sampled, Tally(), fold(sampled, (0, None, 100), (1, None, 400), (2, None, 400)))
    # A step of 300 W within 1 s: 300 / sqrt(12). The counter of another GPU knows better.
    assert uncertainty_j([one], 2, calibration=0) == pytest.approx(86.60, abs=0.01)
    counted = replace(one, sensor=replace(GPU, delta_s=0))
    assert uncertainty_j([replace(counted, covered_s=2.0)], 2, calibration=0) == 0


def test_calibration_errors_of_equal_gpus_add_linearly():
    one = span(replace(GPU, delta_s=0), Tally(), fold(GPU, (0, 0, None), (10, 3000, None)))
    assert uncertainty_j([one, one], 10, calibration=0.05) == 300


def test_two_gpus_add_and_one_lost_gpu_halves_its_share_of_the_coverage():
    well = span(GPU, Tally(), fold(GPU, (0, 0, None), (10, 3000, None)))
    lost = span(GPU, Tally(), fold(GPU, (0, 0, None), (5, 1000, None)))
    result = component([well, lost], 10)
    assert result.energy_j == 4000
    assert result.coverage == 0.75


def test_a_gpu_without_counter_is_integrated_from_samples():
    sampled = replace(GPU, method="nvml_samples", delta_s=0.1)
    result = part(sampled, 10, *((float(t), None, 200.0) for t in range(11)))
    assert result.energy_j == 2000
    assert result.method == "nvml_samples"
    assert result.quality == "measured"


def test_samples_2_percent_off_are_flagged_in_a_window_of_10_s_and_not_in_one_of_6_s():
    long = part(GPU, 10, *((float(t), 300.0 * t, 309.0) for t in range(11)))
    short = part(GPU, 6, *((float(t), 300.0 * t, 309.0) for t in range(7)))
    assert long.energy_j == 3000
    assert long.reason == "power samples are +3.0 % off the counter (more than 2 %)"
    assert short.reason is None


def test_a_factor_of_1000_between_counter_and_samples_is_an_error_of_units():
    result = part(GPU, 10, *((float(t), 300.0 * t, 0.3) for t in range(11)))
    assert result.energy_j is None
    assert result.quality == "missing"
    assert "error of units" in (result.reason or "")


def test_nvml_gives_no_energy_for_windows_below_2_s():
    result = part(GPU, 1.9, (0, 0, 300), (1.9, 570, 300))
    assert result.energy_j is None
    assert result.quality == "missing"
    assert result.reason == "window of 1.90 s is shorter than 2 s, too short for the GPU's sensor"


def test_nvml_windows_below_5_s_are_flagged():
    result = part(GPU, 3, (0, 0, 300), (3, 900, 300))
    assert result.energy_j == 900
    assert "window below 5 s" in (result.reason or "")


def test_rapl_gives_energy_at_any_length():
    assert part(PACKAGE, 0.2, (0, 0, None), (0.2, 20, None)).energy_j == 20


def test_rapl_that_stops_in_the_middle_is_missing_not_small():
    result = part(PACKAGE, 10, (0, 0, None), (0.5, 100, None))
    assert result.energy_j is None
    assert result.quality == "missing"
    assert "package-0 9.5 s of 10.0 s" in (result.reason or "")


def test_the_tdp_model_is_estimated_with_half_its_energy_as_uncertainty():
    model = Sensor("cpu", "tree", "tdp_model", math.inf, 0, math.inf)
    result = part(model, 1, (0, 0, None), (1, 40, None))
    assert (result.energy_j, result.quality, result.uncertainty_j) == (40, "estimated", 20)


def test_two_looks_at_one_moment_are_no_reset_of_a_model():
    model = Sensor("cpu", "tree", "tdp_model", math.inf, 0, math.inf)
    result = part(model, 2, (0, 0, None), (1, 40, None), (1, 40, None), (2, 80, None))
    assert (result.energy_j, result.coverage, result.reason) == (80, 1, None)


def test_the_total_never_mixes_measured_and_estimated_parts():
    model = Sensor("cpu", "tree", "tdp_model", math.inf, 0, math.inf)
    parts = {
        "gpu": part(GPU, 10, (0, 0, None), (10, 3000, None)),
        "cpu": part(model, 10, (0, 0, None), (10, 40, None)),
    }
    assert total(parts).value == 3000
    assert total(parts).quality == "measured"
    assert total({"cpu": parts["cpu"]}).quality == "estimated"


def test_adjacent_windows_add_up_to_the_window_around_them():
    readings = [(float(t), 100.0 * t * t, None) for t in range(7)]
    tallies = [fold(GPU, *readings[: n + 1]) for n in range(7)]
    parts = [span(GPU, a, b).energy_j for a, b in pairwise(tallies)]
    assert sum(parts) == span(GPU, tallies[0], tallies[-1]).energy_j == 3600


SAMPLED = replace(GPU, method="nvml_samples", limit_w=70.0, max_gap_s=0.3)


def ticks_of_60_w(wrong: dict[int, float], seconds: int = 30) -> list[tuple[float, None, float]]:
    return [(n / 10, None, wrong.get(n, 60.0)) for n in range(10 * seconds + 1)]


@pytest.mark.parametrize("wrong_w", [4294967.295, 105.1, 0.0, -60.0, math.nan, math.inf])
def test_one_power_sample_that_no_gpu_draws_costs_nothing_and_is_named(wrong_w):
    result = part(SAMPLED, 30, *ticks_of_60_w({150: wrong_w}))
    assert result.energy_j == pytest.approx(1800)
    assert result.coverage == 1
    assert result.uncertainty_j == pytest.approx(90, abs=0.1)
    assert result.reason == "1 power sample of GPU-0 refused: not between 0 and 105 W"


def test_a_second_of_impossible_samples_is_a_gap_of_its_own_length():
    result = part(SAMPLED, 30, *ticks_of_60_w(dict.fromkeys(range(150, 160), 9999.0)))
    # From the sample before to the one after are 1.1 s.
    assert result.energy_j == pytest.approx(60 * (30 - 1.1))
    assert "10 power samples" in (result.reason or "")
    assert "not covered: GPU-0 1.1 s" in (result.reason or "")


@pytest.mark.parametrize("wrong_w", [0.0, 70_000.0, -1.0])
def test_a_gpu_whose_samples_are_all_impossible_has_no_energy_and_says_why(wrong_w):
    result = part(SAMPLED, 30, *((n / 10, None, wrong_w) for n in range(301)))
    assert (result.energy_j, result.quality) == (None, "missing")
    assert "301 power samples of GPU-0 refused" in (result.reason or "")


def test_a_sample_of_1_and_a_half_limits_is_believed_as_of_the_counter():
    assert part(SAMPLED, 30, *ticks_of_60_w({150: 105.0})).reason is None


@pytest.mark.parametrize("told_w", [None, 0.0, -5.0, 4294967.295, math.nan, math.inf])
def test_a_power_limit_that_no_gpu_has_is_none_and_the_general_bound_holds(told_w):
    assert known_limit_w(told_w) == 1500
    assert known_limit_w(350.0) == 350


def test_a_counter_that_never_moves_is_filled_by_the_samples_and_never_0():
    for stuck_j in (0.0, 8000.0):
        result = part(GPU, 30, *((n / 10, stuck_j, 60.0) for n in range(301)))
        assert result.energy_j == pytest.approx(1800)
        assert result.sampled_energy_j == pytest.approx(1800)
        # Time that samples fill errs by t (limit - idle) / sqrt(12).
        assert (result.uncertainty_j or 0) > 30 * 700 / math.sqrt(12)
        assert "counter of GPU-0 stood still for 30.0 s" in (result.reason or "")


def test_a_counter_that_never_moves_and_nothing_beside_it_is_missing():
    result = part(GPU, 30, *((n / 10, 8000.0, None) for n in range(301)))
    assert (result.energy_j, result.quality) == (None, "missing")
    assert "stood still for 30.0 s" in (result.reason or "")
    zone = part(PACKAGE, 30, *((n / 10, 5.0, None) for n in range(301)))
    assert (zone.energy_j, zone.quality) == (None, "missing")
    assert "counter of package-0 stood still for 30.0 s" in (zone.reason or "")


def test_a_counter_that_stands_in_the_middle_is_filled_there_alone():
    def counter_j(n: int) -> float:
        return 60.0 * min(n / 10, max(10.0, n / 10 - 10))

    result = part(GPU, 30, *((n / 10, counter_j(n), 60.0) for n in range(301)))
    assert result.energy_j == pytest.approx(1800)
    assert "stood still for 10.0 s" in (result.reason or "")
    assert "off the counter" not in (result.reason or "")


def test_a_counter_that_makes_up_for_its_stand_is_not_counted_twice():
    # Its jump of 120 J after 2 s would be within the bound of a tick: 1.5 * 700 W * 0.3 s.
    readings = [(n / 10, 60.0 * (n / 10 if not 100 < n < 120 else 10.0), 60.0) for n in range(301)]
    assert part(GPU, 30, *readings).energy_j == pytest.approx(1800)


def test_a_counter_that_moves_every_tenth_of_a_second_is_not_still():
    result = part(GPU, 30, *((n / 100, 6.0 * (n // 10), 60.0) for n in range(3001)))
    assert (result.energy_j, result.reason) == (1800, None)


def test_a_process_tree_that_sleeps_draws_nothing_in_the_tdp_model():
    model = Sensor("cpu", "tree", "tdp_model", math.inf, 0, math.inf)
    result = part(model, 30, *((n / 10, 5.0, None) for n in range(301)))
    assert (result.energy_j, result.coverage, result.reason) == (0, 1, None)


@pytest.mark.parametrize("wrong_j", [0.0, 4294967295.0, math.nan, math.inf])
def test_one_misread_counter_is_bridged_exactly_by_those_beside_it(wrong_j):
    for sensor in (GPU, replace(PACKAGE, range_j=None)):
        readings = [(n / 10, 5000 + 6.0 * n, None) for n in range(101)]
        readings[50] = (5.0, wrong_j, None)
        result = part(sensor, 10, *readings)
        assert result.energy_j == pytest.approx(600)
        assert result.coverage == pytest.approx(1)
        assert result.reason == "reset: 1 counter differences refused"


def test_a_bridged_misreading_replaces_the_samples_that_stood_in_for_it():
    readings = [(n / 10, 5000 + 6.0 * n, 66.0) for n in range(101)]
    readings[50] = (5.0, 0.0, 66.0)
    one = span(GPU, Tally(), fold(GPU, *readings))
    assert (one.energy_j, one.filled_s) == (pytest.approx(600), pytest.approx(0))


def test_a_misread_zone_leaves_whole_ranges_in_its_unwrapped_counter_and_no_energy():
    # As rapl.Counter counts on: 0 read at 900 J of a range of 1000 J looks like a wrap.
    readings = [(n / 10, 900 + 2.0 * n + (0.0 if n < 5 else 1000.0), None) for n in range(11)]
    assert part(PACKAGE, 1, *readings).energy_j == pytest.approx(20)


def test_a_step_without_end_is_refused_of_a_model_too():
    model = Sensor("cpu", "tree", "tdp_model", math.inf, 0, math.inf)
    assert fold(model, (0, 0, None), (1, math.inf, None)).counted_j == 0


def test_samples_whose_times_go_back_add_nothing():
    assert fold(SAMPLED, (1.0, None, 60.0), (0.9, None, 60.0)).sampled_j == 0
