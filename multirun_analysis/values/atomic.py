"""Tables as files, each replaced as a whole: a reader sees the old one or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

CSV = ("runs", "stages", "serving")
"""Tables that are written for spreadsheets too."""


def write_files(tables: Mapping[str, pd.DataFrame], out_dir: Path) -> list[Path]:
    """The paths of NAME.parquet, and of NAME.csv for those of CSV, which are written here.

    A missing number is null in the former and an empty cell in the latter.
    """
    paths = []
    for name, table in tables.items():
        for path in file_paths(name, out_dir):
            if path.suffix == ".parquet":
                write = partial(table.to_parquet, index=False)
            else:
                write = partial(Path.write_text, data=csv_text(table), encoding="utf-8")
            replace_whole(path, write)
            paths.append(path)
    return paths


def csv_text(table: pd.DataFrame) -> str:
    """The table as CSV. Each row ends with a line feed.

    A carriage return in an error's text would end a row too, since it is not quoted. It becomes a
    space.
    """
    return table.to_csv(index=False, lineterminator="\n").replace("\r", " ")


def file_paths(name: str, out_dir: Path) -> list[Path]:
    """The paths that `write_files` writes for this table."""
    return [out_dir / f"{name}.{kind}" for kind in ("parquet", "csv")[: 1 + (name in CSV)]]


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Replace `path` by what `write` makes of a temporary path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
