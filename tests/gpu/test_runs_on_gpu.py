"""Whole runs on one GPU: a kill changes no bit, a second run is not refused, joules are measured.

Every run is a process of its own, and this one uses no GPU, as it would look like a stranger's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.gpu.gpu import DEVICE, ON_GPU

pytestmark = [pytest.mark.gpu, ON_GPU]

TEN_STEPS = (
    *("until=distill", "training=smoke", "paradigm=feature", "data.num_documents=30"),
    *("eval=none", "training.target_tokens=10240", "training.log_every=1"),
    *("training.checkpoint_every_s=1e-6", "telemetry.idle_s=0"),
)


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


def at(run_dir: Path, store: Path) -> list[str]:
    return [f"hydra.run.dir={run_dir}", f"store_dir={store}"]


def rows_of(run_dir: Path) -> dict[str, Any]:
    lines = (run_dir / "stages.jsonl").read_text().splitlines()
    return {row["window"]: row for row in map(json.loads, lines)}


def test_ten_steps_equal_some_a_kill_and_the_rest_bit_for_bit(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(*at(whole, tmp_path / "one"), *TEN_STEPS)
    process = start(*at(killed, tmp_path / "two"), *TEN_STEPS)
    log, deadline_s = killed / "train.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline_s and process.poll() is None:
        if log.is_file() and log.read_bytes().count(b"\n") >= 6:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    finish(*at(killed, tmp_path / "two"), *TEN_STEPS)
    found, expected = (
        load_file(folder / "student" / "model.safetensors") for folder in (killed, whole)
    )
    different = [name for name in expected if not (found[name] == expected[name]).all()]
    assert not different


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
