"""Run folders, whole or torn, as tables. No run is dropped: each has a state, or a reason."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from kdwatts.records import Metrics, Score, StageRow, TelemetryRow
from multirun_analysis.labels import CHOICES, label_runs, mark_duplicates
from multirun_analysis.metrics import add_totals
from multirun_analysis.reading import read_record, read_table, type_problem, typed

MARKERS = ("config.yaml", "status.json")
"""Either file, or a `.hydra` folder, makes a folder a run folder."""

# fmt: off
_RUN_COLUMNS = [
    "run", "folder", "state", "reason", "finished", "stage", "attempt", "updated_utc", "notes",
    "duplicate_of", "label", "group", "group_label", "setting",
    "host", "cpu", "cards", "driver", "cpu_estimate", "git_commit", "versions",
    "sampling_mean_s", "sampling_longest_s", "om_perf_reason", "inference_reason",
]
# fmt: on

_METRIC_COLUMNS = [field.name for field in fields(Metrics) if field.name not in ("run", "schema")]

_TOTALS = ["inherited_amortised_energy_j", "total_energy_j", "total_amortised_energy_j"]
_NUMBERS = [*_TOTALS, "sampling_mean_s", "sampling_longest_s"]

# Overrides that leave the student as it is, or that have a column of their own.
_NO_SETTING = re.compile(
    r"(hydra|telemetry|site|cluster|launch|local)[.=/@]|(paradigm|model|data|gpu|store_dir|until|training\.seed)="
)


@dataclass(frozen=True)
class Collected:
    """Everything found below the given folders, as tables that share the column `run`."""

    runs: pd.DataFrame
    """One row per run folder: state and reason, all keys of Metrics, totals, provenance."""
    stages: pd.DataFrame
    """One row per window and attempt; `energy_j` sums the components of the best quality."""
    telemetry: pd.DataFrame
    train: pd.DataFrame
    scores: pd.DataFrame


def collect(directories: Sequence[Path]) -> Collected:
    """The runs below `directories` as tables, energies amortised over the students found there.

    Raises ValueError when a directory is missing, when none holds a run, and for a record of a
    foreign or newer schema.
    """
    folders = find_run_folders(directories)
    rows: list[dict[str, Any]] = []
    parts: dict[str, list[pd.DataFrame]] = {}
    for name, folder in zip(_names(folders), folders, strict=True):
        row, tables = _read_run(folder)
        rows.append(row | {"run": name})
        for part, table in tables.items():
            parts.setdefault(part, [pd.DataFrame(columns=["run"])])
            if len(table):
                parts[part].append(table.assign(run=name))
    for step in (mark_duplicates, label_runs, add_totals):
        step(rows)
    runs = typed(pd.DataFrame(rows), Metrics).astype(dict.fromkeys(_NUMBERS, "float64"))
    tables = {
        part: pd.concat(found[1:] or found, ignore_index=True) for part, found in parts.items()
    }
    return Collected(runs=runs, **tables)


def write_tables(runs: pd.DataFrame, out_dir: Path) -> list[Path]:
    """Paths of `runs.parquet` and `runs.csv`; a missing number is null or an empty cell."""
    out_dir.mkdir(parents=True, exist_ok=True)
    parquet_path, csv_path = out_dir / "runs.parquet", out_dir / "runs.csv"
    runs.to_parquet(parquet_path, index=False)
    runs.to_csv(csv_path, index=False)
    return [parquet_path, csv_path]


def find_run_folders(directories: Sequence[Path]) -> list[Path]:
    """Run folders at or below `directories`, sorted, each once; nothing is sought inside a run."""
    found: set[Path] = set()
    for directory in directories:
        found |= walk_run_folders(directory)
    if not found:
        raise ValueError(
            f"{', '.join(map(str, directories))}: no run folder (one with .hydra, config.yaml or "
            "status.json) in it or below; give the folder of a multirun"
        )
    return sorted(found, key=natural)


def walk_run_folders(directory: Path) -> set[Path]:
    """Run folders at or below a directory; none is no error."""
    found: set[Path] = set()
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give the folder of a multirun")
    for path, subdirectories, files in os.walk(directory.resolve()):
        if ".hydra" in subdirectories or any(marker in files for marker in MARKERS):
            found.add(Path(path))
            subdirectories.clear()
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
    return found


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A sorting key that puts run 2 before run 10."""
    pieces = re.split(r"(\d+)", str(path))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names; where two are alike, all become paths below their common parent."""
    names = [folder.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    root = os.path.commonpath([folder.parent for folder in folders])
    return [folder.relative_to(root).as_posix() for folder in folders]


def _read_run(folder: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """One row about the run, and its tables."""
    status, status_problem = read_record(folder / "status.json")
    metrics, metrics_problem = read_record(folder / "metrics.json")
    metrics_problem = metrics_problem or type_problem(metrics, Metrics, "metrics.json")
    manifest, manifest_problem = read_record(folder / "manifest.json")
    state, reason = _state(status, metrics, status_problem or metrics_problem)
    imported = _imported(manifest)
    problems, tables = [manifest_problem, imported.pop("notes", None)], {}
    for part, name, record_type in (
        ("stages", "stages.jsonl", StageRow),
        ("telemetry", "telemetry.jsonl", TelemetryRow),
        ("train", "train.jsonl", None),
        ("scores", "eval.json", Score),
    ):
        tables[part], problem = read_table(folder / name, record_type)
        problems.append(problem)
    row = dict.fromkeys([*_RUN_COLUMNS, *_METRIC_COLUMNS])
    row |= _asked(folder) | _provenance(manifest) | imported
    if not metrics_problem:
        row |= {
            key: value if isinstance(value, (int, float)) else _text(value)
            for key, value in metrics.items()
            if key != "schema"
        }
    row |= {
        "folder": str(folder),
        "state": state,
        "reason": reason,
        "finished": reason is None,
        "stage": _text(status.get("stage")),
        "attempt": attempt if isinstance(attempt := status.get("attempt"), int) else None,
        "updated_utc": _text(status.get("time_utc")),
        "notes": "; ".join(problem for problem in problems if problem) or None,
    }
    return row, tables


def _state(
    status: dict[str, Any], metrics: dict[str, Any], problem: str | None
) -> tuple[str, str | None]:
    """State, and the reason why the run has no place in the figures; None where it has one."""
    if problem:
        return "unreadable", problem
    if not status:
        return "unknown", "no status.json: never started, or killed before its first stage"
    state, stage = str(status.get("state")), status.get("stage") or "unknown"
    if state == "done":
        return state, None if metrics else f"stopped after stage {stage} as asked: no metrics.json"
    if state == "failed":
        return state, str(status.get("error") or f"stage {stage} failed and left no error")
    since = f"stage {stage}, attempt {status.get('attempt')}, {status.get('time_utc')}"
    if state == "preempted":
        return state, f"preempted and not resumed ({since})"
    if state == "running":
        return "unfinished", f"still running, or killed without a word ({since})"
    return state, f"status.json names a state that this version does not know ({since})"


def _text(value: Any) -> str | None:
    """A value for a column of text; mappings and lists stay JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _provenance(manifest: dict[str, Any]) -> dict[str, Any]:
    """Where and with what a run was made, as far as its manifest says."""
    gpus = [gpu for gpu in manifest.get("gpus") or [] if isinstance(gpu, dict)]
    names = [str(gpu.get("name")) for gpu in gpus]
    cards = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    drivers = {str(gpu["driver"]) for gpu in gpus if gpu.get("driver")}
    versions = {name: manifest.get(name) for name in ("kdwatts", "python")}
    versions |= manifest.get("versions") or {}
    versions = {name: version for name, version in versions.items() if version}
    estimate = manifest.get("cpu_estimate") or {}
    return {key: _text(manifest.get(key)) for key in ("host", "cpu", "git_commit")} | {
        "cards": cards or None,
        "driver": ", ".join(sorted(drivers)) or _text(manifest.get("driver")),
        "cpu_estimate": _text(estimate.get("source")),
        "versions": json.dumps(versions) if versions else None,
    }


def _imported(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the manifest of an imported run says about its source; empty for a run of ours."""
    record = manifest.get("import")
    if not isinstance(record, dict):
        return {}
    left_out = ", ".join(map(str, record.get("left_out") or []))
    notes = [
        "the source's telemetry had a torn last line" if record.get("torn_last_line") else "",
        f"scores without an agreed metric left out: {left_out}" if left_out else "",
    ]
    return {
        "sampling_mean_s": record.get("mean_interval_s"),
        "sampling_longest_s": record.get("longest_interval_s"),
        "om_perf_reason": _text(record.get("om_perf_reason")),
        "inference_reason": _text(record.get("inference_reason")),
        "notes": "; ".join(note for note in notes if note) or None,
    }


def _asked(folder: Path) -> dict[str, Any]:
    """What the configuration asked for, so that a run without metrics still says what it was.

    Read by pattern: the files come from OmegaConf, and this room depends on no YAML reader.
    """
    asked: dict[str, Any] = {}
    for path in (folder / ".hydra" / "config.yaml", folder / "config.yaml"):
        text = path.read_text(errors="replace") if path.is_file() else ""
        for key in CHOICES:
            if found := re.search(_entry(key, "name", r"(\S+)"), text, re.MULTILINE):
                asked[key] = found[1].strip("'\"")
        if found := re.search(_entry("training", "seed", r"(\d+)"), text, re.MULTILINE):
            asked["seed"] = int(found[1])
    path = folder / ".hydra" / "overrides.yaml"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    overrides = (line.removeprefix("- ").strip("'\"+ ") for line in lines if line.startswith("- "))
    settings = sorted(text for text in overrides if not _NO_SETTING.match(text))
    return asked | {"setting": ", ".join(settings) or None}


def _entry(section: str, key: str, value: str) -> str:
    return rf"^{section}:\n(?:  .*\n)*?  {key}: *{value}$"
