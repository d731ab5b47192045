"""Figures that need several runs: energy shared between students, and means over seeds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kdwatts.metrics import Energy, add_energies

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistics table); beyond 30
# the last one is used, which is wider than exact by at most 4 %.
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

_STAGE_COLUMNS = ["run", "label", "stage", "energy_j", "quality", "inherited", "how"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval, in the unit of the values."""

    mean: float
    half_width: float | None
    """None for a single value: one seed says nothing about other seeds."""
    num_values: int

    @property
    def low(self) -> float:
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half_width or 0.0)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval by Student's t, values taken as independent draws.

    Raises ValueError for no values.
    """
    num_values = len(values)
    if not num_values:
        raise ValueError("mean_interval: 0 values given; give at least one")
    mean = math.fsum(values) / num_values
    if num_values == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (num_values - 1)
    t_975 = _T_975[min(num_values - 1, len(_T_975)) - 1]
    return Interval(mean, t_975 * math.sqrt(variance / num_values), num_values)


def over_seeds(runs: pd.DataFrame, column: str) -> dict[str, Interval]:
    """Group to mean and 95 % interval of a column over the group's runs; groups without it are out."""
    known = runs[runs[column].notna()]
    return {
        str(group): mean_interval([float(value) for value in values])
        for group, values in known.groupby("group", sort=False)[column]
    }


def num_students(runs: pd.DataFrame) -> dict[str, int]:
    """Key of each inherited artifact to the number of distinct students that share it."""
    students: dict[str, set[str]] = defaultdict(set)
    for student_key, by_artifact in zip(runs["student_key"], _by_artifact(runs), strict=True):
        if isinstance(student_key, str):
            for artifact in by_artifact or ():
                students[artifact].add(student_key)
    return {artifact: len(keys) for artifact, keys in students.items()}


def amortised_energy_j(
    by_artifact_j: Mapping[str, float | None], sharers: Mapping[str, int]
) -> float | None:
    """A student's share in joules: each artifact's energy over its sharers; None if one is unknown."""
    shares = []
    for artifact, energy_j in by_artifact_j.items():
        if energy_j is None:
            return None
        shares.append(energy_j / sharers[artifact])
    return math.fsum(shares)


def add_totals(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with inherited_amortised_energy_j, total_energy_j, total_amortised_energy_j and
    total_energy_quality.

    Totals are own plus inherited. A total over different qualities is `mixed`; one over a missing
    part is missing.
    """
    sharers = num_students(runs)
    added: dict[str, list] = {
        "inherited_amortised_energy_j": [],
        "total_energy_j": [],
        "total_amortised_energy_j": [],
        "total_energy_quality": [],
    }
    for (_, run), by_artifact in zip(runs.iterrows(), _by_artifact(runs), strict=True):
        has_student = isinstance(run["student_key"], str) and by_artifact is not None
        share_j = amortised_energy_j(by_artifact, sharers) if has_student else None
        own = _energy(run["own_energy_j"], run["own_energy_quality"])
        total = add_energies([own, *_inherited(run["inherited_energy_j"], run)])
        amortised = add_energies([own, *_inherited(share_j, run)])
        added["inherited_amortised_energy_j"].append(share_j)
        added["total_energy_j"].append(total.energy_j)
        added["total_amortised_energy_j"].append(amortised.energy_j)
        added["total_energy_quality"].append(amortised.quality)
    energies = {key: pd.Series(values, runs.index) for key, values in added.items()}
    for key in energies:
        if key.endswith("_j"):
            energies[key] = energies[key].astype("float64")
    return runs.assign(**energies)


def _energy(energy_j: float | None, quality: object) -> Energy:
    if energy_j is None or pd.isna(energy_j):
        return Energy(None, None, "missing")
    return Energy(float(energy_j), None, str(quality))


def _inherited(energy_j: float | None, run: pd.Series) -> list[Energy]:
    # Nothing inherited: a quality beside 0 J must not turn a measured sum into a mixed one.
    return [] if energy_j == 0 else [_energy(energy_j, run["inherited_energy_quality"])]


def _by_artifact(runs: pd.DataFrame) -> list[dict[str, float | None] | None]:
    """Per run, the energy of each ancestor; the column holds JSON so that tables stay flat."""
    column = runs["inherited_energy_by_artifact_j"]
    return [json.loads(text) if isinstance(text, str) else None for text in column]


def top_windows(stages: pd.DataFrame) -> pd.DataFrame:
    """The windows right below `run`, with `stage`, their last name; inner ones are parts of them."""
    if stages.empty:
        return pd.DataFrame(columns=[*_STAGE_COLUMNS, *stages.columns.drop("run")])
    stages = stages[stages["window"].str.count("/") == 1]
    return stages.assign(stage=stages["window"].str.removeprefix("run/"))


def stage_energies(runs: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """Per run and stage: energy_j over all attempts, quality, inherited and, in words, how.

    `inherited` means that another run built the artifact: its energy is the recorded one. A stage
    whose energy is unknown is absent, not 0.
    """
    rows = []
    windows = top_windows(stages)
    for (_, run), by_artifact in zip(runs.iterrows(), _by_artifact(runs), strict=True):
        for stage, found in windows[windows["run"] == run["run"]].groupby("stage", sort=False):
            reused = found[found["outcome"] == "reused"]
            # A resumed run reuses what its own earlier attempt finished: that is no inheritance.
            inherited = len(reused) > 0 and "done" not in set(found["outcome"])
            if not inherited:
                built = found[found["outcome"] != "reused"]
                energy_j = built["energy_j"].sum(skipna=False)
                quality, how = "/".join(sorted(set(built["energy_quality"]))), "built by this run"
            elif stage == "distill":
                energy_j, quality = run["own_energy_j"], run["own_energy_quality"]
                how = "reused: recorded when it was built"
            else:
                energy_j = (by_artifact or {}).get(reused["key"].iloc[-1])
                quality = run["inherited_energy_quality"]
                how = "reused: recorded when it was built, not divided among its sharers"
            if energy_j is not None and not pd.isna(energy_j):
                row = (run["run"], run["label"], stage, energy_j, quality, inherited, how)
                rows.append(dict(zip(_STAGE_COLUMNS, row, strict=True)))
    return pd.DataFrame(rows, columns=_STAGE_COLUMNS).astype({"energy_j": "float64"})
