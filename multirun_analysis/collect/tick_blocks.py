"""The trace of one node of a run, block by block: a long run has millions of rows.

A part is one run's rows in a file of `telemetry.parquet/`, sorted by attempt and time. The
monotonic seconds of two attempts have nothing in common, so the attempt comes first.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import json as arrow_json

from kdwatts.records.files import check_schema, read_line
from multirun_analysis.collect.columns import TELEMETRY, TICK, for_pandas, to_table
from multirun_analysis.collect.json_lines import Records, read_blocks
from multirun_analysis.collect.record_files import (
    not_as_agreed,
    refuse_foreign_schema,
    torn_line,
    without_folder,
)

BLOCK_BYTES = 8 << 20
"""Some 20,000 rows: what a reader holds at once, three or four times over."""

PART_SCHEMA = for_pandas(TELEMETRY)

_OPTIONS = arrow_json.ParseOptions(
    explicit_schema=TICK.append(pa.field("schema", pa.int64())),
    unexpected_field_behavior="ignore",
)
_PARQUET: Any = {
    "compression": "zstd",
    # Figures seldom repeat: a dictionary of them only costs time.
    "use_dictionary": [field.name for field in TELEMETRY if pa.types.is_string(field.type)],
}
_ORDER = ("attempt", "monotonic_s")
_ASCENDING = [(name, "ascending") for name in _ORDER]


def ticks(run: str, path: Path, problems: list[str], *, node: int = 1) -> Iterator[pa.Table]:
    """Tables of TELEMETRY. What is wrong with the file of that node is added to `problems`.

    Rows before a broken line count. Raises ValueError for a foreign schema. Raises TypeError where
    a value does not have its column's type: then no row of the file counts.
    """
    for block in read_blocks(path, _OPTIONS, problems, block_bytes=BLOCK_BYTES):
        if isinstance(block, list):
            yield _table_by_line(run, block, node)
        else:
            table = block.drop_columns("schema")
            table = table.add_column(0, TELEMETRY[0], pa.repeat(pa.scalar(run), table.num_rows))
            yield table.append_column("node", pa.repeat(pa.scalar(node), table.num_rows))


def _table_by_line(run: str, records: Records, node: int) -> pa.Table:
    known = [{name: record.get(name) for name in TICK.names} | {"node": node} for record in records]
    try:
        return to_table(run, known, TELEMETRY)
    except (ValueError, OverflowError) as error:
        raise TypeError(str(error)) from None


def write_part(run: str, path: Path, part_path: Path, *, node: int = 1) -> tuple[int, str | None]:
    """The number of rows written to `part_path`, and what is wrong. Without rows there is no file.

    The rows are by the clock of their node. The caller renames the file: `part_path` belongs to
    this process.
    """
    problems: list[str] = []
    try:
        num_rows = write_tables(ticks(run, path, problems, node=node), part_path)
    except TypeError as error:
        num_rows, problems = 0, [not_as_agreed(error, path)]
        part_path.unlink(missing_ok=True)
    return num_rows, next(iter(problems), None)


def write_tables(tables: Iterable[pa.Table], part_path: Path) -> int:
    """The number of rows of the tables, which are a part afterwards. Without rows it is no file."""
    writer: pq.ParquetWriter | None = None
    num_rows, in_order = 0, True
    last = (-math.inf, -math.inf)
    try:
        for table in tables:
            if not table.num_rows:
                continue
            writer = writer or pq.ParquetWriter(part_path, PART_SCHEMA, **_PARQUET)
            table = _sorted(table)
            attempts, seconds = moments(table)
            in_order &= last <= (attempts[0], seconds[0])
            last = (attempts[-1], seconds[-1])
            writer.write_table(table.cast(PART_SCHEMA))
            num_rows += table.num_rows
    finally:
        if writer:
            writer.close()
    if not num_rows:
        part_path.unlink(missing_ok=True)
    elif not in_order:
        # Rare: rows that go back across the edge of a block. Only here a whole run is in memory.
        whole = read_part(part_path).sort_by(_ASCENDING)
        pq.write_table(whole, part_path, **_PARQUET)
    return num_rows


def read_part(part_path: Path) -> pa.Table:
    """A part as it was written. Raises OSError or ValueError where the file is damaged."""
    return pq.ParquetFile(part_path, memory_map=False).read()


def moments(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Attempt and monotonic second of each row: what parts are sorted by."""
    attempts, seconds = (table[name].to_numpy() for name in _ORDER)
    return attempts, seconds


def _sorted(table: pa.Table) -> pa.Table:
    attempts, seconds = moments(table)
    if np.all(attempts[1:] == attempts[:-1]) and np.all(seconds[1:] >= seconds[:-1]):
        return table
    return table.sort_by(_ASCENDING)


def look_at_ends(path: Path) -> tuple[bool, str | None]:
    """Whether a telemetry file has rows, and what is wrong as far as its ends show.

    Its first record and its last whole one state its versions: a file grows by attempts, each
    written by one version. Raises ValueError for a foreign schema in either.
    """
    try:
        with path.open("rb") as file:
            first = file.readline()
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (1 << 16)))
            tail = file.read()
    except FileNotFoundError:
        return False, None
    except OSError as error:
        return False, without_folder(error, path)
    if not first.endswith(b"\n"):
        return False, torn_line(path) if first else None
    try:
        read_line(first, f"{path}:1")
    except ValueError as error:
        refuse_foreign_schema(path)
        return False, without_folder(error, path)
    whole, _, rest = tail.rpartition(b"\n")
    try:
        record = json.loads(whole.rpartition(b"\n")[2])
    except ValueError:
        record = None  # What is broken is told when it is read.
    if isinstance(record, dict):
        check_schema(record, str(path))
    return True, torn_line(path) if rest else None
