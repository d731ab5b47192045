"""telemetry.parquet: a folder with a file for each run that has ticks, in the order of the runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

PARTS = "telemetry.parquet"
"""A folder with a file per run, which pandas and pyarrow read as one table."""
_HIDDEN = "."
"""Begins a name that readers of such a folder pass over."""


def part_name(position: int, run: str) -> str:
    """File name of a run's part. In the order of names, runs are in order."""
    return f"{position:06d}-{re.sub(r'[^A-Za-z0-9._-]+', '-', run)[:80]}.parquet"


def new_part_path(parts_dir: Path, position: int) -> Path:
    """Where the part of a run is written before it takes its place."""
    return parts_dir / f"{_HIDDEN}new-{position:06d}"


def settle_parts(parts_dir: Path, places: Mapping[str, Path]) -> None:
    """Rename parts to the names in `places`, from the paths there. Remove what is no part of it.

    A run that was added or has gone moves those behind it, so a name may still belong to another
    run. So all parts that move step aside first.
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
    """Remove what a killed or refused collection left half done, also beside the tables."""
    for path in (*parts_dir.glob(f"{_HIDDEN}*"), *parts_dir.parent.glob(f"{_HIDDEN}*.tmp")):
        path.unlink()
