import json
import os
import signal
import time

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import append_jsonl, read_jsonl
from kdwatts.records.schema import TelemetryRow
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.recover import recover_components

ENDLESS = """
settings = Telemetry(rapl_root="/nowhere", cpu_estimate="tdp", cpu_tdp_w=100, cpu_tdp_threads=2)
with Meter(out_dir, settings, attempt=2) as meter:
    with meter.window("shards"):
        time.sleep(1)
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
    # The sample at each end is lost: 0.1 s of 400 W, twice, and more where the machine is busy.
    assert row.energy_j["gpu"] == pytest.approx(400 * (killed_s - began_s), abs=400 * 0.6)
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


def test_a_gpu_without_counter_is_integrated(tmp_path):
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


def ticks_of_a_kill(path, *, killed_s: float, began_s: float, slow: str) -> None:
    """A GPU of 100 W read each tenth of a second and, once a second, a component of 50 W."""
    for n in range(int(killed_s * 10) + 1):
        window = "run/distill" if n / 10 >= began_s else "run"
        append_jsonl(path, tick(n / 10, window, 10.0 * n))
        if n % 10 == 0:
            cpu = {"device_kind": "cpu", "device_index": None, "uuid": None, "method": slow}
            append_jsonl(path, tick(n / 10, window, 5.0 * n, **cpu))


@pytest.mark.parametrize("began_s, killed_s", [(1.15, 9.97), (1.95, 9.05), (2.0, 8.0)])
@pytest.mark.parametrize("slow", ["attributed", "tdp_model"])
def test_what_is_read_once_a_second_is_recovered_to_within_a_tenth(
    began_s, killed_s, slow, tmp_path
):
    path = tmp_path / "telemetry.jsonl"
    ticks_of_a_kill(path, killed_s=killed_s, began_s=began_s, slow=slow)
    row = recover_components(path, "run/distill", 1, interval_s=0.1, lost_end_s=0.05)
    assert row is not None
    assert row.duration_s == pytest.approx(killed_s - began_s, abs=0.1001)
    assert row.energy_j["gpu"] == pytest.approx(100 * (killed_s - began_s), abs=10.01)
    assert row.energy_j["cpu"] == pytest.approx(50 * (killed_s - began_s), abs=5.01)
    assert row.coverage["cpu"] == row.coverage["gpu"] == pytest.approx(1)


def test_what_was_bridged_is_in_doubt_as_a_whole(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    ticks_of_a_kill(path, killed_s=9.9, began_s=2.0, slow="tdp_model")
    row = recover_components(path, "run/distill", 1, interval_s=0.1)
    assert row is not None
    # 7 s are read and 0.9 s are not: 45 J of 395 J, half of all by the model, a tick at the edges.
    assert row.energy_j["cpu"] == pytest.approx(395)
    assert row.uncertainty_j["cpu"] == pytest.approx((197.5**2 + 45**2 / 3 + 5**2 / 6) ** 0.5)


def test_a_device_that_had_gone_before_the_kill_is_not_continued(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    for n in range(101):
        append_jsonl(path, tick(n / 10, "run/distill", 10.0 * n if n <= 50 else None))
    row = recover_components(path, "run/distill", 1, interval_s=0.1, lost_end_s=0.05)
    assert row is not None
    assert row.energy_j["gpu"] == pytest.approx(500)
    assert row.coverage["gpu"] == pytest.approx(0.5, abs=0.01)


def test_an_estimate_is_in_the_trace_at_every_tick(tmp_path):
    told = Telemetry(interval_s=0.02, rapl_root="/nowhere", cpu_estimate="tdp")
    with Meter(tmp_path, told, use_gpus=False):
        time.sleep(0.5)
    rows = [r for r in read_jsonl(tmp_path / "telemetry.jsonl") if r["device_kind"] == "cpu"]
    # Once a second would give two.
    assert len(rows) > 4


def test_an_impossible_sample_of_the_trace_is_refused_and_named_as_by_the_meter(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    for n in range(101):
        # As the trace has it today, and as traces before had it.
        said = {40: {"refused_power_w": 4294967.295}, 60: {"power_w": 4294967.295}}
        power = said.get(n, {"power_w": 60.0})
        row = tick(n / 10, "run", None, method="nvml_samples", power_limit_w=70.0, **power)
        append_jsonl(path, row)
    row = recover_components(path, "run", 1)
    assert row is not None
    assert row.energy_j["gpu"] == pytest.approx(600)
    assert "2 power samples of GPU-0 refused" in row.reason["gpu"]
