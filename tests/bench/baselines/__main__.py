"""What a refactor must not change, frozen before it and compared after it.

`python -m tests.bench.baselines make FOLDER` writes it down, some eight minutes on two cores;
`python -m tests.bench.baselines compare BEFORE AFTER` names every difference and exits with 1
where there is one. Both sides are made on one machine, and from one sweep: `--sweep FOLDER`, which
is run there once, and never written to again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.baselines import analysis, commands, keys, meter, runs
from tests.bench.baselines.compare import compare
from tests.bench.baselines.places import fresh

PARTS = ("keys", "job", "runs", "meter", "analysis")


def make(folder: Path, parts: Sequence[str], sweep_dir: Path) -> None:
    """Write each part into a folder of its name; what it takes on the way lies in `work`."""
    work_dir = folder / "work"
    makers: dict[str, Callable[[Path], None]] = {
        "keys": keys.make,
        "job": lambda place: commands.make(place, fresh(work_dir / "job")),
        "runs": lambda place: runs.make(place, work_dir / "runs"),
        "meter": lambda place: meter.make(place, work_dir / "meter"),
        "analysis": lambda place: analysis.make(place, work_dir / "analysis", sweep_dir),
    }
    if "analysis" in parts:
        analysis.make_sweep(sweep_dir)
    for part in parts:
        started_s = time.perf_counter()
        makers[part](fresh(folder / part))
        num_files = sum(path.is_file() for path in (folder / part).rglob("*"))
        print(f"{part}: {num_files} files, {time.perf_counter() - started_s:.0f} s", flush=True)


def show(before_dir: Path, after_dir: Path, options: argparse.Namespace) -> int:
    """Print part by part what is equal and what is not; 1 where anything is not, else 0."""
    code = 0
    for part in options.parts:
        folders = before_dir / part, after_dir / part
        there = [folder.is_dir() for folder in folders]
        if not any(there):
            print(f"{part}: in neither")
            continue
        if not all(there):
            print(f"{part}: {folders[there.index(False)]} is missing")
            code = 1
            continue
        found = compare(*folders, within=options.within, without=options.without)
        close = f", {found.num_close} within {options.within:g}" if found.num_close else ""
        equal = f"{len(found.differences)} differences" if found.differences else "equal"
        print(f"{part}: {equal}, {found.num_values} values{close}")
        for line in found.differences:
            print(f"  {line}")
        code = code or int(bool(found.differences))
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of a command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.baselines", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="write a baseline of this tree")
    maker.add_argument("folder", type=Path, metavar="FOLDER")
    maker.add_argument("--sweep", type=Path, metavar="FOLDER", help="default: FOLDER/sweep")
    comparer = commands.add_parser("compare", help="name what differs between two")
    comparer.add_argument("before", type=Path, metavar="BEFORE")
    comparer.add_argument("after", type=Path, metavar="AFTER")
    comparer.add_argument(
        "--within", type=float, default=0.0, metavar="RATIO", help="let pass of a number, as 1e-12"
    )
    comparer.add_argument(
        "--without", nargs="*", default=(), metavar="PATTERN", help="files that are passed over"
    )
    for one in (maker, comparer):
        one.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args(arguments)
    if options.command == "compare":
        return show(options.before, options.after, options)
    make(options.folder, options.parts, (options.sweep or options.folder / "sweep").absolute())
    return 0


if __name__ == "__main__":
    sys.exit(main())
