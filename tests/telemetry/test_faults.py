"""What befalls a run: kills, every error of NVML, full disks and odd ends. No window is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from kdwatts.records.files import read_jsonl
from kdwatts.telemetry.recover import recover_components
from tests.telemetry.cases import TRACES, stated_j, truth_j

pytestmark = pytest.mark.slow

NUM_KILLS = 50
BATCH = 25
MAX_DELAY_S = 6.0
TICK_S = 0.1
LATE_S = 0.4
"""The machine's delays, with so many processes on a few cores."""

CODES = {
    value: str(pynvml.NVMLError(value))
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_")
}


def stage_rows(out_dir: Path) -> list[dict]:
    path = out_dir / "stages.jsonl"
    return list(read_jsonl(path)) if path.exists() else []


def left_behind(out_dir: Path) -> list[int]:
    """Processes of a script, which all carry its folder on their command line."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(out_dir) in (process.info["cmdline"] or ())
    ]


STEPS = """
print("ready", flush=True)
with Meter(out_dir, Telemetry(rapl_root="/nowhere")) as meter, meter.window("train"):
    for number in range(10_000):
        with meter.window(f"step-{number}") as window:
            time.sleep(0.15)
        print(window.row.window, flush=True)
"""


@dataclass(frozen=True)
class Killed:
    """One attempt that was killed."""

    out_dir: Path
    start_s: float
    killed_s: float
    finished: list[str]


@pytest.fixture(scope="module")
def killed(start_script, under_faults) -> list[Killed]:
    # Those asked for before it mostly sleep, beside the killing.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)

    def kill(delay_s: float) -> Killed:
        start_s = time.monotonic()
        script = start_script(STEPS, TRACES["bursts random"], start_s=start_s)
        script.process.stdout.readline()
        time.sleep(delay_s)
        os.kill(script.process.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        printed, errors = script.process.communicate()
        assert errors == ""
        return Killed(script.out_dir, start_s, killed_s, printed.splitlines())

    attempts: list[Killed] = []
    with ThreadPoolExecutor(BATCH) as threads:
        for _ in range(NUM_KILLS // BATCH):
            attempts += threads.map(kill, [dice.uniform(0, MAX_DELAY_S) for _ in range(BATCH)])
    return attempts


def test_a_kill_at_any_moment_loses_no_finished_window(killed):
    assert len(killed) == NUM_KILLS
    assert sum(len(one.finished) for one in killed) > 5 * NUM_KILLS
    for one in killed:
        on_disk = [row["window"] for row in stage_rows(one.out_dir)]
        # The last one may have been written and not yet printed.
        assert on_disk[: len(one.finished)] == one.finished
        assert len(on_disk) <= len(one.finished) + 1


def test_a_kill_loses_at_most_one_tick(killed):
    began = [one for one in killed if (one.out_dir / "telemetry.jsonl").exists()]
    assert len(began) > NUM_KILLS / 2
    for one in began:
        rows = [row for row in read_jsonl(one.out_dir / "telemetry.jsonl") if row["uuid"]]
        if rows:
            # The tick in the making, and the one before it.
            assert one.killed_s - rows[-1]["monotonic_s"] < 2 * TICK_S + LATE_S


def test_the_open_window_of_a_killed_attempt_has_an_energy_near_the_truth(killed):
    recovered = []
    for one in killed:
        path = one.out_dir / "telemetry.jsonl"
        row = recover_components(path, "run/train", 1) if path.exists() else None
        if row is None or row.energy_j["gpu"] is None:
            continue
        from_s = row.start_s - one.start_s
        true_j = truth_j(TRACES["bursts random"], from_s, from_s + row.duration_s)
        assert abs(row.energy_j["gpu"] - true_j) < 2 * stated_j(vars(row))
        assert one.killed_s - (row.start_s + row.duration_s) < 2 * TICK_S + LATE_S
        recovered.append(row)
    assert len(recovered) > NUM_KILLS / 4


def test_a_kill_leaves_no_process_behind(killed):
    assert [pid for one in killed for pid in left_behind(one.out_dir)] == []


EVERY_CODE = """
begin_s, slot_s, codes = json.loads(os.environ["SLOTS"])
start_s = float(os.environ["NVML_REPLAY_START_S"])
rows = []
with Meter(out_dir, Telemetry(rapl_root="/nowhere", slow_interval_s=0.1)) as meter:
    with meter.window("all") as all_codes:
        for number, code in enumerate(codes):
            time.sleep(max(0, start_s + begin_s + slot_s * number - time.monotonic()))
            with meter.window(f"code-{code}") as window:
                time.sleep(0.1)
        time.sleep(1.5)
print_json({"all": all_codes.row, "start_s": start_s})
"""


@pytest.fixture(scope="module")
def under_faults(start_script) -> dict[object, Any]:
    """Scripts by the GPU whose queries fail, where -1 is all of NVML, and one of many starts."""
    # Ten seconds for nearly thirty processes to start on two cores.
    begin_s, slot_s, fault_s = 10.0, 0.6, 0.3
    scripts = {}
    for gpu in (0, -1):
        faults = [
            f"{begin_s + slot_s * i}:{begin_s + slot_s * i + fault_s}:{gpu}:{code}"
            for i, code in enumerate(CODES)
        ]
        scripts[gpu] = start_script(
            EVERY_CODE,
            TRACES["bursts random"],
            {"SLOTS": json.dumps([begin_s, slot_s, list(CODES)])},
            faults=",".join(faults),
            start_s=time.monotonic(),
        )
    dice = random.Random(1)
    faults, time_s = [], 0.0
    while time_s < 30:
        time_s += dice.expovariate(10)
        until_s = time_s + dice.choice([0.002, 0.02, 0.5])
        faults.append(f"{time_s:.4f}:{until_s:.4f}:{dice.choice([0, -1])}:{dice.choice([*CODES])}")
        time_s = until_s
    scripts["starts"] = start_script(
        "import random\n" + STARTS, [(0, 300)], faults=",".join(faults)
    )
    return scripts


@pytest.mark.parametrize("gpu", [0, -1])
def test_every_error_of_nvml_is_a_row_and_costs_no_window(under_faults, gpu):
    script = under_faults[gpu]
    result = script.finish()
    windows = [row["window"] for row in stage_rows(script.out_dir)]
    assert windows == [*(f"run/all/code-{code}" for code in CODES), "run/all", "run"]
    row = result["all"]
    from_s = row["start_s"] - result["start_s"]
    true_j = truth_j(TRACES["bursts random"], from_s, from_s + row["duration_s"])
    # The counter was there on both sides of every fault.
    assert row["energy_j"]["gpu"] == pytest.approx(true_j, rel=0.001)
    failed = [one for one in script.rows("gpu") if one["error"]]
    if gpu == 0:
        assert {one["error"] for one in failed} == set(CODES.values())
    assert len(failed) > 2 * len(CODES)
    assert {one["energy_counter_j"] for one in failed if one["power_w"] is None} == {None}


STARTS = """
dice, start_s, reasons, rows = random.Random(0), time.monotonic(), set(), 0
while time.monotonic() < start_s + 25:
    with Meter(out_dir / str(rows), Telemetry(rapl_root="/nowhere")) as meter:
        with meter.window("train") as window:
            time.sleep(dice.uniform(0, 0.05))
    rows += 1
    reasons.add(window.row.reason["gpu"].split(" ")[0])
print_json({"rows": rows, "reasons": sorted(reasons)})
"""


def test_errors_while_the_meter_starts_and_ends_never_reach_the_run(under_faults):
    script = under_faults["starts"]
    result = script.finish()
    assert result["rows"] > 40
    for number in range(result["rows"]):
        windows = [row["window"] for row in stage_rows(script.out_dir / str(number))]
        assert windows == ["run/train", "run"]
    # Some found the GPU, which tells nothing of so short a window, and some none.
    assert {"window", "no"} <= set(result["reasons"])


DISK = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
def fill():
    size = (out_dir / "stages.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, hard))
with Meter(out_dir, Telemetry(rapl_root="/nowhere")) as meter:
    for name in ("before", "full-1", "full-2", "after"):
        if name == "full-1":
            fill()
        if name == "after" and not os.environ.get("FULL"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with meter.window(name):
            time.sleep(0.3)
"""


def test_a_disk_that_is_full_for_a_while_loses_no_finished_window(start_script):
    # The contract of the journal: rows that found no room are kept and written when there is some.
    script = start_script(DISK, [(0, 300)])
    _, errors = script.process.communicate(timeout=60)
    assert script.process.returncode == 0, errors
    windows = [row["window"] for row in stage_rows(script.out_dir)]
    assert windows == ["run/before", "run/full-1", "run/full-2", "run/after", "run"]
    times_s = [row["monotonic_s"] for row in read_jsonl(script.out_dir / "telemetry.jsonl")]
    assert times_s == sorted(times_s)


def test_a_disk_that_stays_full_leaves_the_rows_in_the_log(start_script):
    # The contract of the journal: what found no room until the end is logged, a line each.
    script = start_script(DISK, [(0, 300)], {"FULL": "1"})
    _, errors = script.process.communicate(timeout=60)
    assert script.process.returncode == 0, errors
    assert [row["window"] for row in stage_rows(script.out_dir)] == ["run/before"]
    for window in ("run/full-1", "run/full-2", "run/after", "run"):
        assert f'"window":"{window}"' in errors.replace('": "', '":"')


ENDS = {
    "an exception": ("raise ValueError('end')", 1),
    "os._exit": ("os._exit(3)", 3),
    "sys.exit": ("sys.exit(4)", 4),
    "sys.exit in a thread": (
        "import threading; t = threading.Thread(target=sys.exit, args=(5,)); t.start(); t.join()",
        0,
    ),
    "a kill": ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
}

END = """
with Meter(out_dir, Telemetry(rapl_root="/nowhere")) as meter:
    with meter.window("first"):
        time.sleep(0.2)
    with meter.window("last"):
        {end}
"""

NEVER_LEFT = """
Meter(out_dir, Telemetry(rapl_root="/nowhere")).__enter__()
time.sleep(0.3)
"""


def test_nothing_runs_on_after_any_end(start_script):
    scripts = {
        name: (start_script(END.format(end=end)), code) for name, (end, code) in ENDS.items()
    }
    scripts["a meter never left"] = start_script(NEVER_LEFT), 0
    for name, (script, code) in scripts.items():
        try:
            script.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            script.process.kill()
            pytest.fail(f"{name}: still running after 30 s")
        assert script.process.returncode == code, name
        assert left_behind(script.out_dir) == [], name
        if name != "a meter never left":
            assert stage_rows(script.out_dir)[0]["window"] == "run/first", name
