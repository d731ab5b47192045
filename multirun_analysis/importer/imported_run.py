"""One foreign run as a run folder of ours: complete as soon as it exists, never overwritten."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdwatts.records.files import read_json, to_json, write_json
from kdwatts.records.run_metrics import Metrics
from kdwatts.records.schema import SCHEMA
from kdwatts.telemetry.recover import recover_components
from multirun_analysis.importer.repeats import Repeat, repeat_of
from multirun_analysis.importer.summary import Model, read_model, summarize
from multirun_analysis.importer.trace import (
    WINDOW,
    Trace,
    counter_over_samples,
    cpu_reason,
    read_trace,
    telemetry_rows,
    unit_correction,
    unit_note,
)
from multirun_analysis.values.folders import FOREIGN

VERSION = 2
"""Raised when the same foreign records would give other records of ours."""

FORMAT = "Slimming-Models-Saving-Watts telemetry"


def import_run(
    folder: Path,
    out_dir: Path,
    teacher: Model | None,
    *,
    name: str | None = None,
    repeat: Repeat | None = None,
) -> tuple[Metrics, bool]:
    """Metrics of the run folder `name` below `out_dir`, and whether it was there already.

    None names it as its source; one that lies deeper has the folders above it in its name. Without
    a `repeat` the number at the end of the name tells which one of its method's it is.

    Raises ValueError when the records contradict themselves, and when something else has the name.
    """
    name = name or folder.name
    student = read_model(folder, subject="student")
    if "telemetry.jsonl" not in student.sources:
        raise ValueError(
            f"{folder}: has no telemetry.jsonl or .gz, so nothing tells its energy; add it, or "
            f"say --teacher {shlex.quote(name)} if these are the teacher's results"
        )
    target = out_dir / name
    repeat = repeat or repeat_of(name)
    imported = _identity(folder, student, teacher) | asdict(repeat)
    if target.exists():
        _refuse_another(target, imported)
        return Metrics(**read_json(target / "metrics.json")), True
    trace = read_trace(student.sources["telemetry.jsonl"])
    target.parent.mkdir(parents=True, exist_ok=True)
    # Names that begin with a dot are never taken for runs.
    private = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        private.mkdir()
        result = _fill(private, name, trace, student, teacher, imported, repeat)
        private.rename(target)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return result, False


def _identity(folder: Path, student: Model, teacher: Model | None) -> dict[str, Any]:
    """What makes two imports the same: the origin, this code, and the content that was read."""
    files = {name: source.sha256 for name, source in student.sources.items()}
    if teacher:
        files |= {f"teacher/{n}": s.sha256 for n, s in teacher.sources.items() if n in FOREIGN[1:]}
    origin = f"import of {folder.resolve().parent.name}/{folder.name}: {FORMAT}"
    return {"version": VERSION, "origin": origin, "sha256": files}


def _refuse_another(target: Path, imported: Mapping[str, Any]) -> None:
    """Raise ValueError unless the folder holds this very import."""
    try:
        manifest = read_json(target / "manifest.json")
    except (OSError, ValueError):
        manifest = {}
    found = manifest.get("import") if isinstance(manifest, dict) else None
    found = found if isinstance(found, dict) else {}
    differing = [key for key, value in imported.items() if found.get(key) != value]
    if not differing:
        return
    what = f"is no import of the same records ({imported['origin']})"
    if found and differing == [key for key in differing if key in ("setting", "repeat")]:
        what = "was imported with other repeats: --repeat-pattern was another"
    elif "version" in differing and found.get("sha256") == imported["sha256"]:
        what = "was imported by another version of this importer"
    raise ValueError(f"{target}: exists and {what}; choose another --out, or move that folder away")


def _fill(
    run_dir: Path,
    run_name: str,
    trace: Trace,
    student: Model,
    teacher: Model | None,
    imported: dict[str, Any],
    repeat: Repeat,
) -> Metrics:
    """Write the records of one run, the last of them its metrics."""
    ratios = counter_over_samples(trace)
    correction = unit_correction(ratios, trace.source)
    telemetry_path = run_dir / "telemetry.jsonl"
    with telemetry_path.open("w", encoding="utf-8") as file:
        file.writelines(f"{to_json(row)}\n" for row in telemetry_rows(trace, correction))
    # Of the rows as they were written: the same sums as for an attempt of ours.
    row = recover_components(
        telemetry_path, WINDOW, 1, interval_s=trace.interval_s, note=unit_note(ratios, correction)
    )
    assert row
    key = trace.source.sha256[:16]
    row = replace(row, outcome="done", key=key, reason=row.reason | {"cpu": cpu_reason(trace)})
    (run_dir / "stages.jsonl").write_text(f"{to_json(row)}\n", "utf-8")
    evaluations = [model.evaluation for model in (student, teacher) if model and model.evaluation]
    scores = [score for evaluation in evaluations for score in evaluation.scores]
    if scores:
        write_json(run_dir / "eval.json", [asdict(score) for score in scores])
    result, reasons = summarize(
        run_name,
        trace,
        row,
        student,
        teacher,
        origin=imported["origin"],
        correction=correction,
        repeat=repeat,
    )
    now_utc = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(
        run_dir / "manifest.json",
        {
            "schema": SCHEMA,
            "attempt": 1,
            "time_utc": now_utc,
            "host": None,
            "gpus": [{"index": index, "name": name} for index, name in trace.devices.items()],
            "import": imported
            | {
                "unit_correction": correction,
                "counter_over_samples": {f"gpu {i}": ratio for i, ratio in ratios.items()},
                "mean_interval_s": trace.mean_interval_s,
                "longest_interval_s": max(trace.intervals_s),
                "torn_last_line": trace.is_torn,
                "left_out": sorted({name for e in evaluations for name in e.left_out}),
                "inference": {
                    subject: asdict(model.served)
                    for subject, model in (("student", student), ("teacher", teacher))
                    if model and model.served
                },
            }
            | reasons,
        },
    )
    status = {"state": "done", "stage": "import", "attempt": 1, "error": None, "time_utc": now_utc}
    write_json(run_dir / "status.json", {"schema": SCHEMA} | status)
    write_json(run_dir / "metrics.json", result)
    return result
