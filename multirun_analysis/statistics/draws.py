"""What several runs of one setting are called: seeds, or repeats where no seed is known."""

from __future__ import annotations

from collections.abc import Sequence

from multirun_analysis.values.rows import Row, grouped


def draws_words(rows: Sequence[Row]) -> tuple[str, str]:
    """One and several runs of a setting: an imported repeat need not be a seed."""
    is_repeat = bool(rows) and all(row.get("repeat") and row.get("seed") is None for row in rows)
    return ("repeat", "repeats") if is_repeat else ("seed", "seeds")


def draws_of(students: Sequence[Row]) -> str:
    """What means over these students are over: seeds, repeats, or `seeds or repeats`."""
    several = [rows for rows in grouped(students, "group").values() if len(rows) > 1]
    found = {draws_words(rows)[1] for rows in several} or {"seeds"}
    return " or ".join(sorted(found, reverse=True))
