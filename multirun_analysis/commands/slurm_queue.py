"""What Slurm says of jobs: who waits, who runs, and how the others ended."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
OVER = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip
"""States of a job that runs no more and waits no more (squeue's manual, job state codes)."""

_TIMEOUT_S = 30


@dataclass(frozen=True)
class Job:
    """One job, or one element of an array."""

    state: str
    reason: str
    """Why it waits, as Slurm says it: Priority, Resources, BeginTime."""
    up_s: float | None
    """Seconds since it began to run; None where that is not known."""

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def waits(self) -> bool:
        return self.state in WAITING


def find_jobs(ids: Iterable[str]) -> dict[str, Job]:
    """Each id, `12` or `12_3`, to its job, as far as Slurm answers; empty without Slurm.

    The queue knows the present, accounting those that left it; it is some seconds late.
    """
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    arrays = ",".join(sorted({job_id.partition("_")[0] for job_id in wanted}))
    found: dict[str, Job] = {}
    for line in _ask("sacct", "-n", "-X", "-P", "-j", arrays, "-o", "JobID,JobIDRaw,State"):
        name, raw, state = line.split("|")[:3]
        # `CANCELLED by 1000`
        job = Job(state.partition(" ")[0], "", None)
        found |= dict.fromkeys([*_expanded(name), raw], job)
    # -r: an element a line. %i is 12_3 where %A is the element's own number.
    for line in _ask("squeue", "-h", "-r", "-j", ",".join(wanted), "-o", "%i|%A|%T|%M|%r"):
        name, raw, state, up, reason = line.split("|", 4)
        job = Job(state, "" if reason == "None" else reason, _seconds(up))
        found |= {name: job, raw: job}
    return {job_id: found[job_id] for job_id in wanted if job_id in found}


def _ask(command: str, *arguments: str) -> list[str]:
    """Lines of fields; none when the command is not there, fails, or is silent too long."""
    if shutil.which(command) is None:
        return []
    try:
        done = subprocess.run(
            [command, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.split("\n") if done.returncode == 0 else []
    return [line for line in lines if "|" in line]


def _expanded(name: str) -> list[str]:
    """The elements of `12_[3-5,9%2]`, as accounting calls those that have not begun."""
    array, _, rest = name.partition("_[")
    if not rest:
        return [name]
    elements: list[str] = []
    for part in rest.rstrip("]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            elements += [f"{array}_{k}" for k in range(int(first), int(last or first) + 1)]
    return elements


def _seconds(up: str) -> float | None:
    """Seconds of `[days-][hours:]minutes:seconds`; None of anything else."""
    days, _, clock = up.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]):
        return None
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return 86_400.0 * int(days or 0) + total
