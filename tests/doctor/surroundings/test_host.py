"""Counters of the CPU, and CPUs and memory of the host."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from kdwatts.doctor.surroundings import cpu_counters as counters
from kdwatts.doctor.surroundings.cpu_counters import cpu_counters
from kdwatts.doctor.surroundings.host_room import free_gib, host_room
from kdwatts.doctor.surroundings.plan_room import plan_room
from kdwatts.telemetry import rapl
from tests.doctor.surroundings.looking import looked
from tests.telemetry.conftest import PowercapTree


def test_counters_that_can_be_read_are_right_and_named(tmp_path):
    tree = PowercapTree(tmp_path / "powercap")
    tree.add("intel-rapl:0", "package-0")
    tree.add("intel-rapl:0:0", "dram")
    found = looked(cpu_counters, "gpu=cpu", f"telemetry.rapl_root={tree.root}")
    assert [one.verdict for one in found.values()] == ["right", "right"]
    assert "intel-rapl:0 package-0" in found["rapl"].found


def test_closed_counters_are_opened_by_the_very_command(tmp_path, monkeypatch):
    tree = PowercapTree(tmp_path / "powercap")
    tree.add("intel-rapl:0", "package-0")

    def refuse(self: rapl.Counter) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(rapl.Counter, "read_j", refuse)  # Root reads what is closed to others.
    found = looked(cpu_counters, "gpu=cpu", f"telemetry.rapl_root={tree.root}")["rapl"]
    assert found.verdict == "attention"
    assert f"sudo chmod a+r {tree.root}/intel-rapl:*/energy_uj" in (found.remedy or "")


@pytest.mark.parametrize("contained, word", [(True, "-v /sys"), (False, "modprobe intel_rapl_msr")])
def test_what_makes_counters_appear_depends_on_where_this_is(contained, word, monkeypatch):
    monkeypatch.setattr(counters, "_is_contained", lambda: contained)
    found = looked(cpu_counters, "gpu=cpu", "telemetry.rapl_root=/nowhere")["rapl"]
    assert found.verdict == "attention" and word in (found.remedy or "")


def test_memory_that_is_only_missing_has_no_verdict():
    found = looked(cpu_counters, "gpu=cpu", "telemetry.rapl_root=/nowhere")["rapl_dram"]
    assert found.verdict is None and found.remedy is None


def test_a_quota_below_two_cpus_needs_attention(tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    found = looked(host_room, "gpu=cpu", f"telemetry.cgroup_root={tmp_path}")["cpu_quota"]
    assert (found.verdict, found.value) == ("attention", 0.5)


def write_limit(root: Path, *, limit_gib: int, used_gib: int, cached_gib: int) -> None:
    (root / "memory.max").write_text(f"{limit_gib << 30}\n")
    (root / "memory.current").write_text(f"{used_gib << 30}\n")
    (root / "memory.stat").write_text(f"anon 5\ninactive_file {cached_gib << 30}\n")


def test_free_memory_is_what_the_group_still_allows_and_cached_files_count_as_free(tmp_path):
    # This host has more than a GiB free wherever tests run.
    write_limit(tmp_path, limit_gib=10, used_gib=10, cached_gib=1)
    assert free_gib(tmp_path) == 1
    assert free_gib(tmp_path / "nowhere") <= psutil.virtual_memory().total / 2**30


def test_a_host_without_room_for_the_larger_model_needs_attention(tmp_path):
    write_limit(tmp_path, limit_gib=2, used_gib=1, cached_gib=0)
    words = ("gpu=h100", "model=llama31_8b_to_1b", f"telemetry.cgroup_root={tmp_path}")
    found = looked(host_room, *words)["host_memory"]
    assert (found.verdict, found.value) == ("attention", 1.0)
    small = looked(host_room, "gpu=h100", "model=tiny")["host_memory"].against or ""
    assert " MiB, the weights" in small and not small.startswith("0.0 ")


def test_on_the_cpu_the_plan_is_held_against_the_memory_of_the_host(tmp_path):
    write_limit(tmp_path, limit_gib=2, used_gib=1, cached_gib=0)
    words = ("gpu=cpu", f"telemetry.cgroup_root={tmp_path}")
    fits = looked(plan_room, *words)
    assert fits and {one.verdict for one in fits.values()} == {"right"}
    large = looked(plan_room, *words, "model=llama31_8b_to_1b")
    assert large["plan_training"].verdict == "wrong"
    assert large["plan_training"].remedy


def test_a_gpu_elsewhere_has_no_verdict_on_its_memory():
    found = looked(plan_room, "gpu=h100", "model=llama31_8b_to_1b")
    assert {name: one.verdict for name, one in found.items()} == {"plan_memory": None}
