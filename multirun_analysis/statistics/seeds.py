"""Figures that need several runs: energy shared between students, and means over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from kdwatts.metrics.quantity import Quantity, add, mean_of
from multirun_analysis.values.rows import Row, grouped, known


def over_seeds(runs: list[Row], column: str) -> dict[str, Quantity]:
    """Group to the mean of a column over its runs. Groups without values are left out."""
    groups = grouped(known(runs, column), "group")
    return {group: mean_of([run[column] for run in rows]) for group, rows in groups.items()}


def draws_words(rows: Sequence[Row]) -> tuple[str, str]:
    """The words for one and several runs of a setting. An imported repeat need not be a seed."""
    is_repeat = bool(rows) and all(row.get("repeat") and row.get("seed") is None for row in rows)
    return ("repeat", "repeats") if is_repeat else ("seed", "seeds")


def draws_of(students: Sequence[Row]) -> str:
    """What means over these students are over: seeds, repeats, or `seeds or repeats`."""
    several = [rows for rows in grouped(students, "group").values() if len(rows) > 1]
    found = {draws_words(rows)[1] for rows in several} or {"seeds"}
    return " or ".join(sorted(found, reverse=True))


def num_students(runs: list[Row]) -> dict[str, int]:
    """Key of each inherited artifact to the number of different students that share it."""
    students: dict[str, set[str]] = {}
    for run in known(runs, "student_key", "inherited_energy_by_artifact_j"):
        for artifact in energy_by_artifact_j(run):
            students.setdefault(artifact, set()).add(run["student_key"])
    return {artifact: len(keys) for artifact, keys in students.items()}


def amortised_energy_j(
    by_artifact_j: Mapping[str, float | None], sharers: Mapping[str, int]
) -> float | None:
    """Joules of one student: each artifact's energy over its sharers. None if one is unknown."""
    shares_j = []
    for artifact, energy_j in by_artifact_j.items():
        if energy_j is None:
            return None
        shares_j.append(energy_j / sharers[artifact])
    return math.fsum(shares_j)


def add_totals(runs: list[Row]) -> None:
    """Set inherited_amortised_energy_j, the two totals and total_energy_quality of each run.

    Totals are own plus inherited joules: total_energy_j, and total_amortised_energy_j with the
    student's share. A total over different qualities is `mixed`. A total over a missing part is
    missing.
    """
    sharers = num_students(runs)
    for run in runs:
        share_j = None
        if run["student_key"] is not None and run["inherited_energy_by_artifact_j"] is not None:
            share_j = amortised_energy_j(energy_by_artifact_j(run), sharers)
        amortised = _total(run, share_j)
        run["inherited_amortised_energy_j"] = share_j
        run["total_energy_j"] = _total(run, run["inherited_energy_j"]).value
        run["total_amortised_energy_j"] = amortised.value
        run["total_energy_quality"] = amortised.quality


def _total(run: Row, inherited_j: float | None) -> Quantity:
    terms = [(run["own_energy_j"], run["own_energy_quality"])]
    # Nothing inherited: the quality beside 0 J must not turn a measured sum into a mixed one.
    if inherited_j != 0:
        terms.append((inherited_j, run["inherited_energy_quality"]))
    return add(Quantity(j, unit="J", quality=quality or "missing") for j, quality in terms)


def energy_by_artifact_j(run: Row) -> dict[str, float | None]:
    """Joules of each ancestor, by key. The column holds JSON so that tables stay flat."""
    return json.loads(run["inherited_energy_by_artifact_j"] or "{}")


def top_windows(stages: list[Row]) -> list[Row]:
    """The windows directly below `run`, with their name as `stage`.

    Inner windows are parts of them.
    """
    top = [window for window in stages if window["window"].count("/") == 1]
    return [window | {"stage": window["window"].removeprefix("run/")} for window in top]


def stage_energies(runs: list[Row], stages: list[Row]) -> list[Row]:
    """Rows of run and stage: energy_j over all attempts, quality, and whether it was inherited.

    `inherited` means that another run built the artifact: its energy is the recorded one. A stage
    whose energy is unknown is absent, not 0.
    """
    windows = top_windows(stages)
    builders = {window["key"]: window for window in windows if window["outcome"] == "done"}
    by_run = {run["run"]: run for run in runs}
    rows = []
    for (name, stage), found in grouped(windows, lambda w: (w["run"], w["stage"])).items():
        if run := by_run.get(name):
            row = _stage_energy(run, stage, found, builders)
            rows.append(row | {"run": name, "label": run["label"], "stage": stage})
    return known(rows, "energy_j")


def _stage_energy(run: Row, stage: str, windows: list[Row], builders: dict[str, Row]) -> Row:
    reused = [window for window in windows if window["outcome"] == "reused"]
    built = [window for window in windows if window["outcome"] != "reused"]
    # A resumed run reuses what its own earlier attempt finished: that is no inheritance.
    if not reused or any(window["outcome"] == "done" for window in built):
        total = add(Quantity(w["energy_j"], unit="J", quality=w["energy_quality"]) for w in built)
        how, inherited = "built by this run", False
        return {
            "energy_j": total.value,
            "quality": total.quality,
            "inherited": inherited,
            "how": how,
        }
    key, by_artifact = reused[-1]["key"], energy_by_artifact_j(run)
    if stage == "distill":
        energy_j, quality = run["own_energy_j"], run["own_energy_quality"]
    elif key in by_artifact:
        energy_j, quality = by_artifact[key], run["inherited_energy_quality"]
    else:
        # Evaluations are nobody's ancestors: the run that did the work may be among these.
        builder = builders.get(key, {"energy_j": None, "energy_quality": "missing"})
        energy_j, quality = builder["energy_j"], builder["energy_quality"]
    how = "reused: the energy that building it once took, not divided"
    return {"energy_j": energy_j, "quality": quality, "inherited": True, "how": how}
