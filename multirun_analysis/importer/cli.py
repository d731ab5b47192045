"""`python -m multirun_analysis import DIR --out DIR2`: foreign records become run folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
        f"{DEFAULT_TEACHER}, if there is one",
    )
    options = parser.parse_args(arguments)
    try:
        found, empty = find_foreign_runs(options.directory, options.out)
        teacher = _teacher(options.directory, options.teacher, found)
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


def _teacher(directory: Path, name: Path | None, found: dict[str, Path]) -> Model | None:
    """The teacher of all the runs, taken out of them; None where there is none."""
    folder = found.pop(name.as_posix() if name else DEFAULT_TEACHER, None)
    if folder is None and name:
        raise ValueError(
            f"--teacher {name}: {directory / name} holds no eval.json or ept.json; name the folder "
            "with the teacher's results"
        )
    return None if folder is None else read_model(folder, subject="teacher")


def _refuse(error: Exception) -> int:
    print(f"multirun_analysis import: {error}", file=sys.stderr)
    return 2
