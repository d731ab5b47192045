"""`python -m multirun_analysis import DIR --out DIR2`: foreign records become run folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from kdwatts.paths import given
from multirun_analysis import units
from multirun_analysis.folders import FOREIGN, folders_below, holds_foreign
from multirun_analysis.importer.folder import import_run
from multirun_analysis.importer.summary import Model, read_model

DEFAULT_TEACHER = "teacher"
_FILES = f"{', '.join(FOREIGN[:-1])} or {FOREIGN[-1]}"


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 where a folder has nothing to import, 2 where a run was refused.

    Each such folder is named on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis import",
        description="Read foreign records below DIR into run folders that are analysed beside "
        "our own.",
    )
    parser.add_argument(
        "directory", type=given, metavar="DIR", help="holds a folder per run, at any depth"
    )
    parser.add_argument(
        "--out", type=given, metavar="DIR", required=True, help="where the run folders go"
    )
    parser.add_argument(
        "--teacher",
        type=given,
        metavar="NAME",
        help="folder in DIR with the results of the teacher of all these runs; default: "
        f"the folder {DEFAULT_TEACHER} nearest to each run",
    )
    options = parser.parse_args(arguments)
    try:
        found, empty = find_foreign_runs(options.directory, options.out)
        teachers = _teachers(options.directory, options.teacher, found)
        if not found:
            raise ValueError(
                f"{options.directory}: no folder in it or below has {_FILES}, apart from the "
                "teacher's; give the folder that holds the runs"
            )
    except (ValueError, OSError) as error:
        return _refuse(error)
    for folder in empty:
        print(f"multirun_analysis import: {folder}: left out, it has no {_FILES}", file=sys.stderr)
    code = 1 if empty else 0
    for name, folder in found.items():
        try:
            teacher = _teacher_of(name, teachers)
            result, was_there = import_run(folder, options.out, teacher, name=name)
        except (ValueError, OSError) as error:
            code = _refuse(error)
            continue
        own = units.energy(result.own_energy_j, error_j=result.own_energy_uncertainty_j)
        state = "was there already" if was_there else "imported"
        print(f"{options.out / name}: {state}, {own} {result.own_energy_quality}")
    return code


def find_foreign_runs(directory: Path, out_dir: Path) -> tuple[dict[str, Path], list[Path]]:
    """Path below `directory` to each folder of records, and the folders that have files, but none.

    What lies in `out_dir` was imported, and folders inside one of records belong to it, unless
    they have records themselves.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give the folder that holds the runs")
    root, out_dir = directory.resolve(), out_dir.resolve()
    found: dict[str, Path] = {}
    others: dict[Path, bool] = {}
    for path, folders, files in folders_below(directory):
        if path == out_dir or out_dir in path.parents:
            continue
        if holds_foreign(files):
            found[path.relative_to(root).as_posix() if path != root else root.name] = path
        else:
            others[path] = bool(files) and not folders
    runs = set(found.values())
    return found, [
        path for path, has_any in others.items() if has_any and runs.isdisjoint(path.parents)
    ]


def _teachers(directory: Path, name: Path | None, found: dict[str, Path]) -> dict[str, Model]:
    """The teachers, taken out of the runs, by the folder below which each is that of all runs.

    One that is named is the teacher of all. Else a folder `teacher` stands beside its runs.
    """
    if name:
        if name.as_posix() not in found:
            raise ValueError(
                f"--teacher {name}: {directory / name} holds no eval.json or ept.json; name the "
                "folder with the teacher's results"
            )
        return {".": read_model(found.pop(name.as_posix()), subject="teacher")}
    names = [run for run in found if PurePosixPath(run).name == DEFAULT_TEACHER]
    return {
        PurePosixPath(run).parent.as_posix(): read_model(found.pop(run), subject="teacher")
        for run in names
    }


def _teacher_of(run: str, teachers: dict[str, Model]) -> Model | None:
    """The nearest teacher in a folder above a run; None where there is none."""
    above = (folder.as_posix() for folder in PurePosixPath(run).parents)
    return next((teachers[folder] for folder in above if folder in teachers), None)


def _refuse(error: Exception) -> int:
    print(f"multirun_analysis import: {error}", file=sys.stderr)
    return 2
