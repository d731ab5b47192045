"""Folders at any depth, also linked ones, each once.

Folders of records that are not read are named.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdwatts.records.traces import traces_in
from multirun_analysis.values.notices import notice_line, notices_of

MARKERS = ("config.yaml", "status.json")
"""Either file, or a `.hydra` folder, makes a folder a run folder."""
_OWN = ("status.json", ".hydra")
"""What makes one inside a run another run: a run holds models too, and what they are made with."""

SERVING = "serving.json"
"""A folder that has it, and is neither a run nor an artifact, measures a server alone."""

FOREIGN = ("telemetry.jsonl", "eval.json", "ept.json")
"""Records of other software, plain or as .gz, which `import` reads. Traces of further nodes, such
as telemetry.n2.jsonl, are never of other software."""
_NO_RUN = ("artifact.json", "summary.json")
"""In each folder of a store, whose records the runs tell, and of a command under a meter."""


@dataclass
class Survey:
    """What is at or below a folder."""

    runs: dict[str, Path] = field(default_factory=dict)
    """Real path to the path by which the run was met."""
    serving: dict[str, Path] = field(default_factory=dict)
    """The same of folders that measure a server, without a run."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Each folder of records that is not read, and each link to nothing, with a sentence."""


def folders_below(directory: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder at or below `directory`, with the sorted names of its folders and files.

    Linked folders come last, and none comes twice. Folders whose names begin with a dot are named
    but not entered. Raises OSError for a folder that may not be read.
    """
    tops, seen = deque([directory.resolve()]), set()
    while tops:
        for path, folders, files in os.walk(tops.popleft(), onerror=_refuse):
            if (real := os.path.realpath(path)) in seen:
                folders.clear()
                continue
            seen.add(real)
            yield Path(path), sorted(folders), sorted(files)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links = (Path(path, name) for name in folders)
            tops.extend(link for link in links if link.is_symlink())


def _refuse(error: OSError) -> None:
    raise error


def survey(directory: Path) -> Survey:
    """The runs at or below a directory, and what is not read there. No run is no error.

    Inside a run, only a folder with `.hydra` or status.json is another run.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give the folder of a multirun")
    found, inside = Survey(), set()
    for path, folders, files in folders_below(directory):
        is_inside = path.parent in inside
        marks = _OWN if is_inside else (*MARKERS, ".hydra")
        if not is_inside and _is_of_a_server(folders, files):
            found.serving[os.path.realpath(path)] = path
            continue
        if is_run := not {*folders, *files}.isdisjoint(marks):
            found.runs[os.path.realpath(path)] = path
        if is_run or is_inside:
            inside.add(path)
            continue
        is_ours = "stages.jsonl" in files or bool(traces_in(path))
        if (holds_foreign(files) or is_ours) and not {*files} & {*_NO_RUN}:
            found.left_out.append(
                (str(path), "records without a run's .hydra, config.yaml or status.json; those of "
                 "other software are read in by python -m multirun_analysis import")
            )  # fmt: skip
        dangling = [path / name for name in files if not (path / name).exists()]
        found.left_out += [(str(link), f"a link to {os.readlink(link)}, which is not there")
                           for link in dangling if link.is_symlink()]  # fmt: skip
    return found


def _is_of_a_server(folders: list[str], files: list[str]) -> bool:
    return SERVING in files and {*folders, *files}.isdisjoint(
        (*_OWN, "metrics.json", "artifact.json")
    )


@dataclass(frozen=True)
class Folders:
    """What is read, in counting order, and what is not."""

    runs: list[Path]
    serving: list[Path]
    """Folders that measure a server, without a run."""
    left_out: tuple[str, ...]
    """A sentence about each folder of records that is neither."""


def find_folders(directories: Sequence[Path]) -> Folders:
    """Runs and measurements of servers at or below `directories`, and what else has records.

    Linked folders are followed, and each folder comes once. Raises ValueError where there is
    neither a run nor a measurement of a server.
    """
    runs: dict[str, Path] = {}
    serving: dict[str, Path] = {}
    passed_over: dict[tuple[str, str], None] = {}
    for directory in directories:
        found = survey(directory)
        runs = found.runs | runs
        serving = found.serving | serving
        passed_over |= dict.fromkeys(found.left_out)
    left_out = [notice_line(said) for said in notices_of(passed_over, what="folders")]
    if not runs and not serving:
        raise ValueError(
            f"{', '.join(map(str, directories))}: no run folder (one with .hydra, config.yaml or "
            f"status.json) in it or below; {next(iter(left_out), 'give the folder of a multirun')}"
        )
    return Folders(
        in_counting_order(runs.values()), in_counting_order(serving.values()), tuple(left_out)
    )


def in_counting_order(paths: Iterable[Path]) -> list[Path]:
    """The paths in an order in which run 2 comes before run 10."""
    return sorted(paths, key=_numbers_and_words)


def _numbers_and_words(path: Path) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", str(path))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def holds_foreign(files: list[str]) -> bool:
    """Whether any of these files is a record that `import` reads."""
    return any(f"{name}{end}" in files for name in FOREIGN for end in ("", ".gz"))
