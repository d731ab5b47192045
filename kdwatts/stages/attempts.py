"""Attempts at an artifact whose building continues where it stopped: what the earlier ones drew."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdwatts.records.files import append_jsonl, read_jsonl
from kdwatts.records.schema import COMPONENTS, SCHEMA
from kdwatts.stages.work import Work
from kdwatts.telemetry.recover import recover_components

log = logging.getLogger(__name__)

ATTEMPTS_NAME = "attempts.jsonl"


def note_attempt(work: Work) -> None:
    """Note in the scratch folder that this run works on the artifact, before it draws much."""
    work.scratch_dir.mkdir(exist_ok=True)
    attempt = {"schema": SCHEMA, "run_dir": str(work.run_dir), "attempt": work.attempt}
    append_jsonl(work.scratch_dir / ATTEMPTS_NAME, attempt)


def earlier_attempts(scratch_dir: Path, *, window: str, interval_s: float) -> list[dict[str, Any]]:
    """What the attempts noted so far drew in `window`: one record of components each, in J.

    A closed window is read from the run's stages.jsonl. A window that a kill left open is recovered
    from its telemetry, sampled every `interval_s` seconds. An attempt whose run folder is gone has
    missing components.
    """
    path = scratch_dir / ATTEMPTS_NAME
    if not path.is_file():
        return []
    records = []
    for attempt in read_jsonl(path):
        run_dir, number = Path(attempt["run_dir"]), attempt["attempt"]
        closed = [
            row
            for row in _rows(run_dir / "stages.jsonl")
            if row["window"] == window and row["attempt"] == number
        ]
        if closed:
            records.append(closed[-1])
        else:
            records.append(_recovered(run_dir / "telemetry.jsonl", window, number, interval_s))
    return records


def _recovered(
    telemetry_path: Path, window: str, attempt: int, interval_s: float
) -> dict[str, Any]:
    if telemetry_path.is_file():
        row = recover_components(
            telemetry_path, window, attempt, interval_s=interval_s, lost_end_s=interval_s / 2
        )
        if row:
            return asdict(row)
    log.warning(
        "%s: no trace of attempt %d in %s, so its energy is unknown",
        window,
        attempt,
        telemetry_path,
    )
    nothing = dict.fromkeys(COMPONENTS)
    quality = dict.fromkeys(COMPONENTS, "missing")
    return {"attempt": attempt, "energy_j": nothing, "quality": quality, "uncertainty_j": nothing}


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(path)) if path.is_file() else []
