import subprocess
import sys
import threading
import time
from itertools import pairwise

import psutil
import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import read_jsonl
from kdwatts.runtime.interrupt import Preempted
from kdwatts.telemetry import host
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import Reading
from kdwatts.telemetry.sampler import Sampler
from tests.waits import wait_until


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def estimate(tmp_path) -> Telemetry:
    """100 W for two threads: a busy thread is 50 W. No powercap tree."""
    return Telemetry(
        slow_interval_s=0.1,
        cpu_estimate="tdp",
        cpu_tdp_w=100,
        cpu_tdp_threads=2,
        rapl_root=str(tmp_path / "none"),
    )


def burn(cpu_s: float) -> None:
    end_s = time.thread_time() + cpu_s
    while time.thread_time() < end_s:
        pass


def stage_rows(out_dir) -> list[dict]:
    return list(read_jsonl(out_dir / "stages.jsonl"))


def ticks(out_dir) -> list[dict]:
    path = out_dir / "telemetry.jsonl"
    return list(read_jsonl(path)) if path.exists() else []


def test_half_a_second_of_one_busy_thread_of_50_w_is_25_j(tmp_path, estimate):
    with Meter(tmp_path, estimate) as meter:
        before_s = time.process_time()
        with meter.window("train") as window:
            burn(0.5)
        around_s = time.process_time() - before_s
    assert window.row is not None
    # What the meter itself took is told by the clock, and is little.
    assert 25 <= (window.row.energy_j["cpu"] or 0) <= 50 * around_s
    assert around_s < 0.8
    assert window.row.method["cpu"] == "tdp_model"
    assert window.row.quality["cpu"] == "estimated"
    assert window.row.coverage["cpu"] == 1


def test_cpu_time_of_children_live_and_reaped_counts(tmp_path, estimate):
    busy = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True); input()"
    with Meter(tmp_path, estimate) as meter:
        with meter.window("live") as live:
            child = subprocess.Popen(
                [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            child.stdout.readline()
        with meter.window("reaped") as reaped:
            child.communicate(b"\n")
    assert live.row is not None and reaped.row is not None and meter.row is not None
    # 0.4 s at 50 W is 20 J; starting an interpreter costs a little more on top.
    assert 19 < (live.row.energy_j["cpu"] or 0) < 35
    assert (reaped.row.energy_j["cpu"] or 0) < 15, "reaping does not count its time again"


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # Whoever adopted it has fetched it.
        return False


def test_another_rank_counts_though_it_is_no_child_and_ending_takes_nothing_back():
    busy = "for _ in range(60): sum(range(10**6))"
    # Its parent ends at once: init adopts it.
    start = (
        "import subprocess, sys; "
        f"command = [sys.executable, '-c', '{busy}']; "
        "print(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    printed = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    pid = int(printed.stdout)
    assert pid in host.own_pids([pid]) and pid not in host.own_pids()
    without, clock = host.TreeClock(), host.TreeClock([pid])
    before = clock.read(scan=True)[1] - without.read(scan=True)[1]
    used = [before]
    while is_alive(pid):
        time.sleep(0.05)
        used.append(clock.read()[1] - without.read()[1])
    after = [clock.read()[1] - without.read()[1] for _ in range(3)]
    assert max(used) - before > 0.2
    assert min(after) > max(used) - 0.1


def test_cpu_time_never_goes_back():
    clock = host.TreeClock()
    readings = [clock.read(scan=True)[1] for _ in range(20)]
    child = subprocess.Popen([sys.executable, "-c", "sum(range(10**6))"])
    readings += [clock.read(scan=True)[1] for _ in range(20)]
    child.wait()
    readings += [clock.read()[1] for _ in range(20)]
    assert readings == sorted(readings)


def test_a_window_of_two_milliseconds_has_the_energy_that_was_used_in_it(tmp_path, estimate):
    with Meter(tmp_path, estimate) as meter:
        before_s = time.process_time()
        with meter.window("train") as window:
            burn(0.002)
        around_s = time.process_time() - before_s
    assert window.row is not None
    # 50 W for a busy second: of the work between both looks, and of no more than lies around them.
    assert 50 * 0.002 <= (window.row.energy_j["cpu"] or 0) <= 50 * around_s
    assert "cpu" not in window.row.reason


def test_windows_nest_and_children_are_written_before_their_parents(tmp_path, estimate):
    with Meter(tmp_path, estimate, attempt=3) as meter:
        with meter.window("distill", key="6f1c") as distill:
            with meter.window("load"):
                burn(0.1)
            with meter.window("train") as train:
                train.tokens += 1024
                train.steps += 2
                train.data_wait_s += 0.25
                burn(0.2)
        with meter.window("evaluate") as evaluate:
            evaluate.outcome = "reused"
    rows = stage_rows(tmp_path)
    assert [row["window"] for row in rows] == [
        "run/distill/load",
        "run/distill/train",
        "run/distill",
        "run/evaluate",
        "run",
    ]
    assert [row["parent"] for row in rows] == ["run/distill", "run/distill", "run", "run", None]
    assert [row["outcome"] for row in rows] == ["done", "done", "done", "reused", "done"]
    assert {row["attempt"] for row in rows} == {3}
    assert rows[2]["key"] == "6f1c" and rows[1]["key"] is None
    assert (rows[1]["tokens"], rows[1]["steps"], rows[1]["data_wait_s"]) == (1024, 2, 0.25)
    assert (rows[0]["tokens"], rows[0]["steps"], rows[0]["data_wait_s"]) == (None, None, None)
    assert distill.row is not None and meter.row is not None
    assert rows[2]["energy_j"] == distill.row.energy_j
    assert rows[4]["energy_j"] == meter.row.energy_j


def test_parts_are_no_more_than_the_whole_and_nearly_all_of_it(tmp_path, estimate):
    with Meter(tmp_path, estimate) as meter:
        for name in ("a", "b", "c"):
            with meter.window(name):
                burn(0.15)
    energies_j = {row["window"]: row["energy_j"]["cpu"] for row in stage_rows(tmp_path)}
    parts_j = sum(energies_j[f"run/{name}"] for name in "abc")
    assert parts_j <= energies_j["run"] + 1e-9
    assert parts_j == pytest.approx(energies_j["run"], rel=0.3)


def test_a_window_that_raises_is_failed_and_the_error_goes_on(tmp_path, estimate):
    with (
        pytest.raises(ZeroDivisionError),
        Meter(tmp_path, estimate) as meter,
        meter.window("train"),
    ):
        1 / 0  # noqa: B018
    assert [(row["window"], row["outcome"]) for row in stage_rows(tmp_path)] == [
        ("run/train", "failed"),
        ("run", "failed"),
    ]


def test_a_preempted_window_says_so(tmp_path, estimate):
    with pytest.raises(Preempted), Meter(tmp_path, estimate) as meter, meter.window("train"):
        raise Preempted("stopped by SIGTERM")
    assert {row["outcome"] for row in stage_rows(tmp_path)} == {"preempted"}


def test_queued_work_is_waited_for_at_both_edges_but_not_after_an_error(tmp_path, estimate):
    calls: list[str] = []
    with Meter(tmp_path, estimate) as meter:
        with meter.window("train", synchronize=lambda: calls.append("wait")):
            assert calls == ["wait"]
        assert calls == ["wait", "wait"]
        with (
            pytest.raises(ZeroDivisionError),
            meter.window("broken", synchronize=lambda: calls.append("wait")),
        ):
            1 / 0  # noqa: B018
        assert len(calls) == 3


def test_without_any_meter_components_are_missing_with_reasons_and_host_rows_are_kept(
    tmp_path,
):
    settings = Telemetry(slow_interval_s=0.1, rapl_root=str(tmp_path / "none"))

    with Meter(tmp_path, settings) as meter, meter.window("train") as window:
        wait_until(lambda: len(ticks(tmp_path)) >= 2)
        assert window.so_far().quality == "missing"
        assert meter.live_power_w() is None
    assert window.row is not None
    assert window.row.energy_j == {"gpu": None, "cpu": None, "dram": None}
    assert set(window.row.quality.values()) == {"missing"}
    assert set(window.row.reason) == {"gpu", "cpu", "dram"}
    rows = list(read_jsonl(tmp_path / "telemetry.jsonl"))
    assert {row["device_kind"] for row in rows} == {"host"}
    assert rows[0]["util_pct"] is None, "the first answer means nothing"
    assert 0 <= rows[1]["util_pct"] <= 100
    assert rows[1]["memory_used_gib"] > 0


def test_an_open_window_tells_its_energy_and_the_meter_its_power(tmp_path, estimate):
    with Meter(tmp_path, estimate) as meter, meter.window("train") as window:
        burn(0.5)
        so_far = window.so_far()
        live_w = meter.live_power_w()
    assert so_far.quality == "estimated"
    assert 5 < (so_far.value or 0) < 30
    assert 0 < (live_w or 0) < 110


def test_rows_name_the_window_they_fall_into(tmp_path, estimate):
    def windows() -> set[str]:
        return {row["window"] for row in ticks(tmp_path)}

    with Meter(tmp_path, estimate) as meter, meter.window("distill"), meter.window("train"):
        wait_until(lambda: "run/distill/train" in windows())
    rows = list(read_jsonl(tmp_path / "telemetry.jsonl"))
    assert all(row["window"].startswith("run") for row in rows)


def test_slow_readings_do_not_stretch_the_time_between_ticks(tmp_path):
    times_s: list[float] = []

    def read() -> Reading:
        times_s.append(time.monotonic())
        time.sleep(0.06)
        return Reading(time.monotonic(), 0.0)

    probe = Probe(host.model_sensor("cpu", "tdp_model"), None, read=read, read_edge=read)
    journal = Journal(tmp_path / "rows.jsonl")
    sampler = Sampler(
        [probe], host.Clocks(), journal, attempt=1, interval_s=0.1, slow_interval_s=10
    )
    sampler.start()
    time.sleep(1.05)
    sampler.stop()
    journal.close()
    # A pause of 0.1 s after each reading would put 0.16 s between any two.
    apart_s = [after - before for before, after in pairwise(times_s)]
    assert min(apart_s) < 0.13
    assert len(times_s) <= (times_s[-1] - times_s[0]) / 0.1 + 2, "no tick is caught up with"


def test_one_thread_and_no_process_is_added(tmp_path, estimate):
    before = set(threading.enumerate())  # Some may end meanwhile: those of tests before this one.
    with Meter(tmp_path, estimate):
        (added,) = set(threading.enumerate()) - before
        assert added.daemon
    assert set(threading.enumerate()) <= before


def test_a_second_attempt_appends_to_the_first(tmp_path, estimate):
    for attempt in (1, 2):
        with Meter(tmp_path, estimate, attempt=attempt):
            pass
    assert [row["attempt"] for row in stage_rows(tmp_path)] == [1, 2]


def test_telemetry_imports_neither_torch_nor_other_rooms():
    code = (
        "import sys, kdwatts.telemetry.meter, kdwatts.telemetry.recover\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('kdwatts.')}\n"
        "print(sorted(rooms), 'torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    rooms = "['config', 'metrics', 'records', 'runtime', 'telemetry']"
    assert printed.stdout.strip() == f"{rooms} False"


def test_a_run_on_the_cpu_leaves_the_gpus_beside_it_out(tmp_path, estimate, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with Meter(tmp_path, estimate, use_gpus=False) as meter:
        assert meter.gpus == []
    assert meter.row is not None
    assert meter.row.reason["gpu"] == "this run uses no GPU"


def test_a_window_inside_waits_for_the_device_as_the_one_around_it_does(tmp_path, estimate):
    waits: list[str] = []
    with Meter(tmp_path, estimate, use_gpus=False) as meter:
        with meter.window("distill", synchronize=lambda: waits.append("stage")):
            with meter.window("train"):
                assert waits == ["stage"] * 2
            assert waits == ["stage"] * 3
            with meter.window("other", synchronize=lambda: waits.append("own")):
                pass
            assert waits == ["stage"] * 3 + ["own"] * 2
        with meter.window("after"):
            pass
    assert waits == ["stage"] * 3 + ["own"] * 2 + ["stage"]
