"""Run folders, whole or torn, as tables. No run is dropped: each has a state, or a reason.

`collect` reads folders in parallel and holds at most one block of telemetry per process. With a
folder to write to, it keeps what it read there, and next time it reads only the runs that changed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from kdwatts.records.run_metrics import Metrics
from multirun_analysis.collect import collection_index
from multirun_analysis.collect.columns import kind_of
from multirun_analysis.collect.incremental import RunsRead, read_all, read_changed
from multirun_analysis.collect.labels import label_runs, mark_duplicates
from multirun_analysis.collect.run_tables import TABLES
from multirun_analysis.collect.run_ticks import Telemetry
from multirun_analysis.collect.tick_parts import PARTS
from multirun_analysis.statistics.pooled_serving import SUBJECTS
from multirun_analysis.statistics.seeds import add_totals
from multirun_analysis.statistics.served import SERVED, pool_served
from multirun_analysis.values.atomic import file_paths, write_files
from multirun_analysis.values.folders import find_folders
from multirun_analysis.values.rows import Row

_NUMBERS = (
    *("inherited_amortised_energy_j", "total_energy_j", "total_amortised_energy_j"),
    *("eff_overall_low", "eff_overall_high", "sampling_mean_s", "sampling_longest_s"),
)
_SERVED_TYPES = {
    f"{subject}_served_{name}": dtype for subject in SUBJECTS for name, dtype in SERVED.items()
}
_TYPES = (
    {"cpu_threads": "Int64", "num_nodes": "Int64"}
    | _SERVED_TYPES
    | dict.fromkeys(_NUMBERS, "float64")
)
"""Of the columns that no record has."""


@dataclass(frozen=True)
class Collected:
    """Everything found below the given folders, as tables that share the column `run`."""

    runs: pd.DataFrame
    """One row per run folder: state and reason, all keys of Metrics, totals, provenance."""
    stages: pd.DataFrame
    """One row per window and attempt. `energy_j` sums the components of the best quality."""
    node_shares: pd.DataFrame
    """One row per node, window and attempt of runs on several nodes."""
    train: pd.DataFrame
    """One row per logged step, and per reading on held-out rows."""
    scores: pd.DataFrame
    """One row per model, task and metric."""
    inference: pd.DataFrame
    """One row per model, batch size, prompt length and new length that was served."""
    serving: pd.DataFrame
    """One row per load of each measurement of a server. `run` may also be the folder of a
    measurement without a run."""
    telemetry: Telemetry
    """The ticks of each run, read when you ask for them."""
    left_out: tuple[str, ...] = ()
    """A sentence about each folder below the given ones whose records were not read."""

    @property
    def summaries(self) -> pd.DataFrame:
        """One row per run and stage: utilisation, temperature and power of its devices."""
        return self.telemetry.summaries


def collect(
    directories: Sequence[Path], out_dir: Path | None = None, *, num_workers: int | None = None
) -> Collected:
    """The runs below `directories` as tables. Energies are amortised over their students.

    With `out_dir` all tables are written there, with null or an empty cell for a missing number.
    Runs that have not changed since the last time are read from these tables. Its telemetry.parquet
    is a folder with a file per run, sorted by attempt and time. Without `out_dir` nothing is
    written, and of telemetry only the ends of the files are read until you ask for it.
    `num_workers` processes read. None means one per processor where there is enough to read.

    Raises ValueError when a directory is missing, when none holds a run, and for a record of a
    foreign or newer schema.
    """
    below = find_folders(directories)
    paths = [*below.runs, *below.serving]
    folders = dict(zip(_names(paths), paths, strict=True))
    alone = {name for name, path in folders.items() if path in set(below.serving)}
    if out_dir is None:
        found = read_all(folders, num_workers=num_workers)
        return _with_left_out(_compared(found, alone), found, alone, below.left_out)
    with collection_index.locked(out_dir):
        found = read_changed(folders, out_dir, num_workers=num_workers)
        collected = _compared(found, alone)
        if found.is_changed:
            written = write_files(_frames(collected), out_dir)
            tables = {path.name: collection_index.stat_of(path) for path in written}
            collection_index.write_index(
                out_dir, collection_index.CollectionIndex(found.runs, tables)
            )
    return _with_left_out(collected, found, alone, below.left_out)


def _with_left_out(
    collected: Collected, found: RunsRead, alone: Collection[str], left_out: tuple[str, ...]
) -> Collected:
    """With a sentence about each measurement without a run whose file does not read."""
    notes = {name: found.runs[name].row["notes"] for name in found.runs if name in alone}
    said = [f"{name}: {note}" for name, note in notes.items() if note]
    return replace(collected, left_out=(*left_out, *said))


def _compared(found: RunsRead, alone: Collection[str]) -> Collected:
    """The tables for pandas, with what a run's row can say only beside those of the others.

    `alone` are the folders that are no runs.
    """
    read = {name: run.row for name, run in found.runs.items()}
    rows = [dict(row) for name, row in read.items() if name not in alone]
    for step in (mark_duplicates, label_runs, add_totals) if rows else ():
        step(rows)
    pool_served(rows, found.tables["inference"].to_pylist())
    runs = _typed_runs(pd.DataFrame(rows) if rows else _no_runs(next(iter(read.values()))))
    tables = {
        # Losses have no agreed type: numbers are numpy's, as in any frame.
        part: table.to_pandas(types_mapper=None if part == "train" else _NULLABLE.get)
        for part, table in found.tables.items()
    }
    return Collected(runs=runs, **tables, telemetry=found.telemetry)


def _no_runs(row: Row) -> pd.DataFrame:
    """A table of runs without rows, where every folder is a measurement of a server alone."""
    of_others = [*_TYPES, "total_energy_quality"]
    return pd.DataFrame(columns=list(dict.fromkeys([*row, *of_others])), dtype=object)


_NULLABLE = {pa.int64(): pd.Int64Dtype()}


def _typed_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The table with numbers as numbers, also where a whole column is missing."""
    kinds = {field.name: kind_of(field) for field in fields(Metrics) if field.name in table}
    dtypes = {"int": "Int64", "float": "float64"}
    types = {name: dtypes[kind] for name, kind in kinds.items() if kind in dtypes}
    return table.astype(types | _TYPES)


def _frames(collected: Collected) -> dict[str, pd.DataFrame]:
    return {part: getattr(collected, part) for part in (*TABLES, "runs")}


def table_paths(out_dir: Path) -> list[Path]:
    """Every file that `collect` writes into a folder, and the folder of telemetry."""
    files = [path for name in (*TABLES, "runs") for path in file_paths(name, out_dir)]
    return [out_dir / PARTS, *files]


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names; where two are alike, all become paths below their common parent."""
    names = [folder.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    root = os.path.commonpath([folder.parent for folder in folders])
    return [folder.relative_to(root).as_posix() for folder in folders]
