"""Names of runs for readers, and which runs are the same student or the same setting."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from multirun_analysis.collect.run_folder import CHOICES, NO_SETTING
from multirun_analysis.importer.repeats import without_seed
from multirun_analysis.values.rows import Row, grouped, known
from multirun_analysis.values.yaml_files import composed

GROUPS = (*CHOICES, "power_limit_w")
"""What runs of one setting have in common, besides their overrides."""

MAX_DIFFERENCES = 3
"""Settings that a label can hold; runs that differ in more are told by their folders."""

MAX_LOOKED_UP = 100
"""Runs whose configurations are read for an option that they did not override."""


def mark_duplicates(runs: list[Row]) -> None:
    """Set `duplicate_of`: of finished runs of one student, later ones name the first.

    Runs are of one student when key and seed are equal. The first is the one whose folder comes
    first in counting order. It alone is in figures and means, and the others say so in their notes.
    Which one counts changes no energy: the artifact states what building the student cost, for all
    of them. Attempts of one run are in its one folder and are no duplicates.
    """
    finished = known([run for run in runs if run["finished"]], "student_key")
    for same in grouped(finished, lambda run: (run["student_key"], run["seed"])).values():
        first, *others = same
        for run in others:
            run["duplicate_of"] = first["run"]
            note = f"same student as {first['run']}, counted once"
            run["notes"] = f"{run['notes']}; {note}" if run["notes"] else note


def label_runs(runs: list[Row]) -> None:
    """Set `label`, `group` (all but seed and repeat), `group_label` and `options`.

    Labels of our runs hold the paradigm, whatever else differs between finished runs, and the seed.
    An imported run has its folder's name. A setting of imported runs has their folders' name
    without what tells repeats apart. Neither is ever in a group with runs of ours. `options` has
    what varies between finished runs beside paradigm and seed, by its short name.
    """
    settings: list[set[str]] = [
        set(run["setting"].split(", ") if run["setting"] else ()) for run in runs
    ]
    done = [i for i, run in enumerate(runs) if run["finished"]] or range(len(runs))
    # What an imported run was asked is unknown, so it says nothing about what is common.
    asked = [i for i in done if not runs[i]["origin"]] or done
    common = set.intersection(*(settings[i] for i in asked))
    varying = [key for key in GROUPS[1:] if len({runs[i][key] for i in done} - {None}) > 1]
    short = _short_names(set.union(*settings))
    for run, own in zip(runs, settings, strict=True):
        seed = [] if run["seed"] is None else [f"seed {run['seed']}"]
        words = [run["paradigm"] or run["run"]]
        method = ""
        if run["origin"]:
            method = _method(run)
            words, seed = [method, "imported"], []
        words += [word for key in varying if (word := _word(run, key))]
        words += [_short(setting, short) for setting in sorted(own - common)]
        groups = [*(str(run[key]) for key in GROUPS), method and f"imported {method}", *sorted(own)]
        run["group"] = " · ".join(groups)
        run["group_label"] = " · ".join(words)
        named = [_folder(run), *words[1:]] if run["origin"] else words
        run["label"] = " · ".join(named + seed)
    for same in grouped(runs, "group").values():
        _tell_students_apart(same)
    for same in grouped([run for run in runs if run["finished"]], "label").values():
        for run in same[1:]:
            run["label"] += f" · {run['run']}"
    _set_options(runs, [settings[i] - common for i in asked], varying, short)


def run_name(run: Row) -> str:
    """The name of a run in lists: its folder, and for an imported run the folders above it too."""
    imported_as = run.get("imported_as") or ""
    return imported_as if imported_as and not run["run"].endswith(imported_as) else run["run"]


def _folder(run: Row) -> str:
    """What an imported run's folder is called below the folder that it was imported from."""
    return run.get("imported_as") or run["run"]


def _method(run: Row) -> str:
    """The name of an imported run's setting; older records have none, and were told by seed."""
    return run.get("setting_name") or without_seed(_folder(run))


def _tell_students_apart(same: list[Row]) -> None:
    """Splits runs of one group in which one seed, or one repeat, has several students.

    Something that the overrides do not show differs, and averaging them would pass off a setting
    as chance. The configurations say what, else the runs' folders.
    """
    draws = grouped(known(same, "student_key"), lambda run: (run["seed"], run.get("repeat")))
    several = [rows for rows in draws.values() if len({run["student_key"] for run in rows}) > 1]
    if not several:
        return
    words = _folders_above(same) if same[0]["origin"] else _differences(same)
    if any(_is_mixed(rows, words) for rows in several):
        words = {}
        firsts: dict[str, str] = {}
        for run in [run for rows in several for run in rows]:
            # A student that several runs hold stays one.
            words[run["run"]] = firsts.setdefault(run["student_key"], run["run"])
    for run in same:
        if word := words.get(run["run"]):
            _add_word(run, word)


def _is_mixed(rows: list[Row], words: dict[str, str]) -> bool:
    """Whether one word stands for several students, or several for one."""
    told = {(run["student_key"], words.get(run["run"])) for run in rows}
    students, found = ({pair[i] for pair in told} for i in (0, 1))
    return not len(told) == len(students) == len(found - {None, ""})


def _add_word(run: Row, word: str) -> None:
    """Adds to a run's group and labels what tells its students apart."""
    run["group"] += f" · {word}"
    if not run["origin"]:
        run["group_label"] += f" · {word}"
        seed = "" if run["seed"] is None else f" · seed {run['seed']}"
        run["label"] = run["group_label"] + seed
    elif word.endswith("/"):
        run["group_label"], run["label"] = word + run["group_label"], word + run["label"]
    else:
        _, *rest = run["group_label"].split(" · ")
        run["label"] = run["group_label"] = " · ".join([word, *rest])


def _folders_above(same: list[Row]) -> dict[str, str]:
    """Of each run the folders that several imports into folders of their own differ by."""
    return {run["run"]: run["run"].removesuffix(_folder(run)) for run in same}


def _differences(same: list[Row]) -> dict[str, str]:
    """What differs between the configurations of runs; nothing where that is too much to say."""
    found = {run["run"]: composed(Path(run["folder"])) for run in same}
    configs = {run: config for run, config in found.items() if config}
    keys = sorted({key for config in configs.values() for key in config})
    differing = [
        key
        for key in keys
        if not NO_SETTING.match(f"{key}=")
        and len({_value(config.get(key)) for config in configs.values()}) > 1
    ]
    if not 0 < len(differing) <= MAX_DIFFERENCES:
        return {}
    names = _short_names({f"{key}=" for key in differing})
    return {
        run: " · ".join(f"{names[key]}={_value(config.get(key))}" for key in differing)
        for run, config in configs.items()
    }


def _value(value: Any) -> str:
    """A value of a configuration as an override spells it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _set_options(
    runs: list[Row], own: list[set[str]], varying: list[str], short: dict[str, str]
) -> None:
    """Sets `options`: JSON of each option that varies between runs to its value in this one."""
    keys = sorted({setting.partition("=")[0] for settings in own for setting in settings})
    told = [dict(_pair(text) for text in (run["setting"] or "").split(", ")) for run in runs]
    silent = [run["run"] for run, asked in zip(runs, told, strict=True)
              if not run["origin"] and not asked.keys() >= set(keys)]  # fmt: skip
    for run, asked in zip(runs, told, strict=True):
        options = {key: word for key in varying if (word := _word(run, key))}
        if run["run"] in silent[:MAX_LOOKED_UP]:
            # What it did not override has the value of its configuration.
            config = composed(Path(run["folder"]))
            found = {key: config.get(key, config.get(f"{key}.name")) for key in keys}
            asked = {k: _value(v) for k, v in found.items() if v is not None} | asked
        options |= {short[key]: asked[key] for key in keys if key in asked}
        run["options"] = json.dumps(options) if options else None


def _pair(setting: str) -> tuple[str, str]:
    key, _, value = setting.partition("=")
    return key, value


def _word(run: Row, key: str) -> str | None:
    """What a label says of one of GROUPS."""
    value = run[key]
    return f"{value:g} W" if key == "power_limit_w" and value is not None else value


def _short(setting: str, names: dict[str, str]) -> str:
    key, equals, value = setting.partition("=")
    return f"{names[key]}{equals}{value}"


def _short_names(settings: set[str]) -> dict[str, str]:
    """Keys of overrides by their last part, where no other key ends alike."""
    keys = {setting.partition("=")[0] for setting in settings}
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}
