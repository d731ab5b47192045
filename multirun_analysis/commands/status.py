"""How far the runs of a sweep are, finished or not: `python -m multirun_analysis status DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from kdwatts.runtime.paths import argument_path
from kdwatts.runtime.streams import aligned
from multirun_analysis.commands.run_states import STATES, RunState, run_states
from multirun_analysis.values.refusals import in_words


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 when a run failed, 2 after a sentence about what cannot be read."""
    options = parser().parse_intermixed_args(arguments)
    try:
        runs = [one for directory in options.directories for one in run_states(directory)]
    except (ValueError, OSError) as error:
        print(f"multirun_analysis: {in_words(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(one) for one in runs], indent=2))
    else:
        print(table(runs))
    return int(any(one.state == "failed" for one in runs))


def parser() -> argparse.ArgumentParser:
    """Of the options of `status`."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis status",
        description="Prints a line for each run of a sweep: its state, its stage and, if it "
        "failed, why. Exit code: 0, 1 if a run failed, 2 if DIR cannot be read.",
    )
    parser.add_argument(
        "directories",
        nargs="+",
        type=argument_path,
        metavar="DIR",
        help="folder of a run or a sweep",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON records in place of a table"
    )
    return parser


def table(runs: Sequence[RunState]) -> str:
    """A line a run, and one that counts them."""
    lines = [("state", "folder", "stage", "attempt", "reason")]
    for one in runs:
        attempt = "" if one.attempt is None else str(one.attempt)
        lines.append((one.state, one.folder, one.stage or "", attempt, one.reason or ""))
    counts = Counter(one.state for one in runs)
    found = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{aligned(lines)}\n{len(runs)} runs: {found}"
