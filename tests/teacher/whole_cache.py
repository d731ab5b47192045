"""A whole cache of a teacher's signals, for tests that read one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdwatts.teacher.cache_parts import SignalsOf, finish, write_parts
from kdwatts.teacher.cache_record import Form


def write_cache(
    out_dir: Path,
    rows: NDArray[np.int64],
    form: Form,
    signals_of: SignalsOf,
    *,
    sources: dict[str, str] | None = None,
) -> None:
    """A whole cache in `out_dir`, made by this process alone."""
    parts_dir = out_dir / "parts"
    write_parts(parts_dir, rows, form, signals_of)
    finish(parts_dir, out_dir, rows, form, sources=sources or {})
    parts_dir.rmdir()
