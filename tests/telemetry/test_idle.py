import time

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import read_jsonl
from kdwatts.records.schema import COMPONENTS
from kdwatts.telemetry import node_meter
from kdwatts.telemetry.energy import Span, Tally, advance, span
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.node_share import Allocation
from kdwatts.telemetry.parts import component
from kdwatts.telemetry.readings import Reading, Sensor


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def quiet(monkeypatch):
    """Other tests may load this machine: the node counts as idle all the same."""
    monkeypatch.setattr(node_meter, "MAX_IDLE_LOAD_PCT", 101.0)


@pytest.fixture
def node(powercap):
    powercap.add("intel-rapl:0", "package-0")
    powercap.add("intel-rapl:0:0", "dram")
    return powercap


def settings(node, **changes) -> Telemetry:
    return Telemetry(
        interval_s=0.02,
        slow_interval_s=0.1,
        rapl_root=str(node.root),
        **({"idle_s": 0.5, "cpu_scope": "node"} | changes),
    )


def read_once(duration_s: float, energy_j: float) -> list[Span]:
    sensor = Sensor("cpu", "package-0", "rapl", limit_w=1500, delta_s=0.001, max_gap_s=0.3)
    start = advance(Tally(), Reading(0.0, 0.0), sensor)
    return [span(sensor, start, advance(start, Reading(duration_s, energy_j), sensor))]


def test_1000_j_in_10_s_with_40_w_of_idle_are_600_j_net():
    part = component(read_once(10, 1000), 10, idle_power_w=40)
    assert (part.energy_j, part.net_energy_j) == (1000, 600)


def test_idle_power_of_all_components_is_unknown_where_that_of_one_is(node, quiet, tmp_path):
    with node.drawing(package_0=40, dram_0=5), Meter(tmp_path / "1", settings(node)) as meter:
        power_w, quality = meter.idle_power_of_all_w()
        assert (power_w, quality) == (pytest.approx(45, rel=0.05), "measured")
        meter.idle_power_w["cpu"] = None
        assert meter.idle_power_of_all_w() == (None, "missing")
    estimate = Telemetry(rapl_root=str(tmp_path), cpu_estimate="tdp", idle_s=0.5)
    with Meter(tmp_path / "2", estimate) as meter:
        assert meter.idle_power_of_all_w() == (None, "missing")


def test_net_is_missing_where_idle_is_unknown_and_never_below_zero():
    assert component(read_once(10, 1000), 10).net_energy_j is None
    assert component(read_once(10, 399), 10, idle_power_w=40).net_energy_j == 0


def test_idle_is_measured_before_the_first_window_and_taken_off(node, quiet, tmp_path):
    with node.drawing(package_0=40, dram_0=5) as power_w, Meter(tmp_path, settings(node)) as meter:
        power_w["package_0"] = 100.0
        with meter.window("train") as window:
            time.sleep(1)
    assert window.row is not None
    assert meter.idle_power_w["cpu"] == pytest.approx(40, rel=0.05)
    assert meter.idle_power_w["dram"] == pytest.approx(5, rel=0.05)
    row = window.row
    assert row.energy_j["cpu"] == pytest.approx(100, rel=0.05)
    assert row.net_energy_j["cpu"] == pytest.approx(60, rel=0.1)
    assert row.net_energy_j["dram"] == pytest.approx(0, abs=0.5)
    assert row.net_energy_j["gpu"] is None
    assert row.idle_power_w["cpu"] == meter.idle_power_w["cpu"]
    rows = list(read_jsonl(tmp_path / "telemetry.jsonl"))
    assert rows[0]["window"] == "idle"
    assert rows[-1]["window"].startswith("run")
    assert [r["window"] for r in read_jsonl(tmp_path / "stages.jsonl")] == ["run/train", "run"]


def test_a_busy_node_has_no_idle_power_and_says_so(node, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(node_meter, "MAX_IDLE_LOAD_PCT", -1.0)
    with node.drawing(package_0=40, dram_0=5), Meter(tmp_path, settings(node)) as meter:
        time.sleep(0.2)
    assert meter.row is not None
    assert meter.row.net_energy_j == dict.fromkeys(COMPONENTS)
    assert meter.row.energy_j["cpu"]
    assert any("no net figures for cpu and dram" in message for message in caplog.messages)


def test_a_job_with_half_the_cpus_has_half_the_idle_power(node, quiet, monkeypatch, tmp_path):
    monkeypatch.setattr(node_meter, "find_allocation", lambda **_: Allocation(4, 8))
    with (
        node.drawing(package_0=40, dram_0=5),
        Meter(tmp_path, settings(node, cpu_scope="auto")) as meter,
    ):
        time.sleep(1)
    row = meter.row
    assert row is not None
    assert meter.idle_power_w["cpu"] == pytest.approx(20, rel=0.05)
    assert row.quality["cpu"] == "attributed"
    # It sleeps on: half of the idle power is its own, and next to nothing above it.
    assert row.energy_j["cpu"] == pytest.approx(row.duration_s * 20, rel=0.15)
    assert row.net_energy_j["cpu"] == pytest.approx(0, abs=3)


def test_nothing_is_waited_for_where_no_sensor_can_be_read(tmp_path):
    started_s = time.monotonic()
    unread = Telemetry(idle_s=30, rapl_root=str(tmp_path / "none"), cpu_estimate="tdp")
    with Meter(tmp_path, unread):
        pass
    assert time.monotonic() - started_s < 10
