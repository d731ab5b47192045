"""The joules per token served of each run: set from the pools of what serves alike, and read."""

from __future__ import annotations

from collections.abc import Iterable

from kdwatts.metrics.efficiency import eff_overall, product
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import Quantity, ratio
from multirun_analysis.statistics.pooled_serving import SUBJECTS, UNIT, serving_pools
from multirun_analysis.values.rows import Row, grouped

SERVED = {
    "j_per_token": "float64",
    "random_sd_j": "float64",
    "shared_sd_j": "float64",
    "degrees": "float64",
    "measurements": "Int64",
    "key": "str",
}
"""What the collector sets of each subject, as columns `student_served_...`, and their types."""
KEYS = ("student_served_key", "teacher_served_key")
"""Columns of what serves alike."""


def pool_served(runs: list[Row], inference: Iterable[Row]) -> None:
    """Set the serving columns of both subjects, and `eff_overall` with its 95 % interval.

    `eff_overall_low` and `eff_overall_high` join the interval of OM_perf over the benchmarks'
    samples with Fieller's of teacher over student joules: see `kdwatts.metrics.efficiency`. The
    Eff_overall of an imported run stays as its import found it.
    """
    by_name = {run["run"]: run for run in runs}
    for run in runs:
        run |= {f"{subject}_served_{name}": None for subject in SUBJECTS for name in SERVED}
        run |= {"eff_overall_low": None, "eff_overall_high": None}
    for each in serving_pools(runs, inference):
        figure = each.figure()
        known = {
            "j_per_token": figure.value,
            "random_sd_j": figure.random_sd,
            "shared_sd_j": figure.shared_sd,
            "degrees": None if figure.random_sd is None else figure.degrees,
            "measurements": len(each.measurements),
            "key": each.key,
        }
        for name, subject in each.takers:
            run = by_name[name]
            run |= {f"{subject}_served_{column}": value for column, value in known.items()}
            if run["inference_energy_quality"] in (None, "missing"):
                # It measured neither model: its joules are obtained as the others' were.
                run["inference_energy_quality"] = each.quality
    for run in runs:
        if run["finished"] and not run.get("origin"):
            _set_eff_overall(run)


def _set_eff_overall(run: Row) -> None:
    teacher, student = served(run, "teacher"), served(run, "student")
    run["eff_overall"] = eff_overall(run["om_perf"], teacher.value, student.value)
    kept = Interval(run["om_perf"], run.get("om_perf_low"), run.get("om_perf_high"))
    found = product(kept, ratio(teacher, student))
    run["eff_overall_low"], run["eff_overall_high"] = found.low, found.high


def by_machine(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """The seeds of a setting by what they were served as, with words for the label.

    Seeds served on two machines have two figures, and no common mean. A seed that was never served
    gets the figure of the others, if there is only one.
    """
    if all(len({run.get(key) for run in rows} - {None}) < 2 for key in KEYS):
        return [("", rows)]
    parts = grouped(rows, lambda run: tuple(run.get(key) for key in KEYS))
    never = parts.pop((None,) * len(KEYS), [])
    found = [(f" · machine {i}", part) for i, part in enumerate(parts.values(), start=1)]
    return [*found, *([(" · not served", never)] if never else [])]


def served(run: Row, subject: str) -> Quantity:
    """J/token of serving with `student` or `teacher` of a run. No value where nothing was served.

    The collector sets the columns. A single measurement without any other has no random error.
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
