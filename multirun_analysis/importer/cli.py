"""`python -m multirun_analysis import DIR --out DIR2`: foreign records become run folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdwatts.paths import given
from multirun_analysis import units
from multirun_analysis.importer.folder import import_run, is_foreign_run
from multirun_analysis.importer.summary import Model, read_model

DEFAULT_TEACHER = "teacher"


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, or 2 after one sentence on stderr about each run that was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis import",
        description="Read foreign records below DIR into run folders that are analysed beside "
        "our own.",
    )
    parser.add_argument("directory", type=given, metavar="DIR", help="holds a folder per run")
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
        folders, teacher = _read(options.directory, options.teacher)
    except (ValueError, OSError) as error:
        return _refuse(error)
    code = 0
    for folder in folders:
        try:
            result, was_there = import_run(folder, options.out, teacher)
        except (ValueError, OSError) as error:
            code = _refuse(error)
            continue
        own = units.energy(result.own_energy_j, error_j=result.own_energy_uncertainty_j)
        state = "was there already" if was_there else "imported"
        print(f"{options.out / folder.name}: {state}, {own} {result.own_energy_quality}")
    return code


def _read(directory: Path, name: Path | None) -> tuple[list[Path], Model | None]:
    """The run folders in `directory`, and their teacher where there is one."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give the folder that holds the runs")
    teacher_dir = directory / (name or DEFAULT_TEACHER)
    if name and not is_foreign_run(teacher_dir):
        raise ValueError(
            f"--teacher {name}: {teacher_dir} holds no eval.json or ept.json; name the folder with "
            "the teacher's results"
        )
    folders = [path for path in sorted(directory.iterdir()) if is_foreign_run(path)]
    folders = [path for path in folders if path != teacher_dir]
    if not folders:
        raise ValueError(
            f"{directory}: no folder in it has a telemetry.jsonl, eval.json or ept.json; give the "
            "folder that holds the runs"
        )
    teacher = read_model(teacher_dir, subject="teacher") if is_foreign_run(teacher_dir) else None
    return folders, teacher


def _refuse(error: Exception) -> int:
    print(f"multirun_analysis import: {error}", file=sys.stderr)
    return 2
