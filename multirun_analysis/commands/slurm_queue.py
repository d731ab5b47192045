"""What Slurm says of jobs: who waits, who runs, and how the others ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdwatts.runtime.slurm_jobs import FINAL, WAITING, elements_of, output_of

OVER = (*FINAL, "REVOKED")
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
    for line in _rows("sacct", "-n", "-X", "-P", "-j", arrays, "-o", "JobID,JobIDRaw,State"):
        name, raw, state = line.split("|")[:3]
        # `CANCELLED by 1000`
        job = Job(state.partition(" ")[0], "", None)
        found |= dict.fromkeys([*elements_of(name), raw], job)
    # -r: an element a line. %i is 12_3 where %A is the element's own number.
    for line in _rows("squeue", "-h", "-r", "-j", ",".join(wanted), "-o", "%i|%A|%T|%M|%r"):
        name, raw, state, up, reason = line.split("|", 4)
        job = Job(state, "" if reason == "None" else reason, _seconds(up))
        found |= {name: job, raw: job}
    return {job_id: found[job_id] for job_id in wanted if job_id in found}


def _rows(*command: str) -> list[str]:
    """Lines of fields; none when the command is not there, fails, or is silent too long."""
    lines = (output_of(*command, timeout_s=_TIMEOUT_S) or "").split("\n")
    return [line for line in lines if "|" in line]


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
