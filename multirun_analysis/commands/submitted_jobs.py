"""What was sent to Slurm for the runs of a sweep, as the folder of the sweep tells."""

from __future__ import annotations

import re
from pathlib import Path

from kdwatts.records.files import read_jsonl

_SUBMITTED = re.compile(r"\d+(?:_\d+)?")
"""Folders of submitit: a job, or an element of an array."""
_ARTIFACT = re.compile(r"/[a-z]+/[0-9a-f]{16}$")
"""A folder of the store, STAGE/KEY: jobs before an array make these beside their runs."""


def jobs_by_folder(sweep_dir: Path) -> dict[Path, str]:
    """Folder of each run of a sweep that was submitted to the job it was last submitted as."""
    path = sweep_dir / "jobs.jsonl"
    if not path.is_file():
        return _array_elements(sweep_dir)
    jobs: dict[Path, str] = {}
    for row in read_jsonl(path):
        for name, job_id in row["jobs"].items():
            folder = Path(name).resolve()
            if folder.is_relative_to(sweep_dir) and not _ARTIFACT.search(name):
                jobs[folder] = job_id
    return jobs


def needed_jobs(sweep_dir: Path) -> dict[str, list[str]]:
    """Each job of a sweep to those that must end well before it begins."""
    path = sweep_dir / "jobs.jsonl"
    rows = read_jsonl(path) if path.is_file() else ()
    return {job: row.get("after", []) for row in rows for job in row["jobs"].values()}


def _array_elements(sweep_dir: Path) -> dict[Path, str]:
    """The same of a sweep that submitit's own launcher sent: run k is element k of the array."""
    names = [p.name for p in (sweep_dir / ".submitit").glob("*") if _SUBMITTED.fullmatch(p.name)]
    numbers = [tuple(map(int, name.split("_"))) for name in names]
    latest = max((number[0] for number in numbers), default=0)
    begun = {found[1]: p for p in sweep_dir.glob("*-*") if (found := re.match(r"(\d+)-", p.name))}
    jobs: dict[Path, str] = {}
    for array, *element in numbers:
        if array == latest:
            run = str(element[0] if element else 0)
            jobs[begun.get(run, sweep_dir / run)] = "_".join(map(str, [array, *element]))
    return jobs
