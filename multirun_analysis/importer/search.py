"""Folders of foreign records at any depth, and a word about every one that is not read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from multirun_analysis.values.folders import FOREIGN, folders_below, holds_foreign

FILES = f"{', '.join(FOREIGN[:-1])} or {FOREIGN[-1]}"


@dataclass
class Search:
    """What lies at or below a folder; sentences stand beside the path that they are about."""

    runs: dict[str, Path] = field(default_factory=dict)
    """Path below the folder to each folder of records."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """What is not read and may be a run."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """What is not read and is no run of its own."""


def find_foreign_runs(directory: Path, out_dir: Path) -> Search:
    """Every folder of records; folders inside one belong to it, unless they have records too.

    What lies in `out_dir` and is a run of ours was imported, and goes without a word.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give the folder that holds the runs")
    root, out_dir = directory.resolve(), out_dir.resolve()
    if out_dir == root:
        raise ValueError(
            f"--out {out_dir} holds the records that are to be imported; give another folder"
        )
    found, others, links = Search(), [], []
    for path, folders, files in folders_below(directory):
        is_out = out_dir == path or out_dir in path.parents
        links += [path / name for name in (*folders, *files) if (path / name).is_symlink()]
        found.left_out += [
            (str(hidden), "left out, a folder that holds records and whose name begins with a dot")
            for name in folders
            if name.startswith(".") and not is_out
            for hidden in _hidden_records(path / name)
        ]
        if {"status.json", "manifest.json"}.issubset(files):
            if not is_out:
                found.left_out.append((str(path), "left out, a run folder of kdwatts already"))
        elif is_out and holds_foreign(files):
            found.left_out.append((str(path), "left out, it lies in --out; import it from there"))
        elif holds_foreign(files):
            _add(found, root, path)
        elif not is_out and path != root:
            others.append((path, bool(files) or not folders))
    found.left_out += [(str(path), f"left out, it has no {FILES}") for path in _silent(
        found, [path for path, may_be_run in others if may_be_run])]  # fmt: skip
    _note_links(found, links)
    return found


def _add(found: Search, root: Path, path: Path) -> None:
    name = path.relative_to(root).as_posix() if path != root else root.name
    if name in found.runs:
        raise ValueError(
            f"{found.runs[name]} and {path} would both be named {name}; move one of them"
        )
    found.runs[name] = path


def _silent(found: Search, candidates: list[Path]) -> list[Path]:
    """Folders with no records in them, below or above them; of those inside one another the top."""
    spoken = {*found.runs.values(), *(Path(path) for path, _ in found.left_out)}
    above = {parent for path in spoken for parent in path.parents}
    silent: list[Path] = []
    for path in sorted(candidates):
        if path not in above and spoken.isdisjoint((path, *path.parents)):
            silent.append(path)
            spoken.add(path)
    return silent


def _hidden_records(folder: Path) -> list[Path]:
    """Folders of records at or below one that is not entered."""
    return [Path(path) for path, _, files in os.walk(folder) if holds_foreign(files)]


def _note_links(found: Search, links: list[Path]) -> None:
    """Says which links lead nowhere, and which to records that are read where they lie."""
    read = {os.path.realpath(path): path for path in found.runs.values()}
    for link in links:
        if not link.exists():
            target = os.readlink(link)
            found.left_out.append((str(link), f"a link to {target}, which is not there"))
        elif (place := read.get(os.path.realpath(link), link)) != link:
            found.notes.append((str(link), f"a link to {place}, which is imported once"))
