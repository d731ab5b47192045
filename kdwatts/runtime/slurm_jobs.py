"""The state of Slurm jobs from squeue and sacct, and requeueing our own job."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

FIRST_POLL_S, LAST_POLL_S = 1.0, 20.0
"""Between two looks at the queue: a short sweep is noticed at once, a long one looks seldom."""
ACCOUNTING_LAG_S, NO_RECORD_S = 15.0, 5.0
"""How long after its end the accounting may still call a job running, and how long it may have no
record of one that ran; 2 to 4 s are usual. One that is cancelled while it waits leaves none."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
"""States of a job that waits in the queue for its first or another turn."""
FINAL = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
)  # fmt: skip

NEXT_TURN = "KDWATTS_NEXT_TURN"
"""In a job of ours the path of a file. Where it exists when the ranks have ended, the job's script
has Slurm start the job anew."""


def own_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The id of the Slurm job that this process is in: `ARRAY_INDEX` for an element of an array."""
    array, index = (environment.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{index}" if array and index else environment.get("SLURM_JOB_ID")


def queue(ids: Collection[str]) -> dict[str, str] | None:
    """The jobs of these that are in the queue, to Slurm's word for each. None if Slurm is silent.

    A job that waits for its next turn after a requeue is among them, as PENDING.
    """
    if not ids:
        return {}
    # Of an array that wholly left the queue squeue knows no id, and says so as an error.
    asked = ",".join(sorted({_array_of(number) for number in ids}))
    done = output_of("squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={asked}")
    if done is None:
        return None
    states = dict(line.split(maxsplit=1) for line in done.split("\n") if " " in line.strip())
    return {number: states[number].strip() for number in ids if number in states}


def alive(ids: Collection[str]) -> set[str] | None:
    """The jobs of these that wait, run or end. None if Slurm does not answer."""
    found = queue(ids)
    return None if found is None else set(found)


def surely_alive(ids: Collection[str]) -> set[str]:
    """The jobs of these that are in the queue. It asks until Slurm answers."""
    while (found := alive(ids)) is None:
        log.warning("slurm: squeue gives no answer; asking again until it does")
        time.sleep(LAST_POLL_S)
    return found


def wait_for(ids: Collection[str]) -> None:
    """Return once none of the jobs is in the queue any more."""
    started_s = time.monotonic()
    while surely_alive(ids):
        elapsed_s = time.monotonic() - started_s
        time.sleep(min(max(FIRST_POLL_S, elapsed_s / 20), LAST_POLL_S))


def cancel(number: str) -> bool:
    """Cancel a job. Returns whether Slurm accepted that."""
    return output_of("scancel", number) is not None


def endings(ids: Collection[str]) -> dict[str, str]:
    """How jobs ended by Slurm's accounting, such as `FAILED, exit code 137`.

    Others are left out.
    """
    started_s, ended = time.monotonic(), {}
    while set(ids) - set(ended):
        asked = ",".join(sorted({_array_of(number) for number in ids}))
        said = output_of(
            *("sacct", "--noheader", "--parsable2", "--allocations"),
            *("--format=JobID,State,ExitCode", f"--jobs={asked}"),
        )
        found = {number: words for number, words in _rows(said or "") if number in ids}
        ended = {number: words for number, words in found.items() if words.startswith(FINAL)}
        waited_s = time.monotonic() - started_s
        patience_s = NO_RECORD_S if set(found) == set(ended) else ACCOUNTING_LAG_S
        if said is None or waited_s > patience_s:
            break
        time.sleep(FIRST_POLL_S)
    return ended


def requeue(received: Collection[int]) -> None:
    """Have submitit requeue this job, which ends the process. Return where no requeue is due.

    `received` are the signals that stopped the job. Its state is saved. Slurm itself requeues the
    jobs that it ends for that purpose, and a cancelled job must stay cancelled. So after SIGTERM
    alone, a requeue is asked for only while Slurm calls the job running, as in the grace time of a
    preemption. Raises what submitit raises when the job has had all its turns.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    if not is_submitted() or not callable(handler):
        return
    if signal.SIGUSR2 not in received and _own_state() != "RUNNING":
        sys.exit(os.EX_TEMPFAIL)
    try:
        handler(signal.SIGUSR2, None)
    except subprocess.SubprocessError:
        # scontrol may fail, or be silent for a minute, after Slurm has requeued the job.
        if _own_state() in ("", "RUNNING"):
            raise
        sys.exit(os.EX_TEMPFAIL)


def has_turns(max_requeues: int) -> bool:
    """Whether this process is in a job of ours that was started anew less often than that."""
    is_ours = is_submitted() and NEXT_TURN in os.environ
    return is_ours and int(os.environ.get("SLURM_RESTART_COUNT") or 0) < max_requeues


def ask_for_another_turn() -> bool:
    """Have this job started anew once its ranks have ended; whether it will be.

    For a run that cannot end as submitit wants it. The job's script asks Slurm, since a node that
    Slurm has not yet found lost must be left to it. A job that Slurm ends or starts anew already is
    left to it, too.
    """
    if _own_state() not in ("", "RUNNING"):
        return True
    try:
        Path(os.environ[NEXT_TURN]).touch()
    except OSError:
        return False
    return True


def _own_state() -> str:
    """Slurm's word for the job that this process is in; empty if it says nothing."""
    return (output_of("squeue", "--noheader", "--format=%T", f"--jobs={own_id()}") or "").strip()


def is_submitted() -> bool:
    """Whether this process is in a job that submitit sent to Slurm and can requeue."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and own_id() is not None


def _array_of(number: str) -> str:
    return number.partition("_")[0]


def output_of(*command: str, timeout_s: float = 60) -> str | None:
    """What a command of Slurm prints. Empty for ids that it does not know, None if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if "Invalid job id" in done.stderr:
        return ""
    return done.stdout if done.returncode == 0 else None


def _rows(text: str) -> Iterator[tuple[str, str]]:
    """Job and its end in words; elements that sacct names together, `7_[2-3,5%2]`, apart."""
    for line in filter(None, text.split("\n")):
        job, state, code = line.split("|")
        code, _, number = code.partition(":")
        words = state if code == "0" else f"{state}, exit code {code}"
        words += f", signal {number}" if number not in ("", "0") else ""
        yield from ((element, words) for element in elements_of(job))


def elements_of(job: str) -> list[str]:
    """The jobs that sacct names together, such as `7_[2-3,5%2]`. A single job is itself."""
    array, bracket, listed = job.partition("_[")
    if not bracket:
        return [job]
    ranges = re.findall(r"(\d+)(?:-(\d+))?(?=[,\]%])", listed.partition("%")[0] + "]")
    return [
        f"{array}_{index}"
        for first, last in ranges
        for index in range(int(first), int(last or first) + 1)
    ]
