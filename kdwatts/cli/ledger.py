"""A sweep's jobs.jsonl: which run was sent as which job, and how Slurm says that each job ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdwatts.artifacts.manifest import amend_status, read_status
from kdwatts.cli import sweep
from kdwatts.records.files import append_jsonl, read_jsonl
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime import slurm_jobs

JOBS_NAME = "jobs.jsonl"
"""In the folder of a sweep: what was submitted to make which run or artifact, a line each time."""

CUT_OFF, FAILED = "its last attempt was cut off", "which did not end well"


def note(
    sweep_dir: Path, holders: dict[str, str], sent: Mapping[str, str], after: Sequence[str]
) -> None:
    """Remember what was sent, here and for a driver after this one, and which jobs it waits for."""
    time_utc = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"schema": SCHEMA, "time_utc": time_utc, "jobs": sent, "after": list(after)}
    append_jsonl(sweep_dir / JOBS_NAME, record)
    holders |= sent


def holders(sweep_dir: Path) -> dict[str, str]:
    """Folder of a run or an artifact to the job from an earlier driver that is still at it."""
    sent = {folder: job for row in _rows(sweep_dir) for folder, job in row["jobs"].items()}
    alive = slurm_jobs.surely_alive(set(sent.values()))
    return {folder: job for folder, job in sent.items() if job in alive}


def note_queue_states(holders: Mapping[str, str]) -> None:
    """Note for the table how unfinished runs stand with Slurm, where they cannot know it."""
    queue = slurm_jobs.queue(holders.values())
    for run_dir, job in _unfinished(holders).items():
        status, slurm = read_status(run_dir), (queue or {}).get(job)
        began, last = status.get("job") == job, status.get("error") or CUT_OFF
        if queue is None:
            if not began:
                sweep.note_outcome(run_dir, "waiting", f"as job {job}")
        elif slurm is None:
            if not began:
                sweep.note_outcome(
                    run_dir, "failed", f"job {job} left the queue before it began the run"
                )
            elif status["state"] == "running":
                how = f"at {status['stage']} and did not say why"
                sweep.note_outcome(run_dir, "failed", f"job {job} left the queue {how}")
        elif not began:
            sweep.note_outcome(run_dir, "waiting", f"as job {job}")
        elif slurm in slurm_jobs.WAITING:
            sweep.note_outcome(
                run_dir, "waiting", f"as job {job}, which Slurm starts again; {last}"
            )
        elif status["state"] == "preempted":
            sweep.note_outcome(
                run_dir, "waiting", f"as job {job}, which is ending or starts again; {last}"
            )


def settle(sweep_dir: Path, holders: Mapping[str, str]) -> None:
    """Find out how those runs ended whose jobs had no time to say it."""
    unfinished = _unfinished(holders)
    if not unfinished:
        return
    folders, needed = _sent(sweep_dir)
    asked = {*unfinished.values(), *(one for job in unfinished.values() for one in needed[job])}
    endings = slurm_jobs.endings(asked)
    for run_dir, job in unfinished.items():
        status, ending = read_status(run_dir), endings.get(job)
        # Of an element that is cancelled while it waits Slurm keeps nothing.
        said = f"Slurm says {ending}" if ending else "Slurm has no record of it, was it cancelled?"
        if log := _log(sweep_dir, job):
            said += f", see {log.parent}"
        if status.get("job") != job:
            if first := _failed_first(job, folders, needed):
                how = f"of which Slurm says {endings[first]}" if first in endings else FAILED
                said = f"it needs job {first} ({folders[first].name}), {how}"
                said += f"; its log is {log}" if (log := _log(sweep_dir, first)) else ""
            sweep.note_outcome(run_dir, "failed", f"job {job} never began the run: {said}")
        elif status["state"] == "running":
            reason = f"job {job} ended at {status['stage']} and did not say why: {said}"
            amend_status(run_dir, state="failed", error=reason)
        elif status["state"] == "preempted":
            sweep.note_outcome(run_dir, "preempted", f"{status['error']} ({said})")


def _unfinished(holders: Mapping[str, str]) -> dict[Path, str]:
    """Folder of each run of this sweep that a job was sent for and that is not done, to that."""
    return {
        run_dir: holders[str(run_dir)]
        for run_dir in sweep.sweep_dirs
        if str(run_dir) in holders and not sweep.is_done(run_dir)
    }


def _rows(sweep_dir: Path) -> Iterator[dict[str, Any]]:
    path = sweep_dir / JOBS_NAME
    yield from read_jsonl(path) if path.is_file() else ()


def _sent(sweep_dir: Path) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Each job that was ever sent for the sweep to its run's folder, and to the jobs it needs."""
    folders: dict[str, Path] = {}
    needed: dict[str, list[str]] = {}
    for row in _rows(sweep_dir):
        for folder, job in row["jobs"].items():
            needed[job] = row.get("after", [])
            if Path(folder).parent == sweep_dir:
                folders[job] = Path(folder)
    return folders, needed


def _failed_first(
    job: str, folders: Mapping[str, Path], needed: Mapping[str, Sequence[str]]
) -> str | None:
    """The job that a job needed and that did not end well, not for want of another; None else."""
    failed = [one for one in needed[job] if one in folders and not sweep.is_done(folders[one])]
    return next((one for one in failed if not set(needed[one]) & set(failed)), None)


def _log(sweep_dir: Path, job: str) -> Path | None:
    """What a job wrote of errors; None for one that wrote nothing."""
    return next(iter(sorted((sweep_dir / ".submitit" / job).glob("*.err"))), None)
