"""Slurm's words as its commands print them; its behaviour is tested on a real one, tests/slurm."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdwatts.runtime import slurm_jobs


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a command of Slurm first in the path that prints this."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(name: str, words: str, *, error: str = "", status: int = 0) -> None:
        script = f"#!/bin/sh\nprintf '{words}'\nprintf '{error}' >&2\nexit {status}\n"
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)

    return put


def test_an_element_of_an_array_is_named_by_array_and_index_and_a_job_by_its_number():
    assert slurm_jobs.own_id({}) is None
    assert slurm_jobs.own_id({"SLURM_JOB_ID": "12"}) == "12"
    array = {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}
    assert slurm_jobs.own_id(array) == "12_2"


def test_only_jobs_that_were_asked_for_are_alive_though_their_array_is_listed_whole(
    say: Callable[..., None],
):
    say("squeue", "12_0 RUNNING\\n12_1 PENDING\\n12_2 COMPLETING\\n")
    assert slurm_jobs.queue(["12_1", "13"]) == {"12_1": "PENDING"}
    assert slurm_jobs.alive(["12_1", "12_2", "13"]) == {"12_1", "12_2"}
    assert slurm_jobs.alive([]) == set()


def test_a_queue_that_knows_no_such_job_is_not_one_that_gives_no_answer(say: Callable[..., None]):
    say("squeue", "", error="slurm_load_jobs error: Invalid job id specified", status=1)
    assert slurm_jobs.alive(["12"]) == set()
    say("squeue", "", error="Unable to contact slurm controller", status=1)
    assert slurm_jobs.alive(["12"]) is None


def test_how_jobs_ended_is_told_in_words_also_for_elements_that_are_named_together(
    say: Callable[..., None],
):
    rows = ["7_0|COMPLETED|0:0", "7_1|FAILED|137:0", "7_2|OUT_OF_MEMORY|0:125"]
    rows += ["7_[3-4,6%%2]|CANCELLED by 0|0:0", "8|NODE_FAIL|1:0"]
    say("sacct", "\\n".join(rows) + "\\n")
    assert slurm_jobs.endings(["7_0", "7_1", "7_2", "7_3", "7_4", "7_6", "8"]) == {
        "7_0": "COMPLETED",
        "7_1": "FAILED, exit code 137",
        "7_2": "OUT_OF_MEMORY, signal 125",
        "7_3": "CANCELLED by 0",
        "7_4": "CANCELLED by 0",
        "7_6": "CANCELLED by 0",
        "8": "NODE_FAIL, exit code 1",
    }


def test_without_accounting_nothing_is_told_and_nobody_waits_for_it(say: Callable[..., None]):
    say("sacct", "", error="Slurm accounting storage is disabled", status=1)
    assert slurm_jobs.endings(["7"]) == {}


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that reached the handler which submitit sets in a job, here job 7."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    seen: list[int] = []
    previous = signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGUSR2, previous)


def test_a_warned_job_is_handed_to_submitit(requeued: list[int]):
    slurm_jobs.requeue([signal.SIGTERM, signal.SIGUSR2])
    assert requeued == [signal.SIGUSR2]


def test_after_a_mere_sigterm_a_job_is_brought_back_only_if_slurm_still_calls_it_running(
    requeued: list[int], say: Callable[..., None]
):
    say("squeue", "COMPLETING\\n")  # Cancelled, or requeued by Slurm itself.
    with pytest.raises(SystemExit, match="75"):
        slurm_jobs.requeue([signal.SIGTERM])
    assert requeued == []
    say("squeue", "RUNNING\\n")  # The grace time of a preemption.
    slurm_jobs.requeue([signal.SIGTERM])
    assert requeued == [signal.SIGUSR2]


def test_a_requeue_that_slurm_took_is_one_though_scontrol_failed(
    requeued: list[int], say: Callable[..., None]
):
    def fail(number: int, frame: object) -> None:
        raise subprocess.TimeoutExpired("scontrol requeue 7", 60)

    signal.signal(signal.SIGUSR2, fail)
    say("squeue", "COMPLETING\\n")
    with pytest.raises(SystemExit, match="75"):
        slurm_jobs.requeue([signal.SIGUSR2])
    say("squeue", "RUNNING\\n")
    with pytest.raises(subprocess.TimeoutExpired):
        slurm_jobs.requeue([signal.SIGUSR2])


def test_a_process_that_submitit_did_not_send_is_not_brought_back(
    requeued: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    slurm_jobs.requeue([signal.SIGUSR2])
    assert requeued == []


@pytest.mark.usefixtures("requeued")
def test_a_lost_job_of_ours_has_turns_until_it_had_as_many_as_it_may(
    monkeypatch: pytest.MonkeyPatch,
):
    assert not slurm_jobs.has_turns(3)  # The script of this job would not ask.
    monkeypatch.setenv(slurm_jobs.NEXT_TURN, "next")
    assert [slurm_jobs.has_turns(number) for number in (0, 1)] == [False, True]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert [slurm_jobs.has_turns(number) for number in (2, 3)] == [False, True]
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    assert not slurm_jobs.has_turns(3)


@pytest.mark.usefixtures("requeued")
def test_another_turn_is_the_script_s_to_ask_for_and_not_where_slurm_is_at_it(
    say: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    asked = tmp_path / "next"
    monkeypatch.setenv(slurm_jobs.NEXT_TURN, str(asked))
    say("squeue", "PENDING\\n")
    assert slurm_jobs.ask_for_another_turn()
    assert not asked.exists()
    say("squeue", "RUNNING\\n")
    assert slurm_jobs.ask_for_another_turn()
    assert asked.exists()
    monkeypatch.setenv(slurm_jobs.NEXT_TURN, str(tmp_path / "gone" / "next"))
    assert not slurm_jobs.ask_for_another_turn()
