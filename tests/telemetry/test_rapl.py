import os
import stat
import time
from pathlib import Path

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import read_jsonl
from kdwatts.telemetry import rapl
from kdwatts.telemetry.meter import Meter


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def two_sockets(powercap):
    powercap.add("intel-rapl:0", "package-0", energy_j=1000)
    powercap.add("intel-rapl:0:0", "core", energy_j=900)
    powercap.add("intel-rapl:0:1", "dram", energy_j=50)
    powercap.add("intel-rapl:1", "package-1", energy_j=262_130)
    powercap.add("intel-rapl:1:0", "dram", energy_j=60)
    powercap.add("intel-rapl:2", "psys", energy_j=5000)
    powercap.add("intel-rapl-mmio:0", "package-0", energy_j=1000)
    return powercap


def settings(powercap, **changes) -> Telemetry:
    return Telemetry(interval_s=0.02, slow_interval_s=0.1, rapl_root=str(powercap.root), **changes)


def a_few_ticks() -> None:
    """A jump of the fake counters must fall between two ticks, or its power is past belief."""
    time.sleep(0.06)


def test_packages_and_dram_count_and_core_psys_and_mmio_do_not(two_sockets):
    zones, absent = rapl.find_zones(two_sockets.root)
    assert [(zone.kind, zone.package_index) for zone in zones] == [
        ("cpu", 0),
        ("dram", 0),
        ("cpu", 1),
        ("dram", 1),
    ]
    assert absent == {}


def test_sub_zones_listed_inside_and_beside_their_package_count_once(two_sockets):
    inside = two_sockets.root / "intel-rapl:0" / "intel-rapl:0:1"
    inside.symlink_to(two_sockets.root / "intel-rapl:0:1")
    zones, _ = rapl.find_zones(two_sockets.root)
    assert sum(zone.kind == "dram" for zone in zones) == 2


def test_two_sockets_with_a_wrap_on_one_add_up(two_sockets, tmp_path):
    with Meter(tmp_path, settings(two_sockets)) as meter, meter.window("train") as window:
        a_few_ticks()
        two_sockets.set("intel-rapl:0", 1030)
        # From 262,130 J to the wrap at 262,143 J are 13 J.
        two_sockets.set("intel-rapl:1", 7)
        two_sockets.set("intel-rapl:0:1", 51)
        a_few_ticks()
    assert window.row is not None
    assert window.row.energy_j["cpu"] == pytest.approx(30 + 13 + 7)
    assert window.row.energy_j["dram"] == pytest.approx(1)
    assert window.row.method["cpu"] == "rapl"
    assert window.row.quality == {"gpu": "missing", "cpu": "measured", "dram": "measured"}
    assert window.row.energy_j["gpu"] is None
    assert window.row.reason["gpu"]


def test_each_package_writes_its_unwrapped_energy(two_sockets, tmp_path):
    with Meter(tmp_path, settings(two_sockets)):
        a_few_ticks()
        two_sockets.set("intel-rapl:1", 262_140)
        a_few_ticks()
    rows = [r for r in read_jsonl(tmp_path / "telemetry.jsonl") if r["device_kind"] == "cpu"]
    last = [r["energy_counter_j"] for r in rows if r["device_index"] == 1][-1]
    assert last == pytest.approx(10)
    assert {r["device_index"] for r in rows} == {0, 1}


def test_one_unreadable_package_makes_the_cpu_missing_not_smaller(two_sockets):
    energy_path = two_sockets.root / "intel-rapl:1" / "energy_uj"
    energy_path.write_text("")
    zones, absent = rapl.find_zones(two_sockets.root)
    assert [zone.kind for zone in zones] == ["dram", "dram"]
    assert "holds '', which is not a number" in absent["cpu"]


def test_denial_names_the_cause_and_two_remedies(two_sockets, monkeypatch):
    genuine_open = os.open

    def closed_to_users(path: Path, flags: int) -> int:
        # Modes do not bind root, as whom these tests may run.
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return genuine_open(path, flags)

    monkeypatch.setattr(os, "open", closed_to_users)
    zones, absent = rapl.find_zones(two_sockets.root)
    monkeypatch.undo()
    assert zones == []
    assert absent["cpu"] == (
        f"{two_sockets.root}/intel-rapl:0/energy_uj: permission denied (root only since "
        "CVE-2020-8694); ask for read access or set telemetry.cpu_estimate=tdp"
    )


def test_a_zone_that_vanishes_makes_the_window_missing_and_never_zero(two_sockets, tmp_path):
    with Meter(tmp_path, settings(two_sockets)) as meter:
        with meter.window("before") as before:
            a_few_ticks()
            two_sockets.set("intel-rapl:0", 1010)
            a_few_ticks()
        (two_sockets.root / "intel-rapl:1" / "energy_uj").unlink()
        with meter.window("after") as after:
            time.sleep(0.2)
    assert before.row is not None and after.row is not None
    assert before.row.energy_j["cpu"] == pytest.approx(10)
    assert after.row.energy_j["cpu"] is None
    assert after.row.quality["cpu"] == "missing"
    assert "intel-rapl:1 package-1" in after.row.reason["cpu"]
    assert after.row.energy_j["dram"] == 0, "memory was read and drew nothing in this tree"


def test_a_read_error_between_two_good_readings_loses_nothing(two_sockets, tmp_path):
    with Meter(tmp_path, settings(two_sockets)) as meter, meter.window("train") as window:
        path = two_sockets.root / "intel-rapl:0" / "energy_uj"
        path.write_text("")
        time.sleep(0.1)
        two_sockets.set("intel-rapl:0", 1040)
    assert window.row is not None
    assert window.row.energy_j["cpu"] == pytest.approx(40)
    assert window.row.coverage["cpu"] == 1


def test_no_powercap_tree_is_a_reason_and_no_error(tmp_path):
    zones, absent = rapl.find_zones(tmp_path / "none")
    assert zones == []
    assert absent["cpu"] == f"no RAPL package zone under {tmp_path / 'none'}"


def test_files_of_the_tree_are_left_as_they_were(two_sockets):
    path = two_sockets.root / "intel-rapl:0" / "energy_uj"
    before = (path.read_text(), stat.S_IMODE(path.stat().st_mode))
    rapl.find_zones(two_sockets.root)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == before


@pytest.mark.parametrize("text", ["-5", "999999999999999999"])
def test_a_value_beyond_the_zone_s_range_is_a_failed_reading_and_loses_nothing(
    text, powercap, tmp_path
):
    powercap.add("intel-rapl:0", "package-0", energy_j=1000)
    with Meter(tmp_path, settings(powercap)) as meter, meter.window("train") as window:
        a_few_ticks()
        (powercap.root / "intel-rapl:0" / "energy_uj").write_text(text)
        a_few_ticks()
        powercap.set("intel-rapl:0", 1010)
    assert window.row is not None
    assert window.row.energy_j["cpu"] == pytest.approx(10)
    errors = [row["error"] for row in read_jsonl(tmp_path / "telemetry.jsonl")]
    assert any("its range is 262143 J" in error for error in errors if error)


def test_a_zone_without_a_range_cannot_be_unwrapped_and_is_left_out_with_the_reason(powercap):
    powercap.add("intel-rapl:0", "package-0", range_j=0.0)
    zones, absent = rapl.find_zones(powercap.root)
    assert zones == []
    assert "max_energy_range_uj holds '0', which is not a number above 0" in absent["cpu"]


def test_a_zone_of_zeros_is_missing_and_never_0(powercap, tmp_path):
    powercap.add("intel-rapl:0", "package-0", energy_j=0)
    with Meter(tmp_path, settings(powercap)) as meter, meter.window("train") as window:
        time.sleep(1.3)
    assert window.row is not None
    assert (window.row.energy_j["cpu"], window.row.quality["cpu"]) == (None, "missing")
    assert "counter of intel-rapl:0 package-0 stood still" in window.row.reason["cpu"]
