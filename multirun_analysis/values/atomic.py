"""Tables as files, each replaced as a whole: a reader sees the old one or the new, never a half."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PARTS = "telemetry.parquet"
"""A folder with a file per run, which pandas and pyarrow read as one table."""
_HIDDEN = "."
"""Begins a name that readers of such a folder pass over."""


CSV = ("runs", "stages")
"""Tables that are written for spreadsheets too."""


def write_files(tables: Mapping[str, pd.DataFrame], out_dir: Path) -> list[Path]:
    """Paths of NAME.parquet, and of NAME.csv for runs and stages.

    A missing number is null there and an empty cell here.
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
    """The table as CSV, each row ended by a line feed.

    A carriage return in an error's text would end a row too, for it is not quoted: it is a space.
    """
    return table.to_csv(index=False, lineterminator="\n").replace("\r", " ")


def file_paths(name: str, out_dir: Path) -> list[Path]:
    return [out_dir / f"{name}.{kind}" for kind in ("parquet", "csv")[: 1 + (name in CSV)]]


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """What `write` makes of a temporary path, in the place of `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def part_name(position: int, run: str) -> str:
    """File name of a run's part: names in order are runs in order."""
    return f"{position:06d}-{re.sub(r'[^A-Za-z0-9._-]+', '-', run)[:80]}.parquet"


def new_part_path(parts_dir: Path, position: int) -> Path:
    """Where the part of a run is written before it takes its place."""
    return parts_dir / f"{_HIDDEN}new-{position:06d}"


def settle_parts(parts_dir: Path, places: Mapping[str, Path]) -> None:
    """Give parts the names that `places` maps to where they are now; remove what is no part of it.

    A run that was added or has gone moves those behind it, so a name may still be another's: all
    that move step aside first.
    """
    moved = {name: path for name, path in places.items() if path.name != name}
    aside = {name: parts_dir / f"{_HIDDEN}to-{name}" for name in moved}
    for name, path in moved.items():
        path.rename(aside[name])
    for name, path in aside.items():
        path.replace(parts_dir / name)
    for path in list(parts_dir.iterdir()):
        if path.name not in places:
            path.unlink()


def remove_unsettled(parts_dir: Path) -> None:
    """Remove what a killed or refused collection left half done, tables beside included."""
    for path in (*parts_dir.glob(f"{_HIDDEN}*"), *parts_dir.parent.glob(f"{_HIDDEN}*.tmp")):
        path.unlink()
