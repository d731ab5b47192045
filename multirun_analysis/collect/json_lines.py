"""Whole lines of JSON as a table, at pyarrow's speed; None where only reading by line can tell."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from kdwatts.records.schema import SCHEMA

_NEWLINE, _OPEN = b"\n{"


def fast_table(block: bytes, options: arrow_json.ParseOptions) -> pa.Table | None:
    """The records of a block of whole lines, all of a known schema, with the column `schema`.

    None for anything that is not a record a line, or that the options' types do not hold: json and
    the records' own check say better what is wrong, and where.
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
