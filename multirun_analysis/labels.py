"""Names of runs for readers, and which runs are the same student or the same setting."""

from __future__ import annotations

from collections import Counter

from multirun_analysis.reading.folder import CHOICES
from multirun_analysis.rows import Row, grouped, known

GROUPS = (*CHOICES, "power_limit_w")
"""What runs of one setting have in common, besides their overrides."""


def mark_duplicates(runs: list[Row]) -> None:
    """Sets `duplicate_of`: of finished runs of one student, later ones name the first.

    Runs are of one student when key and seed are equal; the first is that of the folder that comes
    first in counting order. It alone is in figures and means; the others say so in their notes.
    Which one counts changes no energy: what building a student cost is told by its artifact, alike
    in all of them. Attempts of one run are in its one folder, and are no duplicates.
    """
    finished = known([run for run in runs if run["finished"]], "student_key")
    for same in grouped(finished, lambda run: (run["student_key"], run["seed"])).values():
        first, *others = same
        for run in others:
            run["duplicate_of"] = first["run"]
            note = f"same student as {first['run']}, counted once"
            run["notes"] = f"{run['notes']}; {note}" if run["notes"] else note


def label_runs(runs: list[Row]) -> None:
    """Sets `label`, `group` (all but the seed) and `group_label`.

    Labels hold the paradigm, whether the run was imported, whatever else differs between finished
    runs, and the seed. An imported run is never in a group with runs of ours.
    """
    settings = [set(run["setting"].split(", ") if run["setting"] else ()) for run in runs]
    done = [i for i, run in enumerate(runs) if run["finished"]] or range(len(runs))
    # What an imported run was asked is unknown, so it says nothing about what is common.
    asked = [i for i in done if not runs[i]["origin"]] or done
    common = set.intersection(*(settings[i] for i in asked))
    varying = [key for key in GROUPS[1:] if len({runs[i][key] for i in done} - {None}) > 1]
    short = _short_names(set.union(*settings))
    for run, own in zip(runs, settings, strict=True):
        imported = "imported" if run["origin"] else None
        parts = [run["paradigm"], imported, *(_word(run, key) for key in varying)]
        parts += [short[setting] for setting in sorted(own - common)]
        words = [part for part in parts if part]
        if not run["paradigm"]:
            words.insert(0, run["run"])
        seed = [] if run["seed"] is None else [f"seed {run['seed']}"]
        run["label"] = " · ".join(words + seed)
        groups = [*(str(run[key]) for key in GROUPS), imported or "", *sorted(own)]
        run["group"] = " · ".join(groups)
        run["group_label"] = " · ".join(words)
    # One group and seed with several students: something that the overrides do not show differs,
    # and averaging them would pass off a setting as chance.
    for same in grouped(runs, lambda run: (run["group"], run["seed"])).values():
        if len({run["student_key"] for run in same} - {None}) > 1:
            for run in same:
                for column in ("label", "group", "group_label"):
                    run[column] += f" · {str(run['student_key'])[:8]}"
    for same in grouped([run for run in runs if run["finished"]], "label").values():
        for run in same[1:]:
            run["label"] += f" · {run['run']}"


def _word(run: Row, key: str) -> str | None:
    """What a label says of one of GROUPS."""
    value = run[key]
    return f"{value:g} W" if key == "power_limit_w" and value is not None else value


def _short_names(settings: set[str]) -> dict[str, str]:
    """Overrides by the last part of their key, where no other key ends alike."""
    keys = {setting.partition("=")[0] for setting in settings}
    ends = Counter(key.rpartition(".")[2] for key in keys)
    short = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        end = key.rpartition(".")[2]
        short[setting] = f"{end if ends[end] == 1 else key}={value}"
    return short
