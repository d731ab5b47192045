"""Files of JSON lines, block by block: as tables at pyarrow's speed, else as records by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from kdwatts.records.files import read_line
from kdwatts.records.schema import SCHEMA
from multirun_analysis.collect.record_files import (
    refuse_foreign_schema,
    torn_line,
    without_folder,
)

Records = list[dict[str, Any]]

_NEWLINE, _OPEN = b"\n{"


def read_blocks(
    path: Path, options: arrow_json.ParseOptions, problems: list[str], *, block_bytes: int
) -> Iterator[pa.Table | Records]:
    """The whole lines of a file, in blocks: a table where pyarrow can read them, else records.

    Lines before a broken one count. What is wrong with the file is added to `problems`. A
    `block_bytes` of -1 reads all lines at once. Raises ValueError for a foreign schema.
    """
    first_number = 1
    try:
        for block in _whole_lines(path, problems, block_bytes):
            table = fast_table(block, options)
            if table is not None:
                yield table
            else:
                records, problem = _records(path, block, first_number)
                yield records
                if problem:
                    refuse_foreign_schema(path)
                    problems.append(problem)
                    return
            first_number += block.count(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(without_folder(error, path))


def _whole_lines(path: Path, problems: list[str], block_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(block_bytes) + file.readline():
            end = block.rfind(b"\n") + 1
            if end:
                yield block[:end]
            if end < len(block):
                problems.append(torn_line(path))
                return  # What follows by now is the rest of that line.


def _records(path: Path, block: bytes, first_number: int) -> tuple[Records, str | None]:
    """The records before the first line that is none, and the sentence about that line."""
    records: Records = []
    try:
        for number, line in enumerate(block.split(b"\n")[:-1], start=first_number):
            records.append(read_line(line, f"{path}:{number}"))
    except ValueError as error:
        return records, without_folder(error, path)
    return records, None


def fast_table(block: bytes, options: arrow_json.ParseOptions) -> pa.Table | None:
    """The records of a block of whole lines of a known schema, with the column `schema`.

    None for anything that is not one record per line, and for values of other types than the
    options'. The slower reader says better what is wrong, and where.
    """
    content = np.frombuffer(block, np.uint8)
    newlines = np.flatnonzero(content == _NEWLINE)
    firsts = np.append(0, newlines[:-1] + 1)
    # pyarrow 26 crashes on a line that is null, and reads two values of a line as two rows.
    if not len(newlines) or (content[firsts] != _OPEN).any() or not _is_text(block):
        return None
    # A block is one of pyarrow's too, so that its rows have one set of columns.
    read = arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
    try:
        table = arrow_json.read_json(pa.BufferReader(block), read, options)
    except pa.ArrowException:
        return None
    if table.num_rows != len(newlines) or table["schema"].null_count:
        return None
    schemas = table["schema"].to_numpy()
    return table if schemas.min() >= 1 and schemas.max() <= SCHEMA else None


def _is_text(block: bytes) -> bool:
    """Whether the bytes are UTF-8, which pyarrow takes on trust."""
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True
