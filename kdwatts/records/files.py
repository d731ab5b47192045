"""How records are written and read: whole files, or whole lines that survive a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from kdwatts.records.schema import SCHEMA


def to_json(record: Any) -> str:
    """One line of JSON for a record or a mapping. Raises ValueError for NaN and infinities."""
    value = asdict(record) if is_dataclass(record) and not isinstance(record, type) else record
    return json.dumps(value, allow_nan=False, separators=(", ", ": "))


def append_jsonl(path: Path, record: Any) -> None:
    """Add one record as one line, with a single write: a kill tears at most this line.

    A line that was torn before is cut off, so that this one does not continue it.
    """
    line = (to_json(record) + "\n").encode()
    with path.open("a+b") as file:
        file.seek(max(0, file.tell() - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a value as JSON, as a whole. Raises ValueError for NaN and infinities."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    replace_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Replace the file as a whole: a reader sees the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_schema(record: Mapping[str, Any], where: str) -> None:
    """Raise ValueError unless the record's schema is this version or an older one."""
    schema = record.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or not 1 <= schema <= SCHEMA:
        raise ValueError(
            f"{where}: schema is {schema!r}, but this kdwatts reads 1 to {SCHEMA}; read it with "
            "the version that wrote it, or import it if kdwatts did not write it"
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file. If it is an object, its schema is checked.

    Raises ValueError with the file's name for broken JSON, and for a foreign or newer schema.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it and run again") from None
    for record in value if isinstance(value, list) else [value]:
        if not isinstance(record, dict):
            raise ValueError(
                f"{path}: holds {type(record).__name__}, not a record; delete it and run again"
            )
        check_schema(record, str(path))
    return value


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file, in order. A torn last line, left by a kill, is left out.

    Raises ValueError, with file and line, for anything else that is no record of a known schema.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield read_line(line, f"{path}:{number}")


def read_line(line: bytes, where: str) -> dict[str, Any]:
    """The record of one line.

    Raises ValueError, which begins with `where`, for anything else and for a foreign schema.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{where}: not JSON ({error}); only the last line of a file may be torn"
        ) from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: holds {type(record).__name__}, not a record")
    check_schema(record, where)
    return record
