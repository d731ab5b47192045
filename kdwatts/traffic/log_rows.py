"""Rows of a log's file, plain or gzipped, and the values in them, checked where they enter.

An error names the file and the line, and what kind of value it has. It never quotes the value,
which may be what a user wrote.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GZIP_MAGIC = b"\x1f\x8b"

MOST_TOKENS = 10**7
"""In one count. A row with more counts something else, and its prompt would not fit the memory."""


class BadRow(Exception):
    """What is wrong with a row, and what to do, in words without its line."""


@contextmanager
def opened(path: Path) -> Iterator[io.TextIOBase]:
    """The text of a log, UTF-8 with or without a byte order mark, gzipped or not.

    Raises ValueError, in one sentence, for a file that is not there or cannot be read.
    """
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == GZIP_MAGIC
        with (
            gzip.open(path) if is_packed else path.open("rb") as whole,
            io.TextIOWrapper(whole, encoding="utf-8-sig", newline="") as text,
        ):
            yield text
    except FileNotFoundError:
        raise ValueError(f"the log {path} does not exist; give the file of a log") from None
    except UnicodeDecodeError:
        raise ValueError(f"the log {path} is no text in UTF-8; save it as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ValueError(f"the log {path} is no whole gzip file; copy it again") from None
    except OSError as error:
        why = str(error.strerror or error).lower()
        raise ValueError(f"the log {path} cannot be read ({why}); give the file of a log") from None


def json_rows(text: io.TextIOBase, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line. Empty lines are passed over.

    Raises ValueError for a line that is no JSON object, and for half a character in its text.
    """
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if "\\u" in line and not _is_text(row):
            wrong = "has half of a character, as \\ud83d alone is; repair or delete it"
            raise ValueError(at(path, number, wrong))
        if not isinstance(row, dict):
            raise ValueError(at(path, number, "is no JSON object; write one for each request"))
        yield number, row


def _is_text(row: Any) -> bool:
    """Whether every text of a row can be sent. JSON's \\u can write what no encoding holds."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def csv_rows(
    text: io.TextIOBase, path: Path, columns: Sequence[str], needed: Sequence[str]
) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells, in the order of `columns`, of each row below the header.

    Columns are found by name, whatever their order and case. A repeated header, as in files that
    were joined, is passed over, and so are empty lines. Cells of a column that the header lacks are
    empty.

    Raises ValueError for a header that lacks a needed column or names one twice, and for a row of
    another length than the header's.
    """
    rows = csv.reader(text)
    try:
        header = next((row for row in rows if row), [])
        names = header_names(header)
        lacking = next((name for name in needed if name.lower() not in names), None)
        if lacking:
            wrong = f"is the header, and has no column {lacking!r}; give the log's own format"
            raise ValueError(at(path, rows.line_num, wrong))
        twice = next((name for name in columns if names.count(name.lower()) > 1), None)
        if twice:
            raise ValueError(at(path, rows.line_num, f"has two columns {twice!r}; keep one"))
        places = [names.index(one.lower()) if one.lower() in names else None for one in columns]
        for row in rows:
            if not row or row == header:
                continue
            if len(row) != len(header):
                wrong = f"has {len(row)} cells where the header has {len(header)}"
                raise ValueError(at(path, rows.line_num, f"{wrong}; repair or delete it"))
            cells = ["" if place is None else row[place].strip() for place in places]
            yield rows.line_num, cells
    except csv.Error:
        wrong = "is no line of CSV; repair or delete it"
        raise ValueError(at(path, rows.line_num, wrong)) from None


def header_names(cells: Sequence[str]) -> list[str]:
    """Names of columns as they are compared."""
    return [cell.strip().lower() for cell in cells]


def at(path: Path, line: int, words: str) -> str:
    """A sentence about one line of a log."""
    return f"{path}, line {line}: the row {words}"


def number_in(cell: Any, name: str) -> float:
    """A finite number of a CSV cell or a JSON value. Raises BadRow."""
    if isinstance(cell, str) or type(cell) in (int, float):
        try:
            value = float(cell)
        except (ValueError, OverflowError):
            value = math.nan
        if math.isfinite(value):
            return value
    raise BadRow(f"has no number in {name!r}; repair or delete it")


def tokens_in(cell: Any, name: str) -> int:
    """A count of tokens, a whole number from 0 to MOST_TOKENS. Raises BadRow."""
    value = number_in(cell, name)
    if value < 0 or value != int(value):
        raise BadRow(f"has no whole number of tokens from 0 in {name!r}; repair or delete it")
    if value > MOST_TOKENS:
        raise BadRow(f"has more than {MOST_TOKENS:,} tokens in {name!r}; repair or delete it")
    return int(value)
