"""Reading of run folders, all of them or those alone that changed since the last time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multirun_analysis.collect import index
from multirun_analysis.collect.columns import concatenated
from multirun_analysis.collect.index import Kept, KeptRun, Signature
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

    runs: Mapping[str, KeptRun]
    tables: Mapping[str, pa.Table]
    """Each of TABLES but the summaries, which belong to the telemetry."""
    telemetry: Telemetry
    is_changed: bool
    """Whether anything differs from what was kept."""


def read_all(folders: Folders, *, num_workers: int | None) -> RunsRead:
    """All of them, with nothing kept: telemetry stays where it is."""
    seen = _signatures(folders)
    readings = _read([Job(name, folder) for name, folder in folders.items()], seen, num_workers)
    runs = {
        name: KeptRun(str(folders[name]), seen[name], reading.row, None, None)
        for name, reading in readings.items()
    }
    parts = {name: None for name, reading in readings.items() if reading.has_ticks}
    tables = _tables(readings.values())
    del tables["summaries"]  # Nobody has read the ticks yet.
    return RunsRead(runs, tables, Telemetry(parts, folders), is_changed=True)


def read_changed(folders: Folders, out_dir: Path, *, num_workers: int | None) -> RunsRead:
    """Those that differ from what `out_dir` keeps of them, the others as they were kept.

    Parts of the telemetry are in their places when it returns; tables are not written yet. The
    caller holds the folder's lock.
    """
    # Before anything is read, so that what changes from now on shows.
    seen = _signatures(folders)
    young = {name for name, signature in seen.items() if index.is_young(signature)}
    parts_dir = out_dir / PARTS
    before = index.read_kept(out_dir)
    same = _unchanged(before, folders, seen, parts_dir)
    if before and list(same) == list(folders) == list(before.runs):
        return _runs_read(same, _kept_tables(out_dir), folders, parts_dir, is_changed=False)
    parts_dir.mkdir(exist_ok=True)
    remove_unsettled(parts_dir)
    positions = {name: position for position, name in enumerate(folders)}
    new_paths = {name: new_part_path(parts_dir, position) for name, position in positions.items()}
    jobs = [Job(name, folders[name], new_paths[name]) for name in folders if name not in same]
    try:
        readings = _read(jobs, seen, num_workers)
    except BaseException:
        remove_unsettled(parts_dir)
        raise
    runs, places = {}, {}
    for name, folder in folders.items():
        part = part_name(positions[name], name)
        if name in same:
            run = same[name]
            if run.part:
                places[part] = parts_dir / run.part
                run = replace(run, part=part)
        else:
            reading = readings[name]
            if reading.has_ticks:
                places[part] = new_paths[name]
            signature = None if name in young else seen[name]
            own_part = part if reading.has_ticks else None
            run = KeptRun(str(folder), signature, reading.row, own_part, None)
        runs[name] = run
    settle_parts(parts_dir, places)
    runs = {
        name: replace(run, part_stat=index.stat_of(parts_dir / run.part)) if run.part else run
        for name, run in runs.items()
    }
    slices = {part: _by_run(table) for part, table in _kept_tables(out_dir).items()} if same else {}
    old = {
        name: Reading({}, {p: of[name] for p, of in slices.items() if name in of}, False)
        for name in same
    }
    tables = _tables((readings | old)[name] for name in folders)
    return _runs_read(runs, tables, folders, parts_dir, is_changed=True)


def _signatures(folders: Folders) -> dict[str, Signature]:
    return dict(zip(folders, index.signatures(list(folders.values())), strict=True))


def _unchanged(
    before: Kept | None, folders: Folders, seen: Mapping[str, Signature], parts_dir: Path
) -> dict[str, KeptRun]:
    """The kept runs that are as they were, parts included, in the order of folders."""
    found = {}
    for name, folder in folders.items() if before else ():
        run = before.runs.get(name) if before else None
        if run is None or (run.folder, run.signature) != (str(folder), seen[name]):
            continue
        if run.part is None or index.stat_of(parts_dir / run.part) == run.part_stat:
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
    runs: Mapping[str, KeptRun],
    tables: dict[str, pa.Table],
    folders: Folders,
    parts_dir: Path,
    *,
    is_changed: bool,
) -> RunsRead:
    parts = {name: parts_dir / run.part for name, run in runs.items() if run.part}
    telemetry = Telemetry(parts, folders, kept_summaries=tables.pop("summaries"))
    return RunsRead(runs, tables, telemetry, is_changed)
