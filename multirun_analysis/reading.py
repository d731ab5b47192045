"""Files of one run as tables, read as far as they go: each answer says what is wrong with the file.

Everything that a killed or half-written run lacks is an empty cell. A record of an unknown schema
is different: reading it would be guessing, so it raises ValueError with the file's name.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from kdwatts.metrics import total_energy
from kdwatts.records import COMPONENTS, StageRow, TelemetryRow, check_schema, read_json, read_jsonl

_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "dict": dict,
}


def read_record(path: Path) -> tuple[dict[str, Any], str | None]:
    """A record, empty where there is none, and what is wrong with the file."""
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}, None
    except (ValueError, OSError) as error:
        _refuse_foreign_schema(path)
        return {}, _without_folder(error, path)
    return (value, None) if isinstance(value, dict) else ({}, f"{path.name}: holds no record")


def read_table(path: Path, record_type: type | None) -> tuple[pd.DataFrame, str | None]:
    """The records of one file, and what is wrong with it.

    Without a type only numbers are kept, and `split`, which says what held-out rows of train.jsonl
    are.
    """
    records: list[Any] = []
    # A long run has millions of ticks: tuples instead of mappings.
    ticks = [f.name for f in fields(TelemetryRow)] if record_type is TelemetryRow else None
    try:
        for record in read_json(path) if path.suffix == ".json" else read_jsonl(path):
            records.append(tuple(map(record.get, ticks)) if ticks else record)
        problem = _torn(path)
    except FileNotFoundError:
        return pd.DataFrame(), None
    except (ValueError, OSError) as error:
        _refuse_foreign_schema(path)
        problem = _without_folder(error, path)
    try:
        if record_type is StageRow:
            records = [_flat_stage(record) for record in records]
        table = pd.DataFrame(records, columns=ticks)
        table = typed(table, record_type) if record_type else _numbers(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return pd.DataFrame(), f"{path.name}: a record is not as agreed ({error!r}); file left out"
    return table.drop(columns="schema", errors="ignore"), problem


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    numbers = table.select_dtypes("number")
    return numbers.assign(split=table["split"]) if "split" in table else numbers


def type_problem(record: dict[str, Any], record_type: type, where: str) -> str | None:
    """What a record holds against its dataclass; absent keys are missing values, not problems."""
    for field in fields(record_type):
        value, kind = record.get(field.name), _kind(field)
        bad_number = isinstance(value, bool) or (
            isinstance(value, float) and not math.isfinite(value)
        )
        if value is not None and (bad_number or not isinstance(value, _KINDS[kind])):
            return f"{where}: {field.name} is {value!r}, expected {kind}; delete it and rerun"
    return None


def typed(table: pd.DataFrame, record_type: type) -> pd.DataFrame:
    """The table with numbers as numbers, also where a whole column is missing."""
    for field in fields(record_type):
        if field.name in table and _kind(field) in ("int", "float"):
            dtype = "Int64" if _kind(field) == "int" else "float64"
            table[field.name] = table[field.name].astype(dtype)
    return table


def _kind(field: Field) -> str:
    kind = str(field.type).split(" | ")[0]
    return kind if kind in _KINDS else "dict"


def _flat_stage(row: dict[str, Any]) -> dict[str, Any]:
    """A stages.jsonl record with one column per component, and their sum of the best quality."""
    total = total_energy(row["energy_j"], row["quality"], row["uncertainty_j"])
    plain = {key: value for key, value in row.items() if not isinstance(value, dict)}
    for part in COMPONENTS:
        for source in ("energy_j", "quality", "method", "coverage"):
            plain[f"{part}_{source}"] = row[source].get(part)
    return plain | {
        "energy_j": total.energy_j,
        "uncertainty_j": total.uncertainty_j,
        "energy_quality": total.quality,
    }


def _refuse_foreign_schema(path: Path) -> None:
    """Raise ValueError if a record of a file that does not read is of an unknown version."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return
    text = path.read_text(errors="replace")
    for chunk in text.splitlines() if path.suffix == ".jsonl" else [text]:
        try:
            value = json.loads(chunk)
        except ValueError:
            continue
        for record in value if isinstance(value, list) else [value]:
            if isinstance(record, dict):
                check_schema(record, str(path))


def _torn(path: Path) -> str | None:
    if path.suffix != ".jsonl" or not path.stat().st_size:
        return None
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return None if file.read() == b"\n" else f"{path.name}: torn last line passed over"


def _without_folder(error: Exception, path: Path) -> str:
    return str(error).replace(f"{path.parent}{os.sep}", "")
