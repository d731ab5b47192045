"""A resume that is not the run it continues is found, and no process is left of the examination."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdwatts.doctor.numbers.resume_after_kill import (
    TenSteps,
    compared_runs,
    examine_resume,
    look_at_resume,
)
from kdwatts.doctor.patient import Patient
from kdwatts.training.checkpoint_files import WHOLE_NAME

LONG_S = 600.0


def processes_in(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue  # It has just ended.
        if str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


def finished(folder: Path, losses: list[float], *, weight: float, attempts: list[int]) -> TenSteps:
    """What a run leaves that is compared: a row for each loss, and a student of one number."""
    run = TenSteps(folder, "cpu")
    (run.run_dir / "student").mkdir(parents=True)
    save_file({"weight": torch.tensor([weight])}, run.run_dir / "student" / "model.safetensors")
    rows = [
        {"schema": 1, "attempt": attempt, "step": step, "seconds": 0.1 * step, "loss": loss}
        for step, (loss, attempt) in enumerate(zip(losses, attempts, strict=True), start=1)
    ]
    (run.run_dir / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_equal_students_and_rows_are_right_whatever_their_clocks_say(tmp_path: Path):
    whole = finished(tmp_path / "whole", [3.0, 2.0, 1.0], weight=0.5, attempts=[1, 1, 1])
    killed = finished(tmp_path / "killed", [3.0, 2.0, 1.0], weight=0.5, attempts=[1, 1, 2])
    verdict = compared_runs(whole, killed, 2)
    assert verdict.verdict == "right"
    assert "a kill after 2 of them and a resume at step 3 gave the same student" in verdict.found


def test_a_difference_after_the_resume_names_step_and_field(tmp_path: Path):
    whole = finished(tmp_path / "whole", [3.0, 2.0, 1.0], weight=0.5, attempts=[1, 1, 1])
    killed = finished(tmp_path / "killed", [3.0, 2.0, 1.1], weight=0.6, attempts=[1, 1, 2])
    verdict = compared_runs(whole, killed, 2)
    assert verdict.verdict == "wrong"
    assert verdict.found == (
        "1 of 1 tensors of the student differ; rows differ from step 3 on, in loss"
    )
    assert verdict.remedy and "disk" in verdict.remedy


def test_steps_that_do_not_repeat_are_not_blamed_on_the_resume(tmp_path: Path):
    whole = finished(tmp_path / "whole", [3.0, 2.0, 1.0], weight=0.5, attempts=[1, 1, 1])
    killed = finished(tmp_path / "killed", [3.1, 2.1, 1.1], weight=0.6, attempts=[1, 1, 2])
    verdict = compared_runs(whole, killed, 2)
    assert verdict.verdict == "wrong"
    assert "no resume was before it, so the steps themselves do not repeat" in verdict.found
    assert verdict.remedy and "not deterministic" in verdict.remedy


def test_a_run_that_began_anew_is_no_resume(tmp_path: Path):
    whole = finished(tmp_path / "whole", [3.0, 2.0], weight=0.5, attempts=[1, 1])
    killed = finished(tmp_path / "killed", [3.0, 2.0], weight=0.5, attempts=[2, 2])
    verdict = compared_runs(whole, killed, 2)
    assert verdict.verdict == "wrong"
    assert verdict.found == "a run that was killed after 2 of ten steps began anew"


def test_too_little_time_gives_no_verdict_and_leaves_no_process(tmp_path: Path):
    verdict = examine_resume(tmp_path, "cpu", 0.0)
    assert verdict.verdict is None and verdict.remedy == "give more --minutes"
    assert (tmp_path / "whole" / "stderr").is_file()
    assert processes_in(tmp_path) == []


def test_a_run_that_somebody_else_kills_is_wrong_and_no_process_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def start(run: TenSteps) -> subprocess.Popen[bytes]:
        process = real(run)
        process.kill()
        return process

    real = TenSteps.start
    monkeypatch.setattr(TenSteps, "start", start)
    verdict = examine_resume(tmp_path, "cpu", LONG_S)
    assert verdict.verdict == "wrong"
    assert verdict.found == (
        "a run of ten steps of the tiny pair was ended by signal 9: it said nothing"
    )
    assert verdict.remedy and "dmesg" in verdict.remedy
    assert processes_in(tmp_path) == []


@pytest.mark.slow
def test_a_healthy_machine_resumes_and_leaves_neither_process_nor_file(
    tmp_path: Path, configure: Callable[..., Any]
):
    (verdict,) = look_at_resume(Patient(configure("gpu=cpu"), [], False, tmp_path), LONG_S)
    assert verdict.verdict == "right", verdict.found
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_resume_that_lost_the_optimizer_s_state_is_found(tmp_path: Path):
    def forget(run: TenSteps) -> None:
        (path,) = run.store.rglob(f"step-*/{WHOLE_NAME}")
        state = load_file(path)
        for name, tensor in state.items():
            if name.startswith("optimizer.exp_avg"):
                state[name] = torch.zeros_like(tensor)
        save_file(state, path)

    verdict = examine_resume(tmp_path, "cpu", LONG_S, after_kill=forget)
    assert verdict.verdict == "wrong"
    assert "20 of 20 tensors of the student differ; rows differ from step" in verdict.found
    assert "no resume was before it" not in verdict.found


@pytest.mark.slow
def test_a_run_that_fails_is_wrong_and_its_last_words_are_said(tmp_path: Path):
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "store").write_text("a file where the store should be")
    verdict = examine_resume(tmp_path, "cpu", LONG_S)
    assert verdict.verdict == "wrong"
    assert str(tmp_path / "killed" / "store") in verdict.found
    assert processes_in(tmp_path) == []
