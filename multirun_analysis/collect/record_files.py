"""Files of a run as records, read as far as they go. Each answer says what is wrong with the file.

Whatever a killed or half-written run lacks is an empty cell. A record of an unknown schema is
different: reading it would be guessing, so it raises ValueError with the file's name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kdwatts.records.files import check_schema, read_json, read_jsonl
from multirun_analysis.collect.columns import is_below_0_j, kind_of

_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "list": list,
    "dict": dict,
}


def read_record(path: Path) -> tuple[dict[str, Any], str | None]:
    """A record, empty where there is none, and what is wrong with the file."""
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}, None
    except (ValueError, OSError) as error:
        refuse_foreign_schema(path)
        return {}, without_folder(error, path)
    return (value, None) if isinstance(value, dict) else ({}, f"{path.name}: holds no record")


def read_records(path: Path) -> tuple[list[Any], str | None]:
    """The records of a .json list or a .jsonl file, and what is wrong with it."""
    records: list[Any] = []
    try:
        for record in read_json(path) if path.suffix == ".json" else read_jsonl(path):
            records.append(record)
        return records, _torn(path)
    except FileNotFoundError:
        return [], None
    except (ValueError, OSError) as error:
        refuse_foreign_schema(path)
        return records, without_folder(error, path)


def type_problem(record: dict[str, Any], record_type: type, where: str) -> str | None:
    """What does not fit the dataclass in a record. Absent keys are missing values, not problems."""
    for field in fields(record_type):
        value, kind = record.get(field.name), kind_of(field)
        bad_number = isinstance(value, bool) or (
            isinstance(value, float) and not math.isfinite(value)
        )
        if value is not None and (bad_number or not isinstance(value, _KINDS[kind])):
            return f"{where}: {field.name} is {value!r}, expected {kind}; delete it and rerun"
        if is_below_0_j(field.name, value):
            return f"{where}: {field.name} is {value!r}, expected 0 or more; delete it and rerun"
    return None


def refuse_foreign_schema(path: Path) -> None:
    """Raise ValueError if a record of an unreadable file has an unknown version."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return
    for chunk in _chunks(path):
        try:
            value = json.loads(chunk)
        except ValueError:
            continue
        for record in value if isinstance(value, list) else [value]:
            if isinstance(record, dict):
                check_schema(record, str(path))


def _chunks(path: Path) -> Iterator[str]:
    """What can be a value of its own: lines, one at a time, or a whole file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file if path.suffix == ".jsonl" else [file.read()]


def error_words(status: Mapping[str, Any]) -> str | None:
    """What status.json says of a failure, with the node that it was on where it names one."""
    error, node = status.get("error"), status.get("node")
    if node and str(node) not in str(error):
        return f"on {node}: {error}" if error else f"failed on {node}"
    return None if error is None else str(error)


TORN = "torn last line passed over"


def torn_line(path: Path) -> str:
    """The words for a torn line."""
    return f"{path.name}: {TORN}"


def _torn(path: Path) -> str | None:
    if path.suffix != ".jsonl" or not path.stat().st_size:
        return None
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return None if file.read() == b"\n" else torn_line(path)


def not_as_agreed(error: Exception, path: Path) -> str:
    """The words for a value of another type than its column's."""
    return f"{path.name}: a record is not as agreed ({error!r}); file left out"


def without_folder(error: Exception, path: Path) -> str:
    """An error's text without the file's folder."""
    return str(error).replace(f"{path.parent}{os.sep}", "")
