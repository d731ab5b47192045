"""What a sweep says at its end, how it goes on in its folder, and what it refuses there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kdwatts.artifacts.manifest import write_status
from kdwatts.cli import sweep
from kdwatts.cli.preflight import compose
from kdwatts.cli.sweep import Outcome
from kdwatts.records.files import read_json
from tests.waits import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of a sweep's three runs."""
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / "multirun" / name for name in ("0-sft", "1-response", "2-feature")]
    monkeypatch.setattr(sweep, "sweep_dirs", dict.fromkeys(folders, tmp_path / "multirun"))
    monkeypatch.setattr(sweep, "known_outcomes", {})
    return folders


def test_the_table_has_a_line_a_run_and_says_how_to_go_on(runs: list[Path]):
    outcomes = [
        Outcome(runs[0], "done", ""),
        Outcome(runs[1], "failed", "the loss is nan"),
        Outcome(runs[2], "preempted", "stopped by SIGUSR2"),
    ]
    assert sweep.table(outcomes, num_untouched=2).splitlines() == [
        "done       multirun/0-sft",
        "failed     multirun/1-response  the loss is nan",
        "preempted  multirun/2-feature   stopped by SIGUSR2",
        "5 runs: 1 done, 1 failed, 1 preempted, 2 not started; to go on, run the same command "
        "with hydra.sweep.dir=multirun",
    ]


def test_the_exit_code_is_that_of_the_worst_run(runs: list[Path]):
    done, failed, preempted = (
        Outcome(run, state, "")
        for run, state in zip(runs, ("done", "failed", "preempted"), strict=True)
    )
    assert sweep.exit_code([done]) == 0
    assert sweep.exit_code([done], num_untouched=1) == 75
    assert sweep.exit_code([done, preempted]) == 75
    assert sweep.exit_code([done, preempted, failed]) == 1


def test_what_became_of_a_run_is_in_its_status_unless_the_driver_knows_better(runs: list[Path]):
    for run in runs[:2]:
        run.mkdir(parents=True)
        write_status(run, state="failed", stage="distill", attempt=1, error="the disk is full")
    sweep.note_outcome(runs[1], "failed", "job 7 did not come to begin it")
    assert [sweep.outcome(run) for run in runs] == [
        Outcome(runs[0], "failed", "the disk is full"),
        Outcome(runs[1], "failed", "job 7 did not come to begin it"),
        Outcome(runs[2], "preempted", "not started: the sweep was stopped before it"),
    ]


def test_a_folder_is_gone_on_with_by_the_same_settings_alone(tmp_path: Path):
    asked = compose(["paradigm=sft", "gpu=auto"])
    sweep.check_same(tmp_path, asked)
    for gpu in ("cpu", "h100"):  # What auto found brings the estimate of CPU power, or does not.
        found = compose(["paradigm=sft", f"gpu={gpu}", "cluster.timeout_min=5", "cluster.qos=long"])
        OmegaConf.save(found, tmp_path / "config.yaml", resolve=True)
        sweep.check_same(tmp_path, asked)
    with pytest.raises(ValueError, match=r"training\.seed=0, and this command asks for 1;"):
        sweep.check_same(tmp_path, compose(["paradigm=sft", "training.seed=1"]))
    with pytest.raises(ValueError, match=r"gpu\.name=h100, and this command asks for cpu;"):
        sweep.check_same(tmp_path, compose(["paradigm=sft", "gpu=cpu"]))


def test_an_element_does_not_make_what_was_to_be_made_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sweep, "prerequisites", [str(tmp_path), str(tmp_path / "teacher")])
    with pytest.raises(RuntimeError, match=rf"^{tmp_path}/teacher was made before this job began"):
        sweep.check_prerequisites()
    (tmp_path / "teacher").mkdir()
    sweep.check_prerequisites()


def _arguments(folder: Path, *overrides: str) -> list[str]:
    folders = [f"hydra.sweep.dir={folder}/sweep", f"store_dir={folder}/store"]
    small = ["training=smoke", "gpu=cpu", "until=distill", "paradigm=sft"]
    return ["-m", *small, *folders, *overrides]


def test_a_sweep_here_ends_with_its_table_and_the_same_command_runs_what_failed_alone(
    tmp_path: Path, kdwatts: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    """The first run fails, and the second runs all the same."""
    arguments = _arguments(tmp_path, "training.learning_rate=1e30,1e-3")
    for word in ("", "before this command"):
        assert kdwatts(*arguments) == 1
        output, errors = capsys.readouterr()
        assert "kdwatts: " in errors and "Traceback" not in errors
        table = [line.split(maxsplit=2) for line in output.splitlines()[-3:]]
        reason = read_json(tmp_path / "sweep" / "0-sft-tiny" / "status.json")["error"]
        assert table[0][0] == "failed" and table[0][2] == reason != ""
        assert table[1][:2] == ["done", f"{tmp_path}/sweep/1-sft-tiny"]
        assert table[1][2:] == ([word] if word else [])
    attempts = [
        read_json(tmp_path / "sweep" / run / "status.json")["attempt"]
        for run in ("0-sft-tiny", "1-sft-tiny")
    ]
    assert attempts == [2, 1]


def test_a_sweep_here_that_is_stopped_begins_no_further_run(tmp_path: Path):
    arguments = _arguments(tmp_path, "training.seed=0,1", "training.target_tokens=4_000_000")
    process = subprocess.Popen(
        [sys.executable, "-m", "kdwatts", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "sweep" / "0-sft-tiny" / "train.jsonl"
    wait_until(log.is_file, timeout_s=180)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 75
    assert "2 runs: 1 preempted, 1 not started; to go on, run the same command" in output
    assert not (tmp_path / "sweep" / "1-sft-tiny").exists()
