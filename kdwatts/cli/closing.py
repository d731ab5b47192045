"""The last words of a command that went well: what came out, where it lies, what makes a report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from kdwatts.artifacts.artifact import in_words
from kdwatts.cli.sweep import shown_path
from kdwatts.metrics.quantity import Quantity
from kdwatts.records.files import read_json


def closing_words(run_dir: Path) -> str:
    """Of a single run: its folder, and of one that made a student what it kept and what it took."""
    lines = [f"done: {shown_path(run_dir)}"]
    path = run_dir / "metrics.json"
    if not path.is_file():
        return lines[0]
    metrics = read_json(path)
    own, inherited = (_spent(metrics, kind) for kind in ("own", "inherited"))
    lines.append(f"energy: {own} to train the student, {inherited} for what it was made from")
    if metrics["om_perf"] is not None:
        lines.append(
            f"quality: OM_perf {metrics['om_perf']:.2f}, the student's scores as a share of the "
            "teacher's"
        )
    return "\n".join([*lines, report_line(run_dir)])


def _spent(metrics: dict[str, Any], kind: str) -> str:
    """The energy of one kind that a run's metrics state, in words."""
    value, quality = metrics[f"{kind}_energy_j"], metrics[f"{kind}_energy_quality"]
    if value is None:
        return "energy that was not measured"
    return in_words(Quantity(value, unit="J", quality=quality))


def report_line(folder: Path) -> str:
    """The command that makes tables and a page of the runs in a folder."""
    return f"report: python -m multirun_analysis {shlex.quote(shown_path(folder))}"
