"""What is said of RAPL, by a powercap tree whose power is known, and of a host without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.doctor.instruments import cpu_meters
from kdwatts.doctor.instruments.cpu_meters import LEAST_CPU_S, look_at_cpu
from kdwatts.doctor.instruments.gpu_meters import look_at_gpu
from kdwatts.doctor.instruments.load_windows import Joules, LoadWindow
from kdwatts.doctor.instruments.rapl_verdicts import (
    rapl_idle_power,
    rapl_linearity,
    rapl_power,
    without_rapl,
)
from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry.rapl import Zone
from kdwatts.telemetry.window_edges import Edge
from tests.telemetry.conftest import PowercapTree


def window(power_w: float | None, cores: float) -> Joules:
    """Two seconds at a mean power, with so many busy cores."""
    found = LoadWindow("run/full", 1.0, Edge(0.0, {}), Edge(2.0, {}), 0, 2 * cores, None)
    return Joules(found, None if power_w is None else 2 * power_w, None, 0.0, 0.0)


def linearity(idle_w: float, half_w: float, full_w: float, cores: float = 8.0) -> Verdict:
    full = [window(full_w * (1 + k / 1000), cores) for k in (-2, -1, 0, 1, 2)]
    return rapl_linearity([window(idle_w, 0.1)], [window(half_w, cores / 2)], full)


@pytest.mark.parametrize(
    ("powers_w", "expected"),
    [
        ((20, 60, 100), "right"),
        ((20, 75, 100), "right"),
        ((20, 93, 100), "attention"),
        ((100, 60, 20), "wrong"),
        ((20, 0, 0), "wrong"),
        ((20, 200, 100), "wrong"),
    ],
)
def test_package_power_rises_with_busy_cores(powers_w: tuple[float, ...], expected: str):
    assert linearity(*powers_w).verdict == expected


def test_nothing_is_said_of_cores_that_others_keep_busy():
    assert linearity(90, 95, 100, cores=0.3).verdict is None
    assert rapl_linearity([], [], []).verdict is None
    assert rapl_linearity([window(None, 0.1)], [window(1, 4)], [window(2, 8)]).verdict is None


def test_package_power_is_held_against_the_long_term_limit(tmp_path: Path):
    zone = Zone("cpu", 0, "package-0", tmp_path / "energy_uj", 1e5)
    full = [window(100.0, 8.0)]
    assert rapl_power(full, [zone]).verdict is None
    for limit_w, expected in ((125, "right"), (90, "attention"), (60, "wrong")):
        (tmp_path / "constraint_0_power_limit_uw").write_text(f"{limit_w}000000\n")
        assert rapl_power(full, [zone]).verdict == expected
        assert rapl_power(full, [zone]).value == 100.0
    assert rapl_power([], [zone]).value is None


def test_package_power_may_reach_the_short_term_limit(tmp_path: Path):
    zone = Zone("cpu", 0, "package-0", tmp_path / "energy_uj", 1e5)
    (tmp_path / "constraint_0_power_limit_uw").write_text("125000000\n")
    assert rapl_power([window(240.0, 8.0)], [zone]).verdict == "wrong"
    (tmp_path / "constraint_1_power_limit_uw").write_text("253000000\n")
    assert rapl_power([window(240.0, 8.0)], [zone]).verdict == "right"
    assert rapl_power([window(400.0, 8.0)], [zone]).verdict == "wrong"


def test_a_load_on_a_few_cpus_of_a_node_may_add_less_than_all_draw_idle():
    idle, full = [window(90.0, 0.1)], [window(120.0, 4.0)]
    few = rapl_idle_power(idle, full, num_cpus=64)
    assert few.verdict is None and "kept 4.0 of 64 CPUs busy" in few.found
    assert rapl_idle_power(idle, full, num_cpus=4).verdict == "attention"
    assert rapl_idle_power(idle, [window(300.0, 4.0)], num_cpus=64).verdict == "right"


def test_a_cpu_that_may_draw_more_for_a_minute_has_no_alarm():
    # Twice its long-term limit at first: half of the threads draw more than all of them later.
    full = [window(power_w, 8.0) for power_w in (250.0, 250.0, 125.0, 125.0, 125.0)]
    verdict = rapl_linearity([window(20.0, 0.1)], [window(180.0, 4.0)], full)
    assert verdict.verdict is None and "too wide to tell" in verdict.found


def test_an_estimate_is_said_to_be_no_measurement():
    said = list(without_rapl(Telemetry(cpu_estimate="tdp"), "closed", is_gpu_alone=False))
    assert [(one.name, one.verdict) for one in said] == [
        ("rapl_under_load", None),
        ("cpu_energy", "attention"),
    ]
    assert "closed" in said[0].found
    assert said[1].found.startswith("estimated, not measured")
    (_, none) = without_rapl(Telemetry(), "closed", is_gpu_alone=False)
    assert none.verdict == "attention" and "no energy" in none.found
    (_, beside) = without_rapl(Telemetry(), "closed", is_gpu_alone=True)
    assert beside.verdict is None


class Switched:
    """A load that changes the power which a powercap tree draws."""

    place = "cpu"
    num_done = 0

    def __init__(self, power_w: dict[str, float]) -> None:
        self._power_w = power_w

    def begin(self, share: float = 1.0) -> float:
        self._power_w["package_0"] = 20.0 + 80.0 * share
        return 0.0

    def end(self) -> float:
        self._power_w["package_0"] = 20.0
        return 0.0

    def close(self) -> None:
        pass


@pytest.fixture
def examined(tmp_path: Path, configure: Any):
    """What is said of this host's CPU, with other settings."""

    def look(*words: str, **how: Any) -> dict[str, Verdict]:
        config = configure("gpu=cpu", "model=tiny", *words)
        patient = Patient(config, [], False, tmp_path)
        return {one.name: one for one in look_at_cpu(patient, LEAST_CPU_S, **how)}

    return look


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of half a second: RAPL has no shortest one."""
    monkeypatch.setattr(cpu_meters, "CPU_WINDOW_S", (0.5, 0.5))


def test_a_readable_rapl_is_measured_under_load(powercap: PowercapTree, examined: Any, quick: None):
    powercap.add("intel-rapl:0", "package-0")
    (powercap.root / "intel-rapl:0" / "constraint_0_power_limit_uw").write_text("125000000\n")
    with powercap.drawing(package_0=20.0) as power_w:
        said = examined(
            f"telemetry.rapl_root={powercap.root}",
            "telemetry.cpu_scope=node",
            make_load=lambda: Switched(power_w),
        )
    assert said["rapl_idle_power"].value == pytest.approx(20.0, rel=0.1)
    assert said["rapl_power"].value == pytest.approx(100.0, rel=0.1)
    assert said["rapl_power"].verdict == "right"
    # The tree is written at each look, and looks are at least 1 ms apart.
    assert said["rapl_period"].value is not None and said["rapl_period"].value >= 1.0
    assert said["rapl_equal_windows_noise"].value is not None
    assert {"sampler_cost", "sampler_rate", "rapl_linearity"} <= set(said)
    assert said["sampler_rate"].value is not None
    assert "cpu_energy" not in said


def test_a_stuck_rapl_is_found(powercap: PowercapTree, examined: Any, quick: None):
    powercap.add("intel-rapl:0", "package-0", energy_j=5.0)
    said = examined(
        f"telemetry.rapl_root={powercap.root}",
        "telemetry.cpu_scope=node",
        make_load=lambda: Switched({}),
    )
    assert said["rapl_linearity"].verdict == "wrong"
    assert "stuck" in said["rapl_linearity"].found


def test_a_host_with_neither_gpu_nor_rapl_is_looked_at_all_the_same(
    tmp_path: Path, examined: Any, quick: None
):
    said = examined(
        f"telemetry.rapl_root={tmp_path / 'nowhere'}",
        "telemetry.cpu_estimate=off",
        make_load=lambda: Switched({}),
    )
    assert said["rapl_under_load"].verdict is None
    assert said["cpu_energy"].verdict == "attention"
    assert said["sampler_rate"].verdict is None
    assert said["sampler_cost"].value is not None
    patient = Patient(None, [], False, tmp_path)  # pyright: ignore[reportArgumentType]
    (alone,) = look_at_gpu(patient, 60.0)
    assert (alone.name, alone.verdict) == ("counter_agreement", None)
