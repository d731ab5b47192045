"""Reading of run folders: all of them, or only those that changed since the last time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multirun_analysis.collect import collection_index
from multirun_analysis.collect.collection_index import CollectionIndex, IndexedRun, Signature
from multirun_analysis.collect.columns import concatenated
from multirun_analysis.collect.process_pool import read_runs
from multirun_analysis.collect.run_folder import Job, Reading
from multirun_analysis.collect.run_tables import TABLES
from multirun_analysis.collect.run_ticks import Telemetry
from multirun_analysis.collect.tick_parts import (
    PARTS,
    new_part_path,
    part_name,
    remove_unsettled,
    settle_parts,
)

Folders = Mapping[str, Path]
"""Names of runs to their folders, in order."""


@dataclass(frozen=True)
class RunsRead:
    """What the folders hold, in their order."""

    runs: Mapping[str, IndexedRun]
    tables: Mapping[str, pa.Table]
    """Each of TABLES but the summaries, which belong to the telemetry."""
    telemetry: Telemetry
    is_changed: bool
    """Whether anything differs from what was kept."""


def read_all(folders: Folders, *, num_workers: int | None) -> RunsRead:
    """All folders, with nothing kept: telemetry stays where it is."""
    seen = _signatures(folders)
    readings = _read([Job(name, folder) for name, folder in folders.items()], seen, num_workers)
    runs = {
        name: IndexedRun(str(folders[name]), seen[name], reading.row, None, None)
        for name, reading in readings.items()
    }
    parts = {name: None for name, reading in readings.items() if reading.has_ticks}
    tables = _tables(readings.values())
    del tables["summaries"]  # Nobody has read the ticks yet.
    return RunsRead(runs, tables, Telemetry(parts, folders), is_changed=True)


def read_changed(folders: Folders, out_dir: Path, *, num_workers: int | None) -> RunsRead:
    """The folders that differ from what `out_dir` keeps of them, and the others as they were kept.

    When this returns, the parts of the telemetry are in their places. The tables are not written
    yet. The caller holds the folder's lock.
    """
    # Before anything is read, so that what changes from now on shows.
    seen = _signatures(folders)
    lasting = {name: None if collection_index.is_young(one) else one for name, one in seen.items()}
    parts_dir = out_dir / PARTS
    before = collection_index.read_index(out_dir)
    same = _unchanged(before, folders, seen, parts_dir)
    if before and list(same) == list(folders) == list(before.runs):
        return _runs_read(same, _kept_tables(out_dir), folders, parts_dir, is_changed=False)
    parts_dir.mkdir(exist_ok=True)
    remove_unsettled(parts_dir)
    jobs = [
        Job(name, folder, new_part_path(parts_dir, position))
        for position, (name, folder) in enumerate(folders.items())
        if name not in same
    ]
    try:
        readings = _read(jobs, seen, num_workers)
    except BaseException:
        remove_unsettled(parts_dir)
        raise
    runs = dict(same)
    part_paths = {name: parts_dir / run.part for name, run in same.items() if run.part}
    for job in jobs:
        reading = readings[job.run]
        runs[job.run] = IndexedRun(str(job.folder), lasting[job.run], reading.row, None, None)
        if reading.has_ticks and job.part_path:
            part_paths[job.run] = job.part_path
    settled = _settled({name: runs[name] for name in folders}, part_paths, parts_dir)
    readings |= _kept_readings(same, out_dir)
    tables = _tables(readings[name] for name in folders)
    return _runs_read(settled, tables, folders, parts_dir, is_changed=True)


def _settled(
    runs: Mapping[str, IndexedRun], part_paths: Mapping[str, Path], parts_dir: Path
) -> dict[str, IndexedRun]:
    """The runs with the names of their parts, which are moved there from where they are now."""
    names = {
        name: part_name(position, name) for position, name in enumerate(runs) if name in part_paths
    }
    settle_parts(parts_dir, {part: part_paths[name] for name, part in names.items()})
    return {
        name: replace(run, part=part, part_stat=collection_index.stat_of(parts_dir / part))
        if (part := names.get(name))
        else replace(run, part=None, part_stat=None)
        for name, run in runs.items()
    }


def _kept_readings(names: Collection[str], out_dir: Path) -> dict[str, Reading]:
    """The rows of these runs in the tables that were kept."""
    tables = (
        {part: _by_run(table) for part, table in _kept_tables(out_dir).items()} if names else {}
    )
    return {
        name: Reading({}, {part: of[name] for part, of in tables.items() if name in of}, False)
        for name in names
    }


def _signatures(folders: Folders) -> dict[str, Signature]:
    return dict(zip(folders, collection_index.signatures(list(folders.values())), strict=True))


def _unchanged(
    before: CollectionIndex | None, folders: Folders, seen: Mapping[str, Signature], parts_dir: Path
) -> dict[str, IndexedRun]:
    """The kept runs that are as they were, parts included, in the order of folders."""
    found = {}
    for name, folder in folders.items() if before else ():
        run = before.runs.get(name) if before else None
        if run is None or (run.folder, run.signature) != (str(folder), seen[name]):
            continue
        if run.part is None or collection_index.stat_of(parts_dir / run.part) == run.part_stat:
            found[name] = run
    return found


def _read(
    jobs: list[Job], seen: Mapping[str, Signature], num_workers: int | None
) -> dict[str, Reading]:
    num_bytes = sum(
        size
        for job in jobs
        for name, size, _ in seen[job.run]
        if job.part_path or not name.startswith("telemetry")
    )
    readings = read_runs(jobs, num_bytes=num_bytes, num_workers=num_workers)
    return {job.run: reading for job, reading in zip(jobs, readings, strict=True)}


def _tables(readings: Iterable[Reading]) -> dict[str, pa.Table]:
    found = list(readings)
    return {
        part: concatenated([r.tables[part] for r in found if part in r.tables], schema)
        for part, schema in TABLES.items()
    }


def _kept_tables(out_dir: Path) -> dict[str, pa.Table]:
    # Without pandas' word: the caller says what becomes of the types.
    return {
        part: pq.read_table(out_dir / f"{part}.parquet").replace_schema_metadata(None)
        for part in TABLES
    }


def _by_run(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each run, which lie together."""
    names = table["run"].to_numpy()
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1])) if len(names) else []
    ends = [*starts[1:], len(names)]
    return {str(names[a]): table.slice(a, b - a) for a, b in zip(starts, ends, strict=False)}


def _runs_read(
    runs: Mapping[str, IndexedRun],
    tables: dict[str, pa.Table],
    folders: Folders,
    parts_dir: Path,
    *,
    is_changed: bool,
) -> RunsRead:
    parts = {name: parts_dir / run.part for name, run in runs.items() if run.part}
    telemetry = Telemetry(parts, folders, kept_summaries=tables.pop("summaries"))
    return RunsRead(runs, tables, telemetry, is_changed)
