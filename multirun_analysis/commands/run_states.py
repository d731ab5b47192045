"""The state of each run of a sweep, from its own words, its trace, its process and its Slurm job.

A run says in status.json what it is at. One that was killed goes on saying `running`: its word
counts only while its trace grows and, on Slurm, its job runs.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdwatts.records.traces import traces_in
from multirun_analysis.collect.record_files import error_words, read_record
from multirun_analysis.commands.slurm_queue import Job, find_jobs
from multirun_analysis.commands.submitted_jobs import jobs_by_folder, needed_jobs
from multirun_analysis.values.folders import in_counting_order, survey
from multirun_analysis.values.yaml_files import read_settings, value_at

SILENT_S = 60.0
"""A meter writes a row a second at least, so a run that is silent for so long is not there."""
GONE_S = 5.0
"""For a process that is not found: it may have ended just now and be about to be restarted."""

STATES = ("done", "running", "waiting", "failed", "preempted")


@dataclass(frozen=True)
class RunState:
    """One run of a sweep, as far as it can be told from outside."""

    folder: str
    state: str
    """One of STATES."""
    stage: str | None = None
    attempt: int | None = None
    reason: str | None = None
    job_id: str | None = None
    host: str | None = None
    """Of the first rank."""
    node: str | None = None
    """Host of the rank that failed or was lost, where the run names it."""


def run_states(directory: Path) -> list[RunState]:
    """Every run at or below a directory, those too that Slurm has not begun.

    Raises ValueError when the directory is missing or holds neither a run nor a submitted job.
    """
    folders = set(survey(directory).runs.values())
    root = directory.resolve()
    sent: dict[Path, str] = {}
    needed: dict[str, list[str]] = {}
    for sweep_dir in {root, *(folder.parent for folder in folders)}:
        sent |= jobs_by_folder(sweep_dir)
        needed |= needed_jobs(sweep_dir)
    found = in_counting_order(folders | set(sent))
    if not found:
        raise ValueError(
            f"{directory} holds no run, which has .hydra, config.yaml or status.json, and no "
            "submitted job, nor does a folder below it; give the folder of a run or a sweep"
        )
    records = {folder: read_record(folder / "status.json") for folder in found}
    ids = {folder: sent.get(folder) or _own_job(folder, records[folder][0]) for folder in found}
    jobs = find_jobs(filter(None, ids.values()))
    states: dict[Path, RunState] = {}
    for folder in found:
        (record, problem), job_id = records[folder], ids[folder]
        job = jobs.get(job_id or "")
        if folder in folders:
            state, reason = _state(folder, record, problem, job_id, job)
        else:
            state, reason = _not_begun(job_id, job)
        states[folder] = RunState(
            folder=folder.name if folder == root else folder.relative_to(root).as_posix(),
            state=state,
            stage=record.get("stage"),
            attempt=record.get("attempt"),
            reason=reason,
            job_id=job_id,
            host=record.get("host"),
            node=record.get("node"),
        )
    failed = {one.job_id: folder for folder, one in states.items() if one.job_id and _ended(one)}
    return [
        _stopped(one, folder, failed, needed)
        if folder in sent and _stated_job(records[folder][0]) != one.job_id
        else one
        for folder, one in states.items()
    ]


def _state(
    folder: Path,
    record: Mapping[str, Any],
    problem: str | None,
    job_id: str | None,
    job: Job | None,
) -> tuple[str, str | None]:
    """State of a run that has a folder, and the reason of any but done and running."""
    said, error = record.get("state"), error_words(record)
    if problem:
        return "failed", problem
    if said == "done":
        return "done", None
    if job and job.waits:
        return "waiting", f"{_queued(job)}; {error or 'its last attempt was cut off'}"
    if said in ("failed", "preempted"):
        if job and not job.is_over and job_id != _stated_job(record):
            return "running", None  # Sent again; its new job has not written yet.
        if said == "failed":
            return "failed", error or "the run did not say why"
        if job and not job.is_over:
            return "waiting", f"its job is ending or starts again; {error}"
        return "preempted", error or "stopped by a signal; run the same command to go on"
    if said not in (None, "running"):
        return "failed", f"status.json names the state {said!r}, which this version does not know"
    if job and job.is_over:
        return "failed", f"its job is over and Slurm says {job.state}; the run did not say why"
    silent_s = _silent_s(folder)
    # A job that Slurm began anew has the trace of its last attempt until it writes.
    if job and job.up_s is not None:
        silent_s = min(silent_s, job.up_s)
    if silent_s > GONE_S and _process_is_gone(record):
        return "failed", f"its process {record['pid']} is gone; the run did not say why"
    if silent_s > SILENT_S:
        since = f"silent for {_duration(silent_s)}, so it was killed"
        return "failed", since if record else f"{since} before its first stage"
    return "running", None


def _not_begun(job_id: str | None, job: Job | None) -> tuple[str, str | None]:
    """State and reason of a run without a folder, of which there is only what Slurm was sent."""
    if job is None:
        return "waiting", f"submitted as job {job_id}"
    if job.waits:
        return "waiting", _queued(job)
    if job.is_over:
        return "failed", f"Slurm says {job.state}, and the run wrote nothing"
    return "running", f"Slurm says {job.state}, and the run has written nothing yet"


def _ended(one: RunState) -> bool:
    """Whether a run is over, or never to be, without being done."""
    return one.state in ("failed", "preempted")


def _stopped(
    one: RunState,
    folder: Path,
    failed: Mapping[str, Path],
    needed: Mapping[str, Sequence[str]],
) -> RunState:
    """The same of a run that was not begun, with the job that it needed and that failed."""
    lacking = [job for job in needed.get(one.job_id or "", ()) if job in failed]
    # Of two of which one needs the other, the other.
    first = next((job for job in lacking if not set(needed.get(job, ())) & set(lacking)), None)
    if first is None or one.state not in ("failed", "waiting"):
        return one
    logs = sorted((folder.parent / ".submitit" / first).glob("*.err"))
    log = f"; its log is {logs[0]}" if logs else ""
    reason = f"it needs job {first} ({failed[first].name}), which failed{log}"
    return replace(one, state="failed", reason=reason)


def _queued(job: Job) -> str:
    return f"in Slurm's queue ({job.reason})" if job.reason else "in Slurm's queue"


def _own_job(folder: Path, record: Mapping[str, Any]) -> str | None:
    """The Slurm job of a run's latest attempt; Hydra notes it before the run says anything."""
    if job_id := _stated_job(record):
        return job_id
    found = value_at(read_settings(folder / ".hydra" / "hydra.yaml"), "hydra", "job", "id")
    return str(found) if re.fullmatch(r"\d[\d_]*", str(found)) else None


def _stated_job(record: Mapping[str, Any]) -> str | None:
    job_id = record.get("job") or record.get("job_id")
    return None if job_id is None else str(job_id)


def _silent_s(folder: Path) -> float:
    """Seconds since a run last wrote, on any node, anything that a living one writes."""
    paths = [folder / name for name in ("status.json", "config.yaml", ".hydra/config.yaml")]
    paths += traces_in(folder).values()
    written_s = [path.stat().st_mtime for path in paths if path.is_file()]
    return time.time() - max(written_s, default=folder.stat().st_mtime)


def _process_is_gone(record: Mapping[str, Any]) -> bool:
    """Whether the run was on this host and its process is not there any more."""
    pid = record.get("pid")
    if not isinstance(pid, int) or record.get("host") != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # Another user's process.
    return False


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
