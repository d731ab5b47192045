"""Joules per token served: the figure of an architecture, pooled over the runs that measured it."""

from __future__ import annotations

from kdwatts.metrics.quantity import Quantity
from multirun_analysis.values.rows import Row, grouped

UNIT = "J/token"

KEYS = ("student_served_key", "teacher_served_key")
"""Columns of what serves alike."""


def by_machine(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """The seeds of a setting by what they were served as, with words for the label.

    Seeds served on two machines have two figures, and no mean in common. A seed that was never
    served has the figure of the others, where there is one alone.
    """
    if all(len({run.get(key) for run in rows} - {None}) < 2 for key in KEYS):
        return [("", rows)]
    parts = grouped(rows, lambda run: tuple(run.get(key) for key in KEYS))
    never = parts.pop((None,) * len(KEYS), [])
    found = [(f" · machine {i}", part) for i, part in enumerate(parts.values(), start=1)]
    return [*found, *([(" · not served", never)] if never else [])]


def served(run: Row, subject: str) -> Quantity:
    """What a token costs `student` or `teacher` of a run; without a value where nothing was served.

    The collector sets the columns; a single measurement without any other has no random error.
    """
    value = run.get(f"{subject}_served_j_per_token")
    if value is None:
        return Quantity(None, unit=UNIT, quality="missing")
    return Quantity(
        value,
        run.get(f"{subject}_served_random_sd_j"),
        run.get(f"{subject}_served_shared_sd_j"),
        UNIT,
        run.get("inference_energy_quality") or "missing",
        run.get(f"{subject}_served_degrees") or float("inf"),
    )
