"""Joules per token served: the figure of an architecture, pooled over the runs that measured it."""

from __future__ import annotations

from kdwatts.metrics.quantity import Quantity
from multirun_analysis.rows import Row

UNIT = "J/token"


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
