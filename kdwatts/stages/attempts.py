"""Attempts at an artifact whose building continues where it stopped: what the earlier ones drew."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdwatts.records.files import append_jsonl, read_jsonl
from kdwatts.records.schema import COMPONENTS, SCHEMA, StageRow
from kdwatts.records.traces import trace_name
from kdwatts.stages.work import Work
from kdwatts.telemetry import parts
from kdwatts.telemetry.node_sums import NodeParts, lost, parts_of, share, summed
from kdwatts.telemetry.recover import recover_components

log = logging.getLogger(__name__)

ATTEMPTS_NAME = "attempts.jsonl"

_AT_ONCE = 3
"""Ticks. Traces of nodes begin a window within this of each other."""

_DATES_APART_S = 1.0
"""How far the dates of two nodes may be apart. NTP keeps them within milliseconds."""


def note_attempt(work: Work) -> None:
    """Note in the scratch folder that this run works on the artifact, before it draws much."""
    work.scratch_dir.mkdir(exist_ok=True)
    hosts = work.meter.hosts
    attempt = {
        "schema": SCHEMA,
        "run_dir": str(work.run_dir),
        "attempt": work.attempt,
        "nodes": [{"number": number, "host": host} for number, host in hosts.items()],
        "alone": work.window.alone,
        "time_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    append_jsonl(work.scratch_dir / ATTEMPTS_NAME, attempt)


def earlier_attempts(scratch_dir: Path, *, window: str, interval_s: float) -> list[dict[str, Any]]:
    """What the attempts noted so far drew in `window`: one record of components each, in J.

    A closed window is read from the run's stages.jsonl. A window that a kill left open, or in which
    a node was lost, is recovered from the telemetry of all nodes that the attempt had, sampled
    every `interval_s` seconds. So are GPUs in a window that closed too soon for their sensors.
    Components are missing where the run's folder is gone, or the trace of one of the nodes.
    """
    path = scratch_dir / ATTEMPTS_NAME
    if not path.is_file():
        return []
    records = []
    for attempt in read_jsonl(path):
        rows = [
            row
            for row in _rows(Path(attempt["run_dir"]) / "stages.jsonl")
            if row["attempt"] == attempt["attempt"]
        ]
        closed = [
            row
            for row in rows
            if row["window"] == window
            # A node that gave no edge has a trace up to its last tick.
            and all(node["duration_s"] is not None for node in row.get("nodes") or ())
        ]
        if closed and not _is_short(closed[-1]):
            records.append(closed[-1])
            continue
        lived_on = any(row["window"].startswith(f"{window}/") for row in rows)
        recovered = _recovered(attempt, window, interval_s, lived_on=lived_on)
        is_better = not closed or recovered["energy_j"]["gpu"] is not None
        records.append(recovered if is_better else closed[-1])
    return records


def _is_short(row: Mapping[str, Any]) -> bool:
    """Whether a window may lack its GPUs because it was too short for them."""
    return row["duration_s"] < parts.MIN_NVML_WINDOW_S and row["energy_j"]["gpu"] is None


def _recovered(
    attempt: Mapping[str, Any], window: str, interval_s: float, *, lived_on: bool
) -> dict[str, Any]:
    """The record of an attempt from its traces. `lived_on` where a window inside it closed."""
    run_dir, number = Path(attempt["run_dir"]), attempt["attempt"]
    # Older notes name no nodes, and are of one.
    hosts = {node["number"]: node["host"] for node in attempt.get("nodes") or ()} or {1: ""}
    rows: dict[int, StageRow] = {}
    for node in hosts:
        row = _recovered_here(run_dir / trace_name(node), window, number, interval_s)
        if row is not None:
            rows[node] = row
    # A node whose trace never came to the window is known where the kill came at once.
    if not lived_on and all(row.duration_s < _AT_ONCE * interval_s for row in rows.values()):
        for node in hosts.keys() - rows.keys():
            path = run_dir / trace_name(node)
            row = _recovered_here(path, window, number, interval_s, before_first_tick=True)
            if row and _is_near(row.start_utc, attempt.get("time_utc"), _AT_ONCE * interval_s):
                rows[node] = row
    for node in sorted(hosts.keys() - rows.keys()):
        path = run_dir / trace_name(node)
        log.warning(
            "%s: no trace of attempt %d in %s, so its energy is unknown", window, number, path
        )
    if not rows:
        nothing = dict.fromkeys(COMPONENTS)
        missing = dict.fromkeys(COMPONENTS, "missing")
        return {
            "attempt": number,
            "energy_j": nothing,
            "quality": missing,
            "uncertainty_j": nothing,
        }
    first = rows[min(rows)]
    if len(hosts) == 1:
        return asdict(first)
    nodes = [
        NodeParts(node, host, parts_of(row), row.duration_s)
        if (row := rows.get(node))
        else lost(node, host, f"{trace_name(node)} has no rows of this attempt")
        for node, host in hosts.items()
    ]
    waits = attempt.get("alone", False)
    shares = [share(node, waits=waits and node.number > 1) for node in nodes]
    return asdict(replace(first, nodes=shares, **parts.columns(summed(nodes))))


def _is_near(last_utc: str, noted_utc: str | None, within_s: float) -> bool:
    """Whether a trace went on until the attempt was noted, by dates that may differ a little.

    Older notes say no date.
    """
    if noted_utc is None:
        return False
    apart = datetime.fromisoformat(noted_utc) - datetime.fromisoformat(last_utc)
    return abs(apart.total_seconds()) < within_s + _DATES_APART_S


def _recovered_here(
    path: Path, window: str, attempt: int, interval_s: float, *, before_first_tick: bool = False
) -> StageRow | None:
    """What one node drew, from its trace; None where that says nothing of the attempt."""
    if not path.is_file():
        return None
    return recover_components(
        path,
        window,
        attempt,
        interval_s=interval_s,
        lost_end_s=interval_s / 2,
        before_first_tick=before_first_tick,
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(path)) if path.is_file() else []
