"""Files of foreign records, plain or gzipped, and the values in them, checked where they enter."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORRECT = "correct it, or leave this run out"
"""What to do about a value that no recorder should write."""


@dataclass(frozen=True)
class Source:
    """A foreign file as it was when it was read."""

    path: Path
    data: bytes
    """Content without compression, so that a file and its .gz are the same record."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def load(folder: Path, name: str) -> Source | None:
    """The file `name` or `name`.gz of a folder; None where there is neither.

    Raises ValueError where both exist and for a damaged .gz.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    found = [path for path in (plain, packed) if path.is_file()]
    if len(found) == 2:
        raise ValueError(f"{folder}: holds {name} and {name}.gz; remove the one that is not meant")
    if not found:
        return None
    if found[0] == plain:
        return Source(plain, plain.read_bytes())
    try:
        return Source(packed, gzip.decompress(packed.read_bytes()))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{packed}: not a whole gzip file ({error}); copy it again") from None


def read_object(source: Source) -> dict[str, Any]:
    """The one JSON object of a file."""
    try:
        value = json.loads(source.data)
    except ValueError as error:
        raise ValueError(f"{source.path}: not JSON ({error}); copy it again") from None
    return as_object(value, str(source.path))


def read_lines(source: Source) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """File and line beside each record of a JSONL file, and whether its last line was torn.

    Raises ValueError with file and line for a line that is broken anywhere else.
    """
    lines = source.data.split(b"\n")
    records: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        where, is_unended = f"{source.path}:{number}", number == len(lines)
        if is_unended and not line.strip():
            break
        try:
            value = json.loads(line)
        except ValueError as error:
            if is_unended:
                return records, True
            raise ValueError(
                f"{where}: not JSON ({error}), and only a torn last line is passed over; {CORRECT}"
            ) from None
        records.append((where, as_object(value, where)))
    return records, False


def as_object(value: Any, where: str) -> dict[str, Any]:
    """The value, which has to be a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(
            f"{where}: holds {type(value).__name__}, expected a JSON object; {CORRECT}"
        )
    return value


def section(record: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The object below a key; empty where there is none."""
    value = record.get(key)
    return {} if value is None else as_object(value, f"{where}: {key}")


def number(record: dict[str, Any], key: str, where: str) -> float | None:
    """The number of 0 or more below a key; None where it is null or absent."""
    value = record.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"{where}: {key} is {value!r}, expected a number of 0 or more, or null; {CORRECT}"
        )
    return float(value)


def count(record: dict[str, Any], key: str, where: str) -> int:
    """The whole number of 0 or more below a key, which has to be there."""
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(
            f"{where}: {key} is {value!r}, expected a whole number of 0 or more; {CORRECT}"
        )
    return value
