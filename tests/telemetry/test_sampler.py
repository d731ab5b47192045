"""Whatever a library raises or says, sampling goes on; and what ends it is a reason in windows."""

import logging
import math
import time
from functools import partial

import psutil
import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import read_jsonl
from kdwatts.telemetry import host
from kdwatts.telemetry.host import Clocks
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import Reading, Sensor
from kdwatts.telemetry.sampler import Sampler
from tests.waits import wait_until

OFTEN = Telemetry(interval_s=0.02, slow_interval_s=0.04, rapl_root="/nowhere", cpu_estimate="tdp")


def rows_of(out_dir, kind: str) -> list[dict]:
    path = out_dir / "telemetry.jsonl"
    rows = list(read_jsonl(path)) if path.exists() else []
    return [row for row in rows if row["device_kind"] == kind]


@pytest.mark.parametrize(
    "error", [NotImplementedError("no clock"), OSError(2, "gone"), ValueError("'' is no number")]
)
def test_a_cpu_clock_that_cannot_be_read_is_null_and_costs_nothing_else(
    error, monkeypatch, tmp_path
):
    def cpu_freq() -> None:
        raise error

    monkeypatch.setattr(psutil, "cpu_freq", cpu_freq)
    assert host.clock_mhz() is None
    with Meter(tmp_path, OFTEN, use_gpus=False):
        wait_until(lambda: len(rows_of(tmp_path, "host")) >= 5)
    rows = rows_of(tmp_path, "host")
    assert {(row["cpu_clock_mhz"], row["error"]) for row in rows} == {(None, None)}
    assert all(row["memory_used_gib"] > 0 for row in rows)


def test_one_quantity_of_the_host_that_fails_does_not_cost_the_others(monkeypatch, tmp_path):
    def memory() -> None:
        raise RuntimeError("no /proc/meminfo")

    monkeypatch.setattr(host, "memory_used_gib", memory)
    with Meter(tmp_path, OFTEN, use_gpus=False):
        wait_until(lambda: len(rows_of(tmp_path, "host")) >= 3)
    rows = rows_of(tmp_path, "host")
    assert {row["error"] for row in rows} == {"RuntimeError: no /proc/meminfo"}
    assert {row["memory_used_gib"] for row in rows} == {None}
    assert all(row["process_cpu_s"] > 0 for row in rows)


def a_probe(read) -> Probe:
    sensor = Sensor("gpu", "GPU-0", "nvml_samples", 70.0, delta_s=0.02, max_gap_s=0.06)
    return Probe(sensor, 0, read, read)


def sampled(tmp_path, probe: Probe, **changes) -> list[dict]:
    journal = Journal(tmp_path / "telemetry.jsonl")
    thread = Sampler(
        [probe], Clocks(), journal, attempt=1, interval_s=0.02, slow_interval_s=0.02, **changes
    )
    thread.start()
    wait_until(lambda: len(rows_of(tmp_path, "gpu")) > 5)
    thread.stop()
    journal.close()
    assert thread.ended is None
    return list(read_jsonl(tmp_path / "telemetry.jsonl"))


@pytest.mark.parametrize("error", [KeyError("power"), TypeError("None"), MemoryError()])
def test_a_device_that_raises_what_nobody_foresaw_is_rows_with_that_error(error, tmp_path):
    answers = iter([60.0, error, error])

    def read() -> Reading:
        answer = next(answers, 60.0)
        if isinstance(answer, Exception):
            raise answer
        return Reading(time.monotonic(), None, answer)

    rows = [row for row in sampled(tmp_path, a_probe(read)) if row["device_kind"] == "gpu"]
    assert [row["power_w"] for row in rows[:4]] == [60, None, None, 60]
    assert [row["error"] is None for row in rows[:4]] == [True, False, False, True]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("look"), "ZeroDivisionError: look"),
        (KeyError("power"), "KeyError: 'power'"),
        (MemoryError(), "MemoryError"),
        (OSError(2, "gone"), "FileNotFoundError: [Errno 2] gone"),
    ],
)
def test_a_tick_that_fails_as_a_whole_is_a_row_and_the_next_one_follows(
    error, words, tmp_path, caplog
):
    fails = iter([None, error, error])

    def look() -> None:
        if fault := next(fails, None):
            raise fault

    probe = a_probe(lambda: Reading(time.monotonic(), None, 60.0))
    journal = Journal(tmp_path / "telemetry.jsonl")
    # It costs nothing, so it is called at each slow tick.
    often = {"interval_s": 0.02, "slow_interval_s": 0.02}
    thread = Sampler([probe], Clocks(), journal, attempt=1, look=look, **often)
    thread.start()
    wait_until(lambda: len(rows_of(tmp_path, "gpu")) > 5)
    thread.stop()
    journal.close()
    rows = list(read_jsonl(tmp_path / "telemetry.jsonl"))
    errors = [row["error"] for row in rows if row["error"]]
    assert errors == [words] * 2
    assert [r.message for r in caplog.records if "one reading failed" in r.message] == [
        f"telemetry: one reading failed ({words}); sampling goes on"
    ]


def test_what_ends_the_thread_is_a_reason_of_every_window_after_it(monkeypatch, tmp_path, caplog):
    def tick(*_, slow: bool) -> None:
        raise SystemExit("a library ended the thread")

    with Meter(tmp_path, OFTEN, use_gpus=False) as meter:
        with meter.window("before") as before:
            time.sleep(0.1)
        with meter.window("around") as around:
            monkeypatch.setattr(meter.node._sampler, "_tick", tick)
            wait_until(lambda: meter.node._sampler.ended)
        with meter.window("after") as after:
            pass
    said = "sampling ended: SystemExit: a library ended the thread"
    assert before.row and around.row and after.row and meter.row
    assert "cpu" not in before.row.reason
    for row in (around.row, after.row, meter.row):
        assert all(said in row.reason[kind] for kind in ("gpu", "cpu", "dram"))
    assert any(record.levelno == logging.ERROR for record in caplog.records)


@pytest.mark.parametrize("wrong_w", [4294967.295, 0.0, math.nan, math.inf])
def test_an_impossible_power_is_null_in_the_trace_beside_what_the_gpu_said(wrong_w, tmp_path):
    probe = a_probe(lambda: Reading(time.monotonic(), None, wrong_w, wrong_w))
    rows = [row for row in sampled(tmp_path, probe) if row["device_kind"] == "gpu"]
    assert {row["power_w"] for row in rows} == {row["power_average_w"] for row in rows} == {None}
    told = {row["refused_power_w"] for row in rows}
    assert told == ({wrong_w} if math.isfinite(wrong_w) else {None})
    assert probe.power_w is None


def test_a_reading_of_a_kind_that_json_lacks_costs_no_row(tmp_path):
    reading = partial(Reading, energy_counter_j=None, power_w=60.0)
    probe = a_probe(lambda: reading(time.monotonic()))
    probe.sensor = Sensor("gpu", "GPU-\udcff", "nvml_samples", 70.0, 0.02, 0.06)
    rows = [row for row in sampled(tmp_path, probe) if row["device_kind"] == "gpu"]
    assert {row["uuid"] for row in rows} == {"GPU-?"}
