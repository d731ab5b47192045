import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.records.schema import StageRow
from kdwatts.telemetry.host import Clocks, CpuTimes, busy_s
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.node_share import (
    Allocation,
    AttributedCounter,
    attributed_j,
    find_allocation,
)
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import Reading, Sensor
from kdwatts.telemetry.recover import recover_components
from kdwatts.telemetry.sampler import Sampler

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def burn(duration_s: float) -> None:
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        pass


def test_a_quarter_of_the_cpus_and_half_of_the_cpu_time_is_45_of_100_j():
    # 20 J of idle times 1/4, and 80 J above it times 1/2.
    assert attributed_j(100, idle_j=20, core_share=0.25, cpu_time_share=0.5) == 45


def test_a_node_below_its_idle_power_is_shared_by_cpus_alone():
    assert attributed_j(10, idle_j=20, core_share=0.25, cpu_time_share=0.5) == 2.5


def test_cpu_time_counted_late_never_gives_a_job_more_than_the_node():
    assert attributed_j(100, idle_j=0, core_share=0.25, cpu_time_share=1.7) == 100


def test_slurm_tells_the_job_s_cpus_and_without_it_the_scheduler_does():
    num_cpus = os.cpu_count() or 1
    assert find_allocation({"SLURM_CPUS_ON_NODE": "1"}) == Allocation(1, num_cpus)
    assert find_allocation({}) == Allocation(len(os.sched_getaffinity(0)), num_cpus)
    assert find_allocation({"SLURM_CPUS_ON_NODE": "4096"}) == Allocation(num_cpus, num_cpus)


def test_a_job_with_every_cpu_of_a_node_has_no_claim_on_idle_power_that_others_share():
    assert Allocation(8, 8).share == 0
    assert Allocation(2, 8).share == 0.25


def test_a_container_with_all_cpus_and_a_quota_holds_the_quota(tmp_path):
    num_cpus = os.cpu_count() or 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    found = find_allocation({}, cgroup_root=tmp_path)
    assert (found.job_cpus, found.is_part) == (0.5, True)
    assert found.share == 0.5 / num_cpus
    told = {"SLURM_CPUS_ON_NODE": str(num_cpus)}
    assert find_allocation(told, cgroup_root=tmp_path).job_cpus == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert find_allocation({}, cgroup_root=tmp_path) == find_allocation({})


def test_the_meters_of_a_launch_hold_its_part_of_a_node_in_equal_parts():
    assert Allocation(4, 8, 0, 2).share == Allocation(4, 8, 1, 2).share == 0.25
    assert find_allocation({}, meter_of=(1, 4)).num_meters == 4


def whole_node_of(node, out_dir, index: int, **changes) -> StageRow:
    told = settings(node, cgroup_root="/nowhere", **changes)
    with node.drawing(package_0=50), Meter(out_dir, told, meter_of=(index, 2)) as meter:
        time.sleep(0.5)
    assert meter.row is not None
    return meter.row


@pytest.mark.parametrize("scope", ["auto", "node"])
def test_of_two_meters_of_one_launch_the_first_alone_tells_a_whole_node(
    scope, node, tmp_path, monkeypatch
):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(os.cpu_count()))
    first, second = (
        whole_node_of(node, tmp_path / str(index), index, cpu_scope=scope, cpu_estimate="tdp")
        for index in (0, 1)
    )
    assert first.energy_j["cpu"] == pytest.approx(50 * first.duration_s, rel=0.2)
    assert (first.quality["cpu"], second.quality["cpu"]) == ("measured", "missing")
    assert "shared with 1 more process of this launch" in first.reason["cpu"]
    assert second.energy_j["cpu"] is None
    assert "the first process of this launch" in second.reason["cpu"]


def test_two_meters_of_one_launch_with_a_part_of_a_node_are_told_a_part_each(
    node, tmp_path, monkeypatch
):
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    told = settings(node, cgroup_root=str(tmp_path))
    with node.drawing(package_0=50), Meter(tmp_path / "out", told, meter_of=(1, 2)) as meter:
        time.sleep(0.3)
    assert meter.row is not None
    assert meter.row.quality["cpu"] == "attributed"
    node_j = meter.row.node_energy_j["cpu"]
    assert node_j is not None and 0 <= (meter.row.energy_j["cpu"] or 0) <= node_j


def test_tasks_of_a_step_that_each_have_a_meter_are_told_their_node_once(node, tmp_path):
    words = ["--rapl-root", str(node.root), "--cgroup-root", "/nowhere", "--", "sleep", "1"]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    step |= {"SLURM_CPUS_ON_NODE": str(os.cpu_count())}
    with node.drawing(package_0=50, dram_0=5):
        tasks = [
            subprocess.Popen(
                [sys.executable, "-m", "kdwatts.telemetry", "--out", str(tmp_path / task), *words],
                env={**os.environ, **step, "SLURM_PROCID": task, "SLURM_LOCALID": task},
                cwd=REPOSITORY,
                stderr=subprocess.DEVNULL,
            )
            for task in ("0", "1")
        ]
        assert [task.wait() for task in tasks] == [0, 0]
    first, second = (read_json(tmp_path / task / "summary.json") for task in ("0", "1"))
    # Another process draws, and a busy machine may let it be late: half would be a part.
    assert first["cpu_energy_j"] == pytest.approx(50 * first["duration_s"], rel=0.4)
    assert (second["cpu_energy_j"], second["dram_energy_j"]) == (None, None)
    assert "the first process of this launch" in second["reason"]["dram"]


class HandClocks:
    """Clocks that a test sets by hand."""

    def __init__(self) -> None:
        self.times = CpuTimes(0.0, 0.0, 0.0)

    def read(self, *, scan: bool = False) -> CpuTimes:
        return self.times


def test_two_jobs_that_hold_a_node_together_sum_to_the_node():
    node_j = 0.0
    jobs = []
    for cpus in (16, 48):
        clocks = HandClocks()
        counter = AttributedCounter(lambda: node_j, clocks, Allocation(cpus, 64))  # pyright: ignore[reportArgumentType]
        counter.idle_power_w = 80.0
        counter.read(scan=False)
        jobs.append((clocks, counter))
    # In the second hour the first job sleeps; power per busy second is never the same.
    busy_s = (0.0, 0.0)
    for hour, (power_w, first_s, second_s) in enumerate(
        [(300, 5e4, 7e4), (220, 0, 1e5), (90, 10, 5)], start=1
    ):
        node_j += power_w * 3600
        busy_s = (busy_s[0] + first_s, busy_s[1] + second_s)
        for (clocks, _), job_s in zip(jobs, busy_s, strict=True):
            clocks.times = CpuTimes(3600.0 * hour, job_s, sum(busy_s))
        parts_j = [counter.read(scan=False).energy_counter_j for _, counter in jobs]
    assert sum(parts_j) == pytest.approx(node_j)
    idle_j = 80 * 3 * 3600
    first_j = idle_j / 4 + 220 * 3600 * 5 / 12 + 10 * 3600 * 10 / 15
    assert parts_j[0] == pytest.approx(first_j)


@pytest.fixture
def node(powercap):
    powercap.add("intel-rapl:0", "package-0")
    powercap.add("intel-rapl:0:0", "dram")
    return powercap


def settings(node, **changes) -> Telemetry:
    often = {"interval_s": 0.02, "slow_interval_s": 0.1}
    return Telemetry(**{**often, "rapl_root": str(node.root), **changes})


def test_a_job_with_some_cpus_reports_its_part_and_the_node_s_gross_beside_it(node, tmp_path):
    # Ticks long against the hundredths of a second in which the kernel counts busy CPUs.
    told = settings(node, cpu_scope="job", interval_s=0.25, slow_interval_s=0.25)
    with (
        node.drawing(package_0=100, dram_0=10),
        Meter(tmp_path, told) as meter,
        meter.window("train") as window,
    ):
        before_s = time.process_time(), busy_s()
        burn(2.0)
        after_s = time.process_time(), busy_s()
    row = window.row
    assert row is not None
    assert row.node_energy_j["cpu"] == pytest.approx(100 * row.duration_s, rel=0.1)
    assert row.node_energy_j["dram"] == pytest.approx(10 * row.duration_s, rel=0.1)
    assert row.quality == {"gpu": "missing", "cpu": "attributed", "dram": "attributed"}
    assert row.method["cpu"] == "attributed"
    # One share of CPU time for both; the machine's other processes take the rest.
    shares = {kind: (row.energy_j[kind] or 0) / row.node_energy_j[kind] for kind in ("cpu", "dram")}
    job_s, node_s = (after - before for before, after in zip(before_s, after_s, strict=True))
    # Each tick is shared by its own CPU time: those others come and go while this one is measured.
    assert shares["cpu"] == pytest.approx(job_s / node_s, rel=0.35)
    assert shares["dram"] == pytest.approx(shares["cpu"], rel=0.1)
    assert max(shares.values()) <= 1
    assert (row.uncertainty_j["cpu"] or 0) >= 0.3 * (row.energy_j["cpu"] or 0)
    kinds = {r["device_kind"]: r["method"] for r in read_jsonl(tmp_path / "telemetry.jsonl")}
    assert kinds == {
        "node_cpu": "rapl",
        "node_dram": "rapl",
        "cpu": "attributed",
        "dram": "attributed",
        "host": None,
    }


def test_the_live_power_is_the_job_s_and_not_the_node_s(tmp_path):
    def probe(kind: str, method: str, power_w: float) -> Probe:
        sensor = Sensor(kind, kind, method, limit_w=1500, delta_s=0.001, max_gap_s=0.3)
        read = partial(Reading, 0.0, 0.0)
        return Probe(sensor, None, read, read, power_w=power_w)

    probes = [
        probe("gpu", "nvml_counter", 200.0),
        probe("node_cpu", "rapl", 100.0),
        probe("cpu", "attributed", 30.0),
    ]
    journal = Journal(tmp_path / "rows.jsonl")
    sampler = Sampler(probes, Clocks(), journal, attempt=1, interval_s=0.1, slow_interval_s=1)
    assert sampler.power_w() == 230


def test_a_killed_attempt_recovers_the_job_s_part_and_not_the_node_s(node, tmp_path):
    with (
        node.drawing(package_0=100, dram_0=10),
        Meter(tmp_path, settings(node, cpu_scope="job")) as meter,
        meter.window("train") as window,
    ):
        burn(1.0)
    assert window.row is not None
    row = recover_components(tmp_path / "telemetry.jsonl", "run/train", 1, interval_s=0.1)
    assert row is not None
    assert row.quality["cpu"] == "attributed"
    # Ends are lost, a slow tick of a tenth of a second each, or a later one of a busy machine.
    lost_s = window.row.duration_s - row.duration_s + 0.2
    assert row.energy_j["cpu"] == pytest.approx(window.row.energy_j["cpu"], abs=100 * lost_s)


def test_a_node_that_cannot_be_read_leaves_nothing_to_attribute(node, tmp_path):
    with Meter(tmp_path, settings(node, cpu_scope="job")) as meter:
        (node.root / "intel-rapl:0" / "energy_uj").unlink()
        with meter.window("train") as window:
            time.sleep(0.3)
    row = window.row
    assert row is not None
    assert row.energy_j["cpu"] is None and row.node_energy_j["cpu"] is None
    assert "intel-rapl:0 package-0" in row.reason["cpu"]


def test_a_whole_node_is_measured_and_no_part_of_it_is_told(node, tmp_path):
    with Meter(tmp_path, settings(node, cpu_scope="node")) as meter:
        pass
    assert meter.row is not None
    assert meter.row.quality["cpu"] == "measured"
    assert meter.row.node_energy_j == {}


JOB = """
import json, sys, time
from pathlib import Path
from kdwatts.config.machine import Telemetry
from kdwatts.telemetry.meter import Meter
settings = Telemetry(interval_s=0.02, slow_interval_s=0.1, rapl_root=sys.argv[2])
with Meter(Path(sys.argv[1]), settings) as meter:
    print("ready", flush=True)
    sys.stdin.readline()
    with meter.window("train") as window:
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            pass
print(json.dumps(window.row, default=vars))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU cannot be shared by two jobs")
def test_two_jobs_side_by_side_never_sum_to_more_than_their_node(node, tmp_path):
    environment = {**os.environ, "SLURM_CPUS_ON_NODE": "1"}
    with node.drawing(package_0=100, dram_0=10):
        jobs = [
            subprocess.Popen(
                [sys.executable, "-c", JOB, str(tmp_path / name), str(node.root)],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("a", "b")
        ]
        for job in jobs:
            assert job.stdout is not None and job.stdout.readline() == "ready\n"
        for job in jobs:
            assert job.stdin is not None
            job.stdin.write("\n")
            job.stdin.flush()
        rows = [json.loads(job.communicate()[0]) for job in jobs]
    parts_j = [row["energy_j"]["cpu"] for row in rows]
    node_j = max(row["node_energy_j"]["cpu"] for row in rows)
    assert {row["quality"]["cpu"] for row in rows} == {"attributed"}
    # How much is left for each is the business of the machine's other processes.
    assert all(0 < part_j < node_j for part_j in parts_j), parts_j
    # Their windows do not begin and end at the same instant: the node drew 100 W over both.
    starts_s = [row["start_s"] for row in rows]
    ends_s = [row["start_s"] + row["duration_s"] for row in rows]
    # What was drawn late, before or in the windows, is no more than a fifth; twice would be 100 %.
    assert sum(parts_j) < 1.2 * 100 * (max(ends_s) - min(starts_s))
