import json
import os
import signal
import time

import pytest

from kdwatts.records import TelemetryRow, append_jsonl, read_jsonl
from kdwatts.telemetry.recover import recover_components

ENDLESS = """
settings = Telemetry(rapl_root="/nowhere", cpu_estimate="tdp", cpu_tdp_w=100, cpu_tdp_threads=2)
with Meter(out_dir, settings, attempt=2) as meter:
    with meter.window("shards"):
        time.sleep(0.3)
    with meter.window("distill"), meter.window("train"):
        print(json.dumps(time.monotonic()), flush=True)
        time.sleep(60)
"""


def test_the_energy_of_a_killed_attempt_is_recovered_from_its_trace(start_script):
    script = start_script(ENDLESS, [(0, 400)])
    assert script.process.stdout is not None
    began_s = json.loads(script.process.stdout.readline())
    time.sleep(3.0)
    os.kill(script.process.pid, signal.SIGKILL)
    killed_s = time.monotonic()
    script.process.communicate()
    row = recover_components(script.out_dir / "telemetry.jsonl", "run/distill", 2)
    assert row is not None
    assert row.window == "run/distill"
    # At most the sample at each end is lost: 0.1 s of 400 W, twice, and the counter's 20 ms.
    assert row.energy_j["gpu"] == pytest.approx(400 * (killed_s - began_s), abs=100)
    assert row.method["gpu"] == "nvml_counter"
    assert row.quality == {"gpu": "measured", "cpu": "estimated", "dram": "missing"}
    assert row.coverage["gpu"] == pytest.approx(1, abs=0.1)
    assert "killed attempt" in row.reason["gpu"]
    # Windows that closed before the kill are on disk.
    rows = list(read_jsonl(script.out_dir / "stages.jsonl"))
    assert [row["window"] for row in rows] == ["run/shards"]


def tick(time_s: float, window: str, energy_counter_j: float | None, **changes) -> TelemetryRow:
    values = {
        "time_utc": "2026-01-01T00:00:00.000+00:00",
        "monotonic_s": time_s,
        "attempt": 1,
        "window": window,
        "device_kind": "gpu",
        "device_index": 0,
        "uuid": "GPU-0",
        "method": "nvml_counter",
        "energy_counter_j": energy_counter_j,
    }
    return TelemetryRow(**(values | changes))


def test_only_rows_inside_the_window_of_the_attempt_count(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    append_jsonl(path, tick(0, "run/distill/train", 7000, attempt=0))
    for second in range(4):
        append_jsonl(path, tick(second, "run/distill", 100 * second))
    for second in range(4, 8):
        append_jsonl(path, tick(second, "run/distillery", 100 * second))
    for second in range(8, 12):
        append_jsonl(path, tick(second, "run/distill/train", 100 * second))
    row = recover_components(path, "run/distill", 1)
    assert row is not None
    # 0 to 3 s and 8 to 11 s at 100 W; the steps into and out of the other window are in neither.
    assert row.energy_j["gpu"] == 600
    assert row.duration_s == 6
    assert row.coverage["gpu"] == 1


def test_a_torn_last_line_is_passed_over(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    for second in range(4):
        append_jsonl(path, tick(second, "run/distill", 100 * second))
    with path.open("a") as file:
        file.write('{"time_utc": "2026-01-01T00')
    row = recover_components(path, "run/distill", 1)
    assert row is not None
    assert row.energy_j["gpu"] == 300


def test_a_card_without_counter_is_integrated(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    for tenth in range(31):
        append_jsonl(
            path, tick(tenth / 10, "run", None, method="nvml_samples", power_w=100.0 + tenth)
        )
    row = recover_components(path, "run", 1)
    assert row is not None
    # A ramp from 100 W to 130 W over 3 s.
    assert row.energy_j["gpu"] == pytest.approx(345)
    assert row.method["gpu"] == "nvml_samples"


def test_an_attempt_without_rows_has_nothing_to_recover(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    append_jsonl(path, tick(0, "run", 0))
    assert recover_components(path, "run/distill", 1) is None
    assert recover_components(path, "run", 2) is None
