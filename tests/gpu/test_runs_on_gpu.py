"""Whole runs on one GPU: a kill changes no bit, a second run is not refused, joules are measured.

Every run is a process of its own, and this one uses no GPU, as it would look like a stranger's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdwatts.doctor.numbers.resume_after_kill import examine_resume
from tests.gpu.gpu import DEVICE, ON_GPU

pytestmark = [pytest.mark.gpu, ON_GPU]


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kdwatts", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"},
    )


def finish(*words: str) -> None:
    process = start(*words)
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 0, told[-2000:]


def rows_of(run_dir: Path) -> dict[str, Any]:
    lines = (run_dir / "stages.jsonl").read_text().splitlines()
    return {row["window"]: row for row in map(json.loads, lines)}


def test_ten_steps_equal_some_a_kill_and_the_rest_bit_for_bit(tmp_path: Path):
    verdict = examine_resume(tmp_path, DEVICE.type, 300.0)
    assert verdict.verdict == "right", verdict.found


def test_two_runs_of_one_process_are_metered_by_the_gpu_s_counter(tmp_path: Path):
    words = (
        *("until=inference", "training=smoke", "eval=tiny", "eval.tasks=[]"),
        *("eval.inference.max_repeats=3", "telemetry.idle_s=0", "data.num_documents=30"),
        *(f"store_dir={tmp_path / 'store'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"),
    )
    finish("-m", "paradigm=sft,response", *words)
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert len(folders) == 2
    for folder in folders:
        row = rows_of(folder)["run/inference_student"]
        if DEVICE.type == "cuda":
            counted, sampled = row["energy_j"]["gpu"], row["sampled_energy_j"]["gpu"]
            assert (row["method"]["gpu"], row["quality"]["gpu"]) == ("nvml_counter", "measured")
            # Flagged above 2 % in windows of 10 s, above 5 % in shorter ones.
            assert counted == pytest.approx(sampled, rel=0.05)
        else:
            assert row["quality"]["cpu"] == "estimated"
