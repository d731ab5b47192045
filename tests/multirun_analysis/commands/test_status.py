"""How far a sweep is told to be: folders of every kind, real processes, and Slurm's own answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.commands.run_states import run_states
from multirun_analysis.commands.slurm_queue import find_jobs
from multirun_analysis.commands.status import main

REPOSITORY = Path(__file__).parents[3]

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes the folder of a run that last wrote `silent_s` ago and says `status`."""

    def make_run(name: str, status: dict[str, Any] | None = None, *, silent_s: float = 0) -> Path:
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text("training:\n  seed: 0\n")
        (folder / "telemetry.jsonl").write_text("{}\n")
        if status is not None:
            record = {"schema": 1, "stage": "distill", "attempt": 1, "error": None} | status
            (folder / "status.json").write_text(json.dumps(record))
        then_s = time.time() - silent_s
        for path in (*folder.iterdir(), folder / ".hydra" / "config.yaml"):
            os.utime(path, (then_s, then_s))
        return folder

    return make_run


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts clients of a Slurm on the path that answer with these lines."""
    bin_dir = tmp_path / ".bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")

    def answer(*, squeue: str = "", sacct: str = "", squeue_exit: int = 0) -> None:
        for name, text, code in (("squeue", squeue, squeue_exit), ("sacct", sacct, 0)):
            path = bin_dir / name
            path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
            path.chmod(0o755)

    return answer


def states(directory: Path) -> dict[str, str]:
    return {one.folder: one.state for one in run_states(directory)}


def test_a_sweep_of_every_kind_is_told_in_a_table_that_counts_and_fails(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make("0-sft-tiny", {"state": "done", "stage": "inference_teacher"}, silent_s=9000)
    make("1-response-tiny", {"state": "running", "attempt": 2})
    make("2-feature-tiny", {"state": "running"}, silent_s=61)
    make("10-sft-tiny", {"state": "failed", "error": "the disk is full"}, silent_s=9000)
    make("11-sft-tiny", {"state": "preempted", "error": "stopped by SIGTERM"}, silent_s=9000)
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["done", "0-sft-tiny"],
        ["running", "1-response-tiny"],
        ["failed", "2-feature-tiny"],
        ["failed", "10-sft-tiny"],
        ["preempted", "11-sft-tiny"],
    ]
    assert "distill" in lines[2] and " 2" in lines[2]
    assert "silent for 61 s, so it was killed" in lines[3]
    assert lines[4].endswith("the disk is full")
    assert lines[-1] == "5 runs: 1 done, 1 running, 2 failed, 1 preempted"


def test_the_exit_code_is_0_without_a_failure_and_json_holds_the_same(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make("0-sft-tiny", {"state": "done", "host": "gpu7", "job_id": "12_0"}, silent_s=9000)
    assert main(["--json", str(tmp_path)]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record == {
        "folder": "0-sft-tiny",
        "state": "done",
        "stage": "distill",
        "attempt": 1,
        "reason": None,
        "job_id": "12_0",
        "host": "gpu7",
        "node": None,
    }


def test_a_run_that_was_silent_for_less_than_a_minute_still_runs(make: Make, tmp_path: Path):
    make("0-sft", {"state": "running"}, silent_s=50)
    assert states(tmp_path) == {"0-sft": "running"}


def test_a_run_whose_process_is_gone_from_this_host_failed_at_once(make: Make, tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = {"state": "running", "host": socket.gethostname()}
    make("0-sft", {**here, "pid": ended.pid}, silent_s=6)
    make("1-sft", {**here, "pid": os.getpid()}, silent_s=6)
    make("2-sft", {**here, "pid": ended.pid, "host": "gpu7"}, silent_s=6)
    assert states(tmp_path) == {"0-sft": "failed", "1-sft": "running", "2-sft": "running"}
    assert run_states(tmp_path)[0].reason == (
        f"its process {ended.pid} is gone; the run did not say why"
    )


def test_torn_and_missing_words_are_failures_with_a_reason(make: Make, tmp_path: Path):
    torn = make("0-sft", silent_s=90)
    (torn / "status.json").write_text('{"schema": 1, "sta')
    make("1-sft", silent_s=90)
    first, second = run_states(tmp_path)
    assert (first.state, second.state) == ("failed", "failed")
    assert first.reason and "status.json" in first.reason
    assert second.reason == "silent for 90 s, so it was killed before its first stage"


def test_slurm_tells_waiting_runs_from_dead_ones(
    make: Make, tmp_path: Path, slurm: Callable[..., None]
):
    running = {"state": "running", "attempt": 1}
    make("0-sft", running | {"job_id": "12_0"})
    make("1-sft", running | {"job_id": "12_1"}, silent_s=9000)
    make("2-sft", running | {"job_id": "12_2"}, silent_s=9000)
    make("3-sft", running | {"job_id": "12_3"}, silent_s=9000)
    preempted = {"state": "preempted", "error": "stopped by SIGUSR2"}
    make("4-sft", preempted | {"job_id": "12_4"}, silent_s=70)
    make("5-sft", preempted | {"job_id": "12_5"}, silent_s=70)
    slurm(
        squeue="12_1|16|PENDING|0:00|BeginTime\n12_2|17|RUNNING|0:42|None\n"
        "12_3|18|RUNNING|2:00:00|None\n12_4|19|PENDING|0:00|Priority",
        sacct="12_0|15|NODE_FAIL\n12_5|20|CANCELLED by 1000",
    )
    told = {one.folder: (one.state, one.reason) for one in run_states(tmp_path)}
    assert told == {
        "0-sft": ("failed", "its job is over and Slurm says NODE_FAIL; the run did not say why"),
        "1-sft": ("waiting", "in Slurm's queue (BeginTime); its last attempt was cut off"),
        "2-sft": ("running", None),  # Begun anew 42 s ago; the old trace says nothing of that.
        "3-sft": ("failed", "silent for 2.0 h, so it was killed"),
        "4-sft": ("waiting", "in Slurm's queue (Priority); stopped by SIGUSR2"),
        "5-sft": ("preempted", "stopped by SIGUSR2"),
    }


def test_runs_that_slurm_has_not_begun_are_listed_from_what_was_submitted(
    make: Make, tmp_path: Path, slurm: Callable[..., None]
):
    make("0-sft", {"state": "done", "job_id": "12_0"})
    for name in ("7_0", "7_1", "12_0", "12_1", "12_2", "12_3", "log_test"):
        (tmp_path / ".submitit" / name).mkdir(parents=True)
    slurm(
        squeue="12_1|16|PENDING|0:00|Resources",
        sacct="12_0|15|COMPLETED\n12_2|17|CANCELLED by 0\n12_[3-4%1]|12|PENDING",
    )
    told = {one.folder: (one.state, one.reason, one.job_id) for one in run_states(tmp_path)}
    assert told == {
        "0-sft": ("done", None, "12_0"),
        "1": ("waiting", "in Slurm's queue (Resources)", "12_1"),
        "2": ("failed", "Slurm says CANCELLED, and the run wrote nothing", "12_2"),
        "3": ("waiting", "in Slurm's queue", "12_3"),
    }


def test_the_driver_s_list_of_jobs_tells_the_folders_of_runs_and_the_latest_job_of_each(
    make: Make, tmp_path: Path, slurm: Callable[..., None]
):
    failed = {"state": "failed", "error": "the disk is full", "job": "12_0"}
    make("0-sft-tiny", failed, silent_s=9000)
    make("1-sft-tiny", failed | {"job": "12_1"}, silent_s=9000)
    make("2-sft-tiny", failed | {"job": "12_2"}, silent_s=9000)
    first = {f"{tmp_path}/{k}-sft-tiny": f"12_{k}" for k in range(4)}
    artifact = {f"{tmp_path}/store/teacher/0123456789abcdef": "11", "/elsewhere/run": "10"}
    again = {f"{tmp_path}/{k}-sft-tiny": f"20_{n}" for n, k in enumerate((0, 1, 3))}
    rows = [{"schema": 1, "jobs": jobs} for jobs in (artifact, first, again)]
    (tmp_path / "jobs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    slurm(squeue="20_0|30|PENDING|0:00|Priority\n20_1|31|RUNNING|0:02|None", sacct="12_2|15|FAILED")
    told = {one.folder: (one.state, one.reason, one.job_id) for one in run_states(tmp_path)}
    assert told == {
        "0-sft-tiny": ("waiting", "in Slurm's queue (Priority); the disk is full", "20_0"),
        "1-sft-tiny": ("running", None, "20_1"),
        "2-sft-tiny": ("failed", "the disk is full", "12_2"),
        "3-sft-tiny": ("waiting", "submitted as job 20_2", "20_2"),
    }


def test_runs_that_a_failed_teacher_stops_name_its_job_and_its_log_without_slurm_too(
    make: Make, tmp_path: Path, slurm: Callable[..., None]
):
    died = {"state": "failed", "error": "the teacher says nan", "job": "11"}
    make("teacher-0123abcd", died, silent_s=9000)
    make("1-sft-tiny", {"state": "done", "job": "9"}, silent_s=9000)
    make("2-sft-tiny", {"state": "failed", "error": "the disk is full", "job": "9"}, silent_s=9000)
    logs = tmp_path / ".submitit" / "11"
    logs.mkdir(parents=True)
    (logs / "11_0_log.err").touch()
    rows = [
        ({f"{tmp_path}/1-sft-tiny": "9", f"{tmp_path}/2-sft-tiny": "9"}, []),
        ({f"{tmp_path}/teacher-0123abcd": "11"}, []),
        ({f"{tmp_path}/generate-4567": "12"}, ["11"]),
        ({f"{tmp_path}/0-sft-tiny": "13_0", f"{tmp_path}/2-sft-tiny": "13_1"}, ["11", "12"]),
    ]
    lines = [json.dumps({"schema": 1, "jobs": jobs, "after": after}) for jobs, after in rows]
    (tmp_path / "jobs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    needs = f"it needs job 11 (teacher-0123abcd), which failed; its log is {logs}/11_0_log.err"
    for queue, account in (
        ("", ""),  # Years later.
        ("", "12|12|CANCELLED by 0\n13_[0-1]|13|CANCELLED by 0"),
        ("13_0|14|PENDING|0:00|DependencyNeverSatisfied", ""),
    ):
        slurm(squeue=queue, sacct=account)
        told = {one.folder: (one.state, one.reason) for one in run_states(tmp_path)}
        assert told == {
            "teacher-0123abcd": ("failed", "the teacher says nan"),
            "generate-4567": ("failed", needs),
            "0-sft-tiny": ("failed", needs),
            "1-sft-tiny": ("done", None),
            "2-sft-tiny": ("failed", needs),
        }


def test_a_sweep_of_which_nothing_has_begun_is_told_without_slurm_too(tmp_path: Path):
    (tmp_path / ".submitit" / "12").mkdir(parents=True)
    (one,) = run_states(tmp_path)
    assert (one.folder, one.state, one.reason) == ("0", "waiting", "submitted as job 12")


def test_the_job_is_known_from_hydras_record_before_the_run_has_written_its_word(
    make: Make, tmp_path: Path, slurm: Callable[..., None]
):
    folder = make("0-sft", silent_s=3)
    (folder / ".hydra" / "hydra.yaml").write_text(
        "hydra:\n  mode: MULTIRUN\n  job:\n    name: kdwatts\n    env_set:\n      A: b\n"
        "    id: '12_0'\n    num: 0\n  runtime:\n    id: 5\n"
    )
    slurm(sacct="12_0|15|OUT_OF_MEMORY")
    (one,) = run_states(tmp_path)
    assert (one.job_id, one.state) == ("12_0", "failed")


def test_a_slurm_that_does_not_answer_leaves_the_trace_to_decide(
    make: Make, tmp_path: Path, slurm: Callable[..., None]
):
    slurm(squeue="12_0|15|PENDING|0:00|Priority", squeue_exit=1)
    make("0-sft", {"state": "running", "job_id": "12_0"}, silent_s=90)
    assert states(tmp_path) == {"0-sft": "failed"}
    assert find_jobs([]) == {}


def test_times_and_arrays_are_read_as_slurm_writes_them(slurm: Callable[..., None]):
    up_s = {"0:42": 42, "2:00:01": 7201, "1-00:00:00": 86_400, "INVALID": None}
    rows = [f"{id_}|{id_}|RUNNING|{up}|None" for id_, up in enumerate(up_s, start=1)]
    slurm(squeue="\n".join(rows), sacct="12_[3-4,9%2]|12|PENDING\n13_7|14|PENDING")
    ids = ["1", "2", "3", "4", "12_3", "12_4", "12_5", "12_9", "13_7"]
    jobs = find_jobs(ids)
    assert [jobs[id_].up_s for id_ in ids[:4]] == list(up_s.values())
    assert [id_ for id_ in ids[4:] if id_ in jobs] == ["12_3", "12_4", "12_9", "13_7"]


def test_a_folder_that_is_no_sweep_is_refused_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.endswith("nor does a folder below it; give the folder of a run or a sweep")
    assert second.endswith("no such directory; give the folder of a multirun")


def test_the_module_has_the_command(make: Make, tmp_path: Path):
    make("0-sft", {"state": "failed", "error": "the disk is full"})
    done = subprocess.run(
        [sys.executable, "-m", "multirun_analysis", "status", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "1 runs: 1 failed"


def test_a_run_is_as_silent_as_the_newest_trace_of_any_node(make: Make, tmp_path: Path):
    silent = make("0-sft-tiny", {"state": "running", "host": "n1"}, silent_s=9000)
    assert states(tmp_path) == {"0-sft-tiny": "failed"}
    (silent / "telemetry.n2.jsonl").write_text("{}\n")
    assert states(tmp_path) == {"0-sft-tiny": "running"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("rank 3 was lost in a step", "on n2: rank 3 was lost in a step"),
        ("n2 was lost in a step", "n2 was lost in a step"),
        (None, "failed on n2"),
    ],
)
def test_a_run_that_lost_a_node_names_it_and_the_stage(
    make: Make, tmp_path: Path, error: str | None, told: str
):
    lost = {"state": "failed", "stage": "distill", "host": "n1", "node": "n2", "error": error}
    make("0-sft-tiny", lost)
    (one,) = run_states(tmp_path)
    assert (one.stage, one.host, one.node, one.reason) == ("distill", "n1", "n2", told)
