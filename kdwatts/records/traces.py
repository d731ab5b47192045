"""The traces of a run: one file for each of its nodes, the first rank's without a number."""

from __future__ import annotations

import re
from pathlib import Path

TRACE_NAME = "telemetry.jsonl"
_OF_ANOTHER = re.compile(r"telemetry\.n(\d+)\.jsonl", re.ASCII)


def trace_name(number: int) -> str:
    """The file of a node; nodes are counted from 1, the first rank's."""
    return TRACE_NAME if number == 1 else f"telemetry.n{number}.jsonl"


def traces_in(run_dir: Path) -> dict[int, Path]:
    """Number of each node that left a trace in a run's folder, to its file, in order."""
    found = {1: run_dir / TRACE_NAME} if (run_dir / TRACE_NAME).is_file() else {}
    others = {
        int(name[1]): path
        for path in run_dir.glob("telemetry.n*.jsonl")
        if (name := _OF_ANOTHER.fullmatch(path.name))
    }
    return found | dict(sorted(others.items()))
