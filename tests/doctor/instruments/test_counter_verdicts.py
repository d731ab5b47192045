"""What is said of a counter, from windows whose joules are known."""

from __future__ import annotations

import random

import pytest

from kdwatts.doctor.instruments.counter_verdicts import (
    counter_agreement,
    counter_linearity,
    difference,
    joules_per_product,
    judged,
    square_wave_agreement,
)
from kdwatts.doctor.instruments.load_windows import Joules, LoadWindow
from kdwatts.doctor.instruments.noise_verdicts import idle_power, noise
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry.window_edges import Edge


def window(
    counter_w: float | None, sampled_w: float | None, *, seconds: float = 5.0, products: int = 100
) -> Joules:
    """A window with these mean powers; its counter is renewed each 20 ms."""
    edges = Edge(10.0, {}), Edge(10.0 + seconds, {})
    found = LoadWindow("run/full", 1.0, *edges, products, 0.0, None)
    return Joules(
        found,
        None if counter_w is None else counter_w * seconds,
        None if sampled_w is None else sampled_w * seconds,
        (sampled_w or 0.0) * 0.02 / 6**0.5,
        0.0,
    )


def steady(factor: float, noise: float = 0.005, seed: int = 0) -> list[Joules]:
    """Idle, half and six full windows of a counter that tells so many times the power."""
    dice = random.Random(seed)
    levels_w = [80.0, 340.0, *[600.0] * 6]
    return [window(factor * one * (1 + dice.gauss(0, noise)), one) for one in levels_w]


def agreement(windows: list[Joules], refused_w: float | None = None) -> Verdict:
    return counter_agreement(windows, is_loaded=True, refused_w=refused_w, remarks="")


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [
        (1.9, 1.0, "right"),
        (-1.9, 3.0, "right"),
        (1.9, 3.2, None),
        (2.1, 1.0, None),
        (-3.1, 1.0, "attention"),
        (5.5, 0.6, "attention"),
        (5.5, 0.4, "wrong"),
        (-5.5, 0.4, "wrong"),
        (30.0, 26.0, "attention"),
    ],
)
def test_an_alarm_takes_an_interval_that_excludes_its_limit(
    value: float, half: float, expected: str | None
):
    assert judged(value, value - half, value + half, right=2, wrong=5) == expected


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, "right"), (1.03, "attention"), (1.3, "wrong"), (0.77, "wrong")]
)
def test_a_counter_is_judged_by_its_factor(factor: float, expected: str):
    verdict = agreement(steady(factor))
    assert verdict.verdict == expected
    assert verdict.value is not None and verdict.low is not None and verdict.high is not None
    assert verdict.value == pytest.approx(100 * (factor - 1), abs=1.0)
    assert verdict.low < verdict.value < verdict.high
    assert verdict.unit == "%"


@pytest.mark.parametrize("factor", [1000.0, 0.001, 1e6])
def test_a_factor_of_1000_is_an_error_of_units(factor: float):
    verdict = agreement(steady(factor))
    assert verdict.verdict == "wrong" and "units" in verdict.found


def test_powers_that_the_meter_does_not_believe_show_an_error_of_units_too():
    counted = [window(600.0, None) for _ in range(3)]
    assert agreement(counted).verdict is None
    verdict = agreement(counted, refused_w=600_000.0)
    assert verdict.verdict == "wrong" and "units" in verdict.found


def test_a_counter_that_stands_still_for_one_window_is_stuck():
    verdict = agreement([*steady(1.0), window(0.0, 600.0)])
    assert verdict.verdict == "wrong" and "stuck" in verdict.found
    assert verdict.value is None


def test_a_counter_that_falls_is_wrong():
    assert agreement([*steady(1.0), window(-50.0, 600.0)]).verdict == "wrong"


def test_without_a_counter_it_is_said_that_samples_are_integrated():
    verdict = agreement([window(None, 600.0)] * 8)
    assert verdict.verdict == "attention" and "samples are integrated" in verdict.found


def test_a_gpu_that_was_silent_in_some_windows_is_not_right_however_the_others_agree():
    for windows, expected in ((steady(1.0), "attention"), (steady(1.3), "wrong"), ([], "wrong")):
        verdict = counter_agreement(
            windows, is_loaded=True, refused_w=None, remarks="", num_silent=2
        )
        assert verdict.verdict == expected
        assert f"did not answer in 2 of {2 + len(windows)} windows" in verdict.found


def test_a_sensor_that_says_0_w_is_named_and_a_gpu_that_tells_nothing_is_wrong():
    dead = agreement([window(600.0, None)] * 8, refused_w=0.0)
    assert dead.verdict == "attention" and "power sensor says 0 W" in dead.found
    mute = agreement([window(None, None)] * 8)
    assert mute.verdict == "wrong" and "neither an energy counter nor power" in mute.found
    assert "says 0 W" in agreement([window(None, None)] * 8, refused_w=0.0).found


def all_of(windows: list[Joules]) -> list[Verdict]:
    """What is said of a GPU's windows: idle, half, five full and a short one."""
    idle, half, full, short = windows[:1], windows[1:2], windows[2:7], windows[7:]
    return [
        agreement(windows),
        counter_linearity(idle, half, full),
        joules_per_product(full, short),
        idle_power(idle, full, name="idle_power"),
        *noise(full, prefix="", delta_s=0.02, least_s=2.0),
    ]


@pytest.mark.parametrize("sensor_pct", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("power_pct", [0.3, 1.5])
def test_of_50_healthy_gpus_less_than_one_has_an_alarm(sensor_pct: float, power_pct: float):
    dice, alarms = random.Random(5), []
    for _ in range(400):
        windows = []
        for level_w, seconds in ((80, 5), (340, 5), *[(600, 5)] * 5, (600, 2.2)):
            # White noise of 5 s, longer and shorter.
            longer = (5 / seconds) ** 0.5 / 100
            drawn_w = level_w * (1 + power_pct * longer * dice.gauss(0, 1))
            sampled_w = drawn_w * (1 + sensor_pct * longer * dice.gauss(0, 1))
            products = round(650 * seconds)
            windows.append(window(drawn_w, sampled_w, seconds=seconds, products=products))
        alarms += [any(one.verdict in ("attention", "wrong") for one in all_of(windows))]
    assert sum(alarms) < len(alarms) / 50


def test_in_1000_gpus_whose_windows_scatter_by_1_per_cent_none_is_a_false_alarm():
    said = [agreement(steady(1.0, noise=0.01, seed=seed)).verdict for seed in range(1000)]
    assert set(said) == {"right"}


def test_of_1000_counters_that_lie_by_1_05_not_one_is_right():
    said = [agreement(steady(1.05, noise=0.01, seed=seed)).verdict for seed in range(1000)]
    assert set(said) <= {"attention", "wrong"}
    noisy = [agreement(steady(1.05, noise=0.03, seed=seed)).verdict for seed in range(1000)]
    assert noisy.count("right") <= 10


def test_an_alarm_of_noise_takes_more_of_short_windows():
    # 4 % in each of 2.2 s is what white noise of 3 % has at 4 s.
    powers_w = [575.0, 575.0, 600.0, 625.0, 625.0]
    word = {
        seconds: noise(
            [window(p, p, seconds=seconds) for p in powers_w], prefix="", delta_s=0.0, least_s=0.0
        )[0].verdict
        for seconds in (2.2, 5.0)
    }
    assert word == {2.2: "right", 5.0: "attention"}


def test_of_1000_counters_that_lie_by_1_3_and_scatter_by_5_per_cent_every_one_is_wrong():
    said = [agreement(steady(1.3, noise=0.05, seed=seed)).verdict for seed in range(1000)]
    assert set(said) == {"wrong"}


def test_the_interval_holds_the_truth_in_95_of_100_windows():
    held = 0
    for seed in range(400):
        apart = difference(steady(1.01, noise=0.02, seed=seed))
        assert apart is not None
        held += apart.low_pct <= 1.0 <= apart.high_pct
    # Of 400 at 95 %, 380 +- 4.4.
    assert held >= 366


def test_windows_that_agree_by_chance_are_as_uncertain_as_the_counter_s_steps():
    alike = [window(600.0, 600.0, seconds=2.2)] * 5
    apart = difference(alike)
    assert apart is not None and apart.pct == pytest.approx(0.0, abs=1e-9)
    # P delta / sqrt(6) a window over P t: 0.02 / 2.449 / 2.2 s, over sqrt(5) windows, times 1.96.
    assert apart.high_pct == pytest.approx(0.325, abs=0.002)


def test_a_lying_scale_is_no_bent_line_and_a_constant_offset_is():
    def linearity(counted_w: tuple[float, float, float]) -> Verdict:
        dice = random.Random(3)
        idle_w, half_w, full_w = counted_w
        full = [window(full_w * (1 + dice.gauss(0, 0.003)), 600.0) for _ in range(5)]
        return counter_linearity([window(idle_w, 80.0)], [window(half_w, 340.0)], full)

    assert linearity((104.0, 442.0, 780.0)).verdict == "right"
    bent = linearity((180.0, 340.0, 600.0))
    assert bent.verdict == "wrong"
    assert bent.value == pytest.approx(100 * 100 / 600, abs=0.3)
    assert linearity((80.0, 358.0, 600.0)).verdict == "attention"


def test_a_window_of_another_length_costs_the_same_a_product():
    dice = random.Random(4)
    equal = [window(600 * (1 + dice.gauss(0, 0.003)), 600, products=3000) for _ in range(5)]
    same = joules_per_product(equal, [window(600, 600, seconds=2.2, products=1320)])
    assert same.verdict == "right" and "1 J a product" in same.found
    dear = joules_per_product(equal, [window(700, 600, seconds=2.2, products=1320)])
    assert dear.verdict == "attention"
    assert dear.value == pytest.approx(16.7, abs=0.5)
    assert joules_per_product(equal, []).verdict is None


@pytest.mark.parametrize(
    ("is_blind", "expected"), [(True, None), (None, None), (False, "attention")]
)
def test_a_sensor_that_sees_a_part_of_the_time_may_miss_a_wave(
    is_blind: bool | None, expected: str | None
):
    waves = [(1.0, window(340.0, 345.0)), (0.25, window(340.0, 400.0))]
    verdict = square_wave_agreement(waves, is_blind=is_blind, remarks="")
    assert verdict.verdict == expected
    assert verdict.value == pytest.approx(15.0)
    assert "0.25 s: +15.0 %" in verdict.found
    near = square_wave_agreement(waves[:1], is_blind=is_blind, remarks="")
    assert near.verdict == "right"
    assert square_wave_agreement([], is_blind=is_blind, remarks="").verdict is None


def test_idle_power_is_held_against_half_of_full_load():
    full = [window(600.0, 600.0)]
    assert idle_power([window(80.0, 80.0)], full, name="idle_power").verdict == "right"
    assert idle_power([window(400.0, 400.0)], full, name="idle_power").verdict == "attention"
    alone = idle_power([window(80.0, None)], [], name="idle_power")
    assert (alone.verdict, alone.value) == (None, 80.0)
    assert idle_power([], full, name="idle_power").value is None


def test_five_windows_one_per_cent_apart_need_their_own_length_for_one_per_cent():
    # Deviations of -1, 0, 0, 0 and 1 % have the variance (1 + 1) / 4.
    powers_w = [594.0, 600.0, 600.0, 600.0, 606.0]
    spread, shortest = noise(
        [window(p, p, seconds=8.0) for p in powers_w], prefix="", delta_s=0.02, least_s=2.0
    )
    assert spread.value == pytest.approx(0.5**0.5, abs=1e-6)
    # Chi-square with 4 degrees: quantiles 0.4844 and 11.1433.
    assert spread.low == pytest.approx((4 * 0.5 / 11.1433) ** 0.5, abs=1e-3)
    assert spread.high == pytest.approx((4 * 0.5 / 0.4844) ** 0.5, abs=1e-3)
    assert shortest.value == pytest.approx(4.0, abs=1e-6)
    assert (spread.verdict, shortest.verdict) == ("right", "right")


def test_a_slow_counter_sets_the_shortest_window_of_a_quiet_gpu():
    _, shortest = noise([window(600.0, 600.0)] * 5, prefix="", delta_s=0.1, least_s=2.0)
    # 0.1 s / sqrt(6) / 1 %
    assert shortest.value == pytest.approx(4.082, abs=1e-3)
    _, quick = noise([window(600.0, 600.0)] * 5, prefix="", delta_s=0.001, least_s=2.0)
    assert quick.value == 2.0


def test_windows_that_spread_beyond_chance_are_noisy():
    powers_w = [450.0, 600.0, 700.0, 520.0, 640.0]
    spread, shortest = noise(
        [window(p, p) for p in powers_w], prefix="rapl_", delta_s=0.001, least_s=2.0
    )
    assert spread.name == "rapl_equal_windows_noise"
    assert (spread.verdict, shortest.verdict) == ("attention", "attention")
    few, _ = noise([window(600.0, 600.0)] * 4, prefix="", delta_s=0.02, least_s=2.0)
    assert (few.verdict, few.value) == (None, None)
