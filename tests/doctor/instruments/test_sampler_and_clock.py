"""What is said of the meter's sampler, and of the clock under load."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from kdwatts.doctor.instruments.clock_verdict import clock_under_load
from kdwatts.doctor.instruments.load_windows import LoadWindow
from kdwatts.doctor.instruments.sampler_verdicts import sampler_cost, sampler_rate
from kdwatts.telemetry.nvml_state import GpuState
from kdwatts.telemetry.window_edges import Edge


def ticks(lost: float) -> list[float]:
    """Times of ten ticks a second, less the first of each so many."""
    every = round(1 / lost) if lost else 10**9
    return [0.1 * k for k in range(1, 602) if k % every]


@pytest.mark.parametrize(
    ("lost", "expected"), [(0.0, "right"), (0.04, "right"), (0.1, "attention"), (0.5, "wrong")]
)
def test_a_sampler_is_judged_by_the_ticks_that_it_lost(lost: float, expected: str):
    verdict = sampler_rate(ticks(lost), 0.1)
    assert verdict.verdict == expected
    assert verdict.value == pytest.approx(100 * lost, abs=0.5)
    assert (verdict.remedy is None) == (expected == "right")


def test_ten_late_ticks_are_not_lost_ones():
    times_s = [0.1 * k + (0.09 if k % 50 == 0 else 0.0) for k in range(500)]
    assert sampler_rate(times_s, 0.1).value == 0.0


def test_a_sampler_without_a_sensor_has_no_rate():
    assert sampler_rate([], 0.1).verdict is None


def windows(*costs_ms_per_s: float | None) -> list[LoadWindow]:
    return [
        LoadWindow(
            "run/idle", 0.0, Edge(0.0, {}), Edge(4.0, {}), 0, 0.0, None if c is None else c * 4e-3
        )
        for c in costs_ms_per_s
    ]


def test_a_sampler_costs_its_cpu_time_by_that_which_passed():
    verdict = sampler_cost(windows(4.0, 5.0, 6.0))
    assert (verdict.verdict, verdict.value) == ("right", pytest.approx(5.0))
    assert "0.50 % of a core" in verdict.found
    assert sampler_cost(windows(40.0, 50.0, 60.0)).verdict == "attention"
    # Its interval holds 10.
    assert sampler_cost(windows(4.0, 12.0, 17.0)).verdict == "right"
    assert sampler_cost(windows(None)).value is None


def state(**known: Any) -> GpuState:
    blank: dict[str, Any] = {one.name: None for one in fields(GpuState)}
    blank |= {"is_sliced": False, "pids": (), "max_sm_clock_mhz": 1980.0}
    blank |= {"power_limit_w": 700.0, "default_limit_w": 700.0}
    return GpuState(**(blank | known))


def rows(clock_mhz: float | None, reasons: int | None) -> list[dict[str, Any]]:
    return [{"sm_clock_mhz": clock_mhz, "throttle_reasons": reasons}] * 5


@pytest.mark.parametrize(
    ("clock_mhz", "reasons", "limit_w", "expected"),
    [
        (1980, 0x0, 700, "right"),
        (1980, 0x4, 700, "right"),
        (1400, 0x4, 700, "right"),
        (1400, 0x4, 400, "attention"),
        (1400, 0x0, 700, "attention"),
        (1400, 0x1, 700, "attention"),
        (1400, 0x2, 700, "attention"),
        (1980, 0x8, 700, "wrong"),
        (1400, 0x24, 700, "wrong"),
        (1400, 0x40, 700, "wrong"),
        (1400, 0x80, 700, "wrong"),
        (1400, None, 700, "attention"),
    ],
)
def test_a_clock_is_judged_by_what_holds_it_back(
    clock_mhz: float, reasons: int | None, limit_w: float, expected: str
):
    verdict = clock_under_load(rows(clock_mhz, reasons), state(power_limit_w=limit_w))
    assert verdict.verdict == expected, verdict.found
    assert verdict.value == clock_mhz


def test_a_gpu_that_states_no_clock_has_no_verdict():
    assert clock_under_load(rows(None, None), state()).verdict is None
    assert clock_under_load([], None).verdict is None
    assert clock_under_load(rows(1400, 0x0), None).verdict is None


def test_the_power_limit_that_holds_a_clock_back_is_named_with_its_remedy():
    verdict = clock_under_load(rows(1400, 0x4), state(power_limit_w=400.0))
    assert "power limit" in verdict.found
    assert verdict.remedy == "sudo nvidia-smi -pl 700 sets the default power limit"
