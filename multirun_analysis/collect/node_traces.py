"""All traces of a run as one part: a run on several nodes has one each, by a clock of its own.

The seconds of a part are those of the first node. The manifest of each attempt says how far another
node's clock is from it. Where it does not, the first ticks of both are laid side by side by the
date that they state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdwatts.records.traces import TRACE_NAME, traces_in
from multirun_analysis.collect import tick_blocks
from multirun_analysis.collect.record_files import read_record

BATCH_ROWS = 1 << 15
"""Rows of each node that are held at once while parts are joined."""


Offsets = dict[int, dict[int, float]]
"""Node to attempt to the node's clock less the first node's, in seconds."""


def look_at_ends(folder: Path) -> tuple[bool, str | None]:
    """Whether any trace of a run has rows; see `tick_blocks.look_at_ends`."""
    found = [tick_blocks.look_at_ends(path) for path in traces_in(folder).values()]
    return any(has_ticks for has_ticks, _ in found), _joined([problem for _, problem in found])


def write_run(run: str, folder: Path, part_path: Path) -> tuple[int, str | None]:
    """The number of rows of all nodes in `part_path`, and what is wrong with their files.

    Without rows there is no file. Raises ValueError for a record of a foreign schema.
    """
    traces = traces_in(folder)
    if not set(traces) - {1}:
        return tick_blocks.write_part(run, folder / TRACE_NAME, part_path)
    own_paths = {node: part_path.with_name(f"{part_path.name}.n{node}") for node in traces}
    try:
        found = {
            node: tick_blocks.write_part(run, path, own_paths[node], node=node)
            for node, path in traces.items()
        }
        written = {node: own_paths[node] for node, (num_rows, _) in found.items() if num_rows}
        offsets_s = _offsets_s(written, _stated_offsets_s(folder))
        num_rows = tick_blocks.write_tables(_joined_parts(written, offsets_s), part_path)
    finally:
        for path in own_paths.values():
            path.unlink(missing_ok=True)
    return num_rows, _joined([problem for _, problem in found.values()])


def read_whole(run: str, folder: Path) -> tuple[pa.Table, str | None]:
    """The rows of all traces of a run, in order, and what is wrong with their files."""
    with TemporaryDirectory() as aside:
        part_path = Path(aside, "part")
        num_rows, problem = write_run(run, folder, part_path)
        table = tick_blocks.read_part(part_path) if num_rows else None
    return tick_blocks.PART_SCHEMA.empty_table() if table is None else table, problem


def _joined(problems: Sequence[str | None]) -> str | None:
    return "; ".join(filter(None, problems)) or None


def _stated_offsets_s(folder: Path) -> Offsets:
    """What the manifest of each attempt says of the clocks of its nodes."""
    manifest, _ = read_record(folder / "manifest.json")
    earlier = manifest.get("earlier_attempts")
    found: Offsets = {}
    for record in (*(earlier if isinstance(earlier, list) else ()), manifest):
        nodes = record.get("nodes") if isinstance(record, dict) else None
        for node in nodes if isinstance(nodes, list) else ():
            number, attempt = node.get("number"), record.get("attempt")
            offset_s = node.get("clock_offset_s")
            if isinstance(number, int) and isinstance(attempt, int) and offset_s is not None:
                found.setdefault(number, {})[attempt] = float(offset_s)
    return found


def _joined_parts(paths: Mapping[int, Path], offsets_s: Offsets) -> Iterator[pa.Table]:
    """Rows of several sorted parts in order, by the first node's clock, a batch of each at once."""
    sources = [_shifted(path, offsets_s[node]) for node, path in paths.items()]
    waiting = [(table, source) for source in sources if (table := next(source, None)) is not None]
    while waiting:
        ends = [tuple(column[-1] for column in tick_blocks.moments(table)) for table, _ in waiting]
        first = min(range(len(ends)), key=ends.__getitem__)
        counts = [_num_until(table, *ends[first]) for table, _ in waiting]
        # That batch goes as a whole, so that each turn ends one.
        counts[first] = waiting[first][0].num_rows
        turns = list(zip(waiting, counts, strict=True))
        yield pa.concat_tables(table.slice(0, count) for (table, _), count in turns)
        rests = [(table.slice(count), source) for (table, source), count in turns]
        rests = [(rest if rest.num_rows else next(source, None), source) for rest, source in rests]
        waiting = [(rest, source) for rest, source in rests if rest is not None]


def _num_until(table: pa.Table, attempt: float, second: float) -> int:
    """Rows at the head of a sorted table that are not later than a moment."""
    attempts, seconds = tick_blocks.moments(table)
    is_before = (attempts < attempt) | ((attempts == attempt) & (seconds <= second))
    return int(np.count_nonzero(is_before))


def _shifted(path: Path, offset_s: Mapping[int, float]) -> Iterator[pa.Table]:
    """The rows of a part, in batches, by the first node's clock."""
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        attempts, seconds = tick_blocks.moments(table)
        shift_s = np.array([offset_s.get(attempt, 0.0) for attempt in attempts.tolist()])
        place = table.schema.get_field_index("monotonic_s")
        yield table.set_column(place, table.schema.field(place), pa.array(seconds - shift_s))


def _offsets_s(paths: Mapping[int, Path], stated_s: Offsets) -> Offsets:
    """The offsets of all attempts that have ticks, by the date where none is stated."""
    found = {node: dict(stated_s.get(node, {})) for node in paths}
    lacking = {node: _attempts_in(path) - set(found[node]) for node, path in paths.items()}
    if not any(attempts for node, attempts in lacking.items() if node > 1):
        return found
    firsts = {node: _first_ticks(path) for node, path in paths.items()}
    for node, attempts in lacking.items():
        for attempt in attempts & set(firsts[node]):
            # The first node with ticks of the attempt: its clock is known, or stands for the axis.
            other = next(each for each in firsts if attempt in firsts[each])
            clock_s = found[other].get(attempt, 0.0)
            found[node][attempt] = firsts[node][attempt] - firsts[other][attempt] + clock_s
    return found


def _attempts_in(path: Path) -> set[int]:
    batches = pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["attempt"])
    return {attempt for batch in batches for attempt in batch["attempt"].unique().to_pylist()}


def _first_ticks(path: Path) -> dict[int, float]:
    """Attempt to its clock less the date, in seconds, at the first tick that states both."""
    found: dict[int, float] = {}
    columns = ["attempt", "monotonic_s", "time_utc"]
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=columns):
        attempts = batch["attempt"].to_pylist()
        if set(attempts) <= set(found):
            continue
        for row in batch.to_pylist():
            if row["attempt"] not in found and (utc_s := _seconds(row["time_utc"])) is not None:
                found[row["attempt"]] = row["monotonic_s"] - utc_s
    return found


def _seconds(time_utc: str | None) -> float | None:
    try:
        return datetime.fromisoformat(time_utc or "").timestamp()
    except ValueError:
        return None
