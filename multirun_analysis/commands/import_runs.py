"""`python -m multirun_analysis import DIR --out DIR2`: foreign records become run folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from kdwatts.runtime.paths import argument_path
from multirun_analysis.importer.imported_run import import_run
from multirun_analysis.importer.repeats import Repeat, repeat_of, repeats_by_pattern
from multirun_analysis.importer.search import FILES, Search, find_foreign_runs
from multirun_analysis.importer.summary import Model, read_model
from multirun_analysis.values import units
from multirun_analysis.values.notices import notice_line, notices_of

DEFAULT_TEACHER = "teacher"


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 where a folder has nothing to import, 2 where a run was refused.

    Each such folder is named on stderr.
    """
    options = parser().parse_args(arguments)
    try:
        found = find_foreign_runs(options.directory, options.out)
        teachers = _teachers(options.directory, options.teacher, found)
        if not found.runs:
            told = "; ".join(f"{path}: {words}" for path, words in found.left_out[:1])
            raise ValueError(
                f"{options.directory} holds no run: neither it nor a folder below it has {FILES}, "
                f"apart from the teacher's; {told or 'give the folder that holds the runs'}"
            )
        repeats = {name: repeat_of(name) for name in found.runs}
        if options.repeat_pattern is not None:
            repeats = repeats_by_pattern(found.runs, options.repeat_pattern)
    except (ValueError, OSError) as error:
        print(f"multirun_analysis import: {error}", file=sys.stderr)
        return 2
    refused = _import(found.runs, options.out, teachers, repeats)
    for notice in notices_of([*found.left_out, *found.notes, *refused], what="folders"):
        print(f"multirun_analysis import: {notice_line(notice)}", file=sys.stderr)
    return 2 if refused else int(bool(found.left_out))


def parser() -> argparse.ArgumentParser:
    """Of the options of `import`."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis import",
        description="Turns records of another program into run folders that are analysed like "
        "those of kdwatts. A run needs telemetry.jsonl and, for its scores, eval.json.",
    )
    parser.add_argument(
        "directory",
        type=argument_path,
        metavar="DIR",
        help="folder that holds a folder for each run, at any depth",
    )
    parser.add_argument(
        "--out",
        type=argument_path,
        metavar="DIR",
        required=True,
        help="where the new run folders go",
    )
    parser.add_argument(
        "--teacher",
        type=argument_path,
        metavar="NAME",
        help="folder in DIR with the results of the teacher of all runs (default: the folder "
        f"{DEFAULT_TEACHER} nearest to each run)",
    )
    parser.add_argument(
        "--repeat-pattern",
        metavar="REGEX",
        help="a regular expression for what differs in the folder names of repeats (default: the "
        "number at the end, as in feature_1 or MODEL 1)",
    )
    return parser


def _import(
    runs: Mapping[str, Path],
    out_dir: Path,
    teachers: Mapping[str, Model],
    repeats: Mapping[str, Repeat],
) -> list[tuple[str, str]]:
    """Imports the runs, says so of each, and gives the folders that were refused, and why."""
    refused = []
    for name, folder in runs.items():
        try:
            teacher = _teacher_of(name, teachers)
            result, was_there = import_run(
                folder, out_dir, teacher, name=name, repeat=repeats[name]
            )
        except (ValueError, OSError) as error:
            refused.append(_place_and_fault(error, folder, out_dir / name))
            continue
        own = units.energy(result.own_energy_j, error_j=result.own_energy_uncertainty_j)
        state = "was imported before" if was_there else "imported"
        print(f"{out_dir / name}: {state}, {own} {result.own_energy_quality}")
    return refused


def _place_and_fault(error: Exception, *folders: Path) -> tuple[str, str]:
    """The file or folder that a message begins with, and the rest, which others may share."""
    place, colon, fault = str(error).partition(": ")
    is_place = any(place == str(f) or place.startswith(f"{f}/") for f in folders)
    return (place, fault) if colon and is_place else (str(folders[0]), str(error))


def _teachers(directory: Path, name: Path | None, found: Search) -> dict[str, Model]:
    """The teachers, taken out of the runs, by the folder below which each is that of all runs.

    One that is named is the teacher of all. Else a folder `teacher` stands beside its runs.
    """
    if name:
        if name.as_posix() not in found.runs:
            raise ValueError(
                f"--teacher {name}: {directory / name} holds no eval.json or ept.json; name the "
                "folder with the teacher's results"
            )
        places = {".": name.as_posix()}
    else:
        names = [run for run in found.runs if PurePosixPath(run).name == DEFAULT_TEACHER]
        places = {PurePosixPath(run).parent.as_posix(): run for run in names}
    folders = {place: found.runs.pop(run) for place, run in places.items()}
    teachers = {place: read_model(folder, subject="teacher") for place, folder in folders.items()}
    used = {place for run in found.runs if (place := _place_of_teacher(run, teachers))}
    for place, folder in folders.items():
        if place not in used:
            found.left_out.append((str(folder), "left out, a teacher below whose folder no run is"))
        if "telemetry.jsonl" in teachers[place].sources:
            found.notes.append(
                (str(folder), "its telemetry.jsonl is not read, as it is a teacher's: ept.json "
                 "alone tells what serving one takes")
            )  # fmt: skip
    return teachers


def _teacher_of(run: str, teachers: Mapping[str, Model]) -> Model | None:
    """The nearest teacher in a folder above a run; None where there is none."""
    place = _place_of_teacher(run, teachers)
    return None if place is None else teachers[place]


def _place_of_teacher(run: str, teachers: Mapping[str, Model]) -> str | None:
    above = (folder.as_posix() for folder in PurePosixPath(run).parents)
    return next((folder for folder in above if folder in teachers), None)
