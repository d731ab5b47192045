"""Small files of one run as tables: stages, training, scores, serving, serving under load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import json as arrow_json

from kdwatts.metrics.quantity import MISSING_J
from kdwatts.metrics.window_energy import waiting_energy, window_energy, window_net_energy_j
from kdwatts.records.schema import COMPONENTS
from multirun_analysis.collect import columns
from multirun_analysis.collect.device_summaries import SUMMARIES
from multirun_analysis.collect.json_lines import read_blocks
from multirun_analysis.collect.record_files import not_as_agreed, read_records
from multirun_analysis.collect.serving_columns import SERVING, flat_record

Reading = tuple[pa.Table, str | None]
"""A table, and what is wrong with its file."""

TABLES = {
    "stages": columns.STAGES,
    "node_shares": columns.NODE_SHARES,
    "train": columns.TRAIN,
    "scores": columns.SCORES,
    "inference": columns.INFERENCE,
    "serving": SERVING,
    "summaries": SUMMARIES,
}
"""Every table but runs and telemetry, with the columns that it has at least."""

_FILES = {
    "stages": "stages.jsonl",
    "node_shares": "stages.jsonl",
    "train": "train.jsonl",
    "scores": "eval.json",
    "inference": "inference.json",
    "serving": "serving.json",
}


_TRAIN_OPTIONS = arrow_json.ParseOptions(
    explicit_schema=pa.schema([("schema", pa.int64()), ("split", pa.string())])
)


def read_tables(run: str, folder: Path) -> dict[str, Reading]:
    """Each of TABLES that is read off a file in a run's folder."""
    small = {name: read_records(folder / name) for part, name in _FILES.items() if part in _FLAT}
    return {
        part: _small(run, folder / name, part, *small[name])
        if part in _FLAT
        else _read_train(run, folder / name)
        for part, name in _FILES.items()
    }


def _small(run: str, path: Path, part: str, records: list[Any], problem: str | None) -> Reading:
    try:
        rows = [row for record in records for row in _FLAT[part](record)]
        return columns.to_table(run, rows, TABLES[part]), problem
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return TABLES[part].empty_table(), not_as_agreed(error, path)


def _flat_stage(row: dict[str, Any]) -> dict[str, Any]:
    """A stages.jsonl record with one column per component, and their sum of the best quality."""
    plain = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
    waiting = waiting_energy(row) if row.get("nodes") else MISSING_J  # Nobody could wait.
    return (
        plain
        | _by_component(row)
        | _summed(row)
        | {
            "net_energy_j": window_net_energy_j(row),
            "num_nodes": max(1, len(row.get("nodes") or [])),
            "waiting_energy_j": waiting.value,
            "waiting_uncertainty_j": waiting.sd,
        }
    )


def _by_component(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in COMPONENTS:
        for source in ("energy_j", "quality", "coverage"):
            found[f"{part}_{source}"] = row[source].get(part)
        if "method" in row:
            found[f"{part}_method"] = row["method"].get(part)
        found[f"{part}_reason"] = (row.get("reason") or {}).get(part)
    return found


def _summed(row: dict[str, Any]) -> dict[str, Any]:
    total = window_energy(row)
    return {
        "energy_j": total.value,
        "uncertainty_j": total.sd,
        "energy_quality": total.quality,
    }


def _flat_shares(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What each node drew in the window of a stages.jsonl record, as `_flat_stage` has the sum."""
    of_window = {key: row[key] for key in ("attempt", "window")}
    return [
        {key: value for key, value in share.items() if not isinstance(value, (dict, list))}
        | of_window
        | _by_component(share)
        | _summed(share)
        for share in row.get("nodes") or []
    ]


def _flat_cost(row: dict[str, Any]) -> dict[str, Any]:
    """An inference.json record with the keys of its phases beside its own."""
    flat = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


_FLAT: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "stages": lambda row: [_flat_stage(row)],
    "node_shares": _flat_shares,
    "scores": lambda row: [dict(row)],
    "inference": lambda row: [_flat_cost(row)],
    "serving": flat_record,
}
"""Table to what makes the rows of one record."""


def _read_train(run: str, path: Path) -> Reading:
    """Numbers of train.jsonl, and `split`, which says what held-out rows are."""
    problems: list[str] = []
    blocks = list(read_blocks(path, _TRAIN_OPTIONS, problems, block_bytes=-1))
    try:
        parts = [
            columns.to_table(run, _numbers(block), columns.TRAIN).drop_columns("run")
            if isinstance(block, list)
            else block
            for block in blocks
        ]
    except (TypeError, ValueError, OverflowError) as error:
        return columns.TRAIN.empty_table(), not_as_agreed(error, path)
    table = columns.concatenated(parts, pa.schema([]))
    kept = [field.name for field in table.schema if _is_kept(field, table)]
    # Where the fast reader puts it, whose own type it is not left to guess.
    table = table.select(sorted(kept, key=lambda name: name != "split"))
    table = table.add_column(0, columns.RUN, pa.repeat(pa.scalar(run), table.num_rows))
    return table, next(iter(problems), None)


def _numbers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without the keys that hold anything but a number in any of them."""
    other = {
        key
        for record in records
        for key, value in record.items()
        if value is not None
        and (isinstance(value, bool) or not isinstance(value, (int, float)))
        and (key, type(value)) != ("split", str)
    }
    return [{k: v for k, v in record.items() if k not in other} for record in records]


def _is_kept(field: pa.Field, table: pa.Table) -> bool:
    if field.name == "split":
        return pa.types.is_string(field.type) and table["split"].null_count < table.num_rows
    number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    return number and field.name != "schema"
