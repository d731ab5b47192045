"""Names of runs for readers, and which runs are the same student or the same setting."""

from __future__ import annotations

from multirun_analysis.rows import Row, grouped, known

GROUPS = ("paradigm", "model", "data", "gpu")


def mark_duplicates(runs: list[Row]) -> None:
    """Sets `duplicate_of`: of finished runs of one student, later ones name the first."""
    finished = known([run for run in runs if run["finished"]], "student_key")
    for same in grouped(finished, lambda run: (run["student_key"], run["seed"])).values():
        first, *others = same
        for run in others:
            run["duplicate_of"] = first["run"]
            note = f"same student as {first['run']}, counted once"
            run["notes"] = f"{run['notes']}; {note}" if run["notes"] else note


def label_runs(runs: list[Row]) -> None:
    """Sets `label`, `group` (all but the seed) and `group_label`.

    Labels hold the paradigm, whatever else differs between the runs, and the seed.
    """
    settings = [set(run["setting"].split(", ") if run["setting"] else ()) for run in runs]
    common = set.intersection(*settings)
    varying = [key for key in GROUPS[1:] if len({run[key] for run in runs} - {None}) > 1]
    for run, own in zip(runs, settings, strict=True):
        parts = [run["paradigm"], *(run[key] for key in varying), *sorted(own - common)]
        words = [part for part in parts if part] or [run["run"]]
        seed = [] if run["seed"] is None else [f"seed {run['seed']}"]
        run["label"] = " · ".join(words + seed)
        run["group"] = " · ".join([*(str(run[key]) for key in GROUPS), *sorted(own)])
        run["group_label"] = " · ".join(words)
    # One group and seed with several students: something that the overrides do not show differs,
    # and averaging them would pass off a setting as chance.
    for same in grouped(runs, lambda run: (run["group"], run["seed"])).values():
        if len({run["student_key"] for run in same} - {None}) > 1:
            for run in same:
                for column in ("label", "group", "group_label"):
                    run[column] += f" · {str(run['student_key'])[:8]}"
    for same in grouped(runs, "label").values():
        for run in same if len(same) > 1 else ():
            run["label"] += f" · {run['run']}"
