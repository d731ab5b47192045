"""Names of runs for readers, and which runs are the same student or the same setting."""

from __future__ import annotations

import pandas as pd

GROUPS = ("paradigm", "model", "data", "gpu")


def distinct_students(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs, one for each student."""
    return runs[runs["finished"] & runs["duplicate_of"].isna()]


def mark_duplicates(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `duplicate_of`: of finished runs that hold one student, later name the first."""
    runs = runs.assign(duplicate_of=pd.Series(index=runs.index, dtype=object))
    finished = runs[runs["finished"] & runs["student_key"].notna()]
    for _, same in finished.groupby(["student_key", "seed"], dropna=False):
        first, *others = same.index
        for index in others:
            name = runs.at[first, "run"]
            notes = [runs.at[index, "notes"], f"same student as {name}, counted once"]
            runs.at[index, "duplicate_of"] = name
            runs.at[index, "notes"] = "; ".join(note for note in notes if isinstance(note, str))
    return runs


def label_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `label`, `group` (all but the seed) and `group_label`.

    Labels hold the paradigm, whatever else differs between the runs, and the seed.
    """
    settings = [
        set(text.split(", ")) if isinstance(text, str) else set() for text in runs["setting"]
    ]
    common = set.intersection(*settings)
    varying = [key for key in GROUPS[1:] if runs[key].nunique() > 1]
    names: dict[str, list[str]] = {"label": [], "group": [], "group_label": []}
    for own, (_, run) in zip(settings, runs.iterrows(), strict=True):
        parts = [run["paradigm"], *(run[key] for key in varying), *sorted(own - common)]
        words = [str(part) for part in parts if isinstance(part, str)] or [str(run["run"])]
        seed = [] if pd.isna(run["seed"]) else [f"seed {run['seed']}"]
        names["label"].append(" · ".join(words + seed))
        names["group"].append(" · ".join([*(str(run[key]) for key in GROUPS), *sorted(own)]))
        names["group_label"].append(" · ".join(words))
    runs = runs.assign(**names)
    # One group and seed with several students: something that the overrides do not show differs,
    # and averaging them would pass off a setting as chance.
    students = runs.groupby(["group", "seed"], dropna=False)["student_key"].transform("nunique")
    for index in runs.index[students > 1]:
        for column in names:
            runs.at[index, column] += f" · {str(runs.at[index, 'student_key'])[:8]}"
    alike = runs["label"].duplicated(keep=False)
    runs.loc[alike, "label"] += " · " + runs.loc[alike, "run"]
    return runs
