"""What a collection keeps beside its tables, so that the next one reads only changed runs.

A run is unchanged while none of its files has another size or time of change. What other code kept
is not trusted, and neither is what lies beside a table that somebody changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

import kdwatts.metrics
import kdwatts.records
from kdwatts.records.traces import traces_in
from multirun_analysis.collect.run_folder import FILES
from multirun_analysis.values.atomic import replace_whole

log = logging.getLogger(__name__)

INDEX = ".collected.json"
_LOCK = ".collected.lock"

YOUNG_S = 2.5
"""Times of change are as coarse as 2 s on some file systems (FAT): a file that changed so lately
may change again and look the same."""

Signature = list[tuple[str, int, int]]
"""Name, bytes and time of change in nanoseconds of each file of a run."""
Stat = tuple[int, int]


@dataclass(frozen=True)
class IndexedRun:
    """One run as it was read."""

    folder: str
    signature: Signature | None
    """None where a file was too young to be told from its successor."""
    row: dict[str, Any]
    part: str | None
    """Name of its file in telemetry.parquet; None where it has no ticks."""
    part_stat: Stat | None


@dataclass(frozen=True)
class CollectionIndex:
    """A finished collection."""

    runs: Mapping[str, IndexedRun]
    """By name, in order."""
    tables: Mapping[str, Stat | None]
    """Bytes and time of change of each table, by file name."""


@contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """A context in which one collection at a time writes into `out_dir`.

    A second collection waits and then finds its work done. The lock ends with its process. Where a
    file system has no locks, tables are still replaced as a whole.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / _LOCK).open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s cannot be locked (%s): collect into it once at a time", out_dir, error)
        yield


def signatures(folders: Sequence[Path]) -> list[Signature]:
    """Signature of each run's folder. Threads read them, since a mounted folder answers late."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_signature, folders, chunksize=16))


def _signature(folder: Path) -> Signature:
    found = []
    for name in (*FILES, *(path.name for path in traces_in(folder).values())):
        # Text paths: pathlib would take most of the time of a thousand folders.
        if stat := stat_of(os.path.join(folder, name)):
            found.append((name, *stat))
    return found


def stat_of(path: str | Path) -> Stat | None:
    """Bytes and time of change of a file. None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def is_young(signature: Signature, *, now_s: float | None = None) -> bool:
    """Whether a file changed so recently that its next change may not show."""
    since_ns = ((time.time() if now_s is None else now_s) - YOUNG_S) * 1e9
    return any(changed_ns > since_ns for _, _, changed_ns in signature)


def read_index(out_dir: Path) -> CollectionIndex | None:
    """What the last collection kept. None where it cannot be trusted."""
    try:
        record = json.loads((out_dir / INDEX).read_text("utf-8"))
        if record["code"] != code_version():
            return None
        runs = {
            name: IndexedRun(
                **kept
                | {
                    "signature": kept["signature"] and [tuple(file) for file in kept["signature"]],
                    "part_stat": kept["part_stat"] and tuple(kept["part_stat"]),
                }
            )
            for name, kept in record["runs"].items()
        }
        tables = {name: tuple(stat) for name, stat in record["tables"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # None yet, or a half: whatever it is, reading the runs again is right.
    if any(stat_of(out_dir / name) != stat for name, stat in tables.items()):
        return None
    return CollectionIndex(runs, tables)


def write_index(out_dir: Path, index: CollectionIndex) -> None:
    """Replace the index as a whole. It is one line: indenting a thousand rows takes seconds."""
    runs = {name: vars(run) for name, run in index.runs.items()}
    record = {"code": code_version(), "runs": runs, "tables": dict(index.tables)}
    replace_whole(out_dir / INDEX, lambda path: path.write_text(json.dumps(record), "utf-8"))


@cache
def code_version() -> str:
    """Hash of the code that made what is kept."""
    analysis = Path(__file__).parents[1]
    ours = [analysis / room for room in ("values", "statistics", "importer", "collect")]
    theirs = [Path(str(package.__file__)).parent for package in (kdwatts.metrics, kdwatts.records)]
    paths = [path for room in (*ours, *theirs) for path in sorted(room.glob("*.py"))]
    digest = hashlib.sha256(pa.__version__.encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
