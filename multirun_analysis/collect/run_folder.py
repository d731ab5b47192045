"""One run's folder: a row of what it is and what it cost, and its tables."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdwatts.metrics.scores import with_chance
from kdwatts.records.run_metrics import Metrics
from multirun_analysis.collect import node_traces, run_accuracy
from multirun_analysis.collect.device_summaries import summarise_part
from multirun_analysis.collect.record_files import error_words, read_record, type_problem
from multirun_analysis.collect.run_tables import read_tables
from multirun_analysis.collect.serving_columns import with_run
from multirun_analysis.values.yaml_files import read_settings, value_at

CHOICES = ("paradigm", "model", "data", "gpu")
"""Groups of the configuration whose option a run is known by."""

FILES = (
    *("status.json", "metrics.json", "manifest.json", "eval.json", "inference.json"),
    "serving.json",
    *("stages.jsonl", "train.jsonl"),
    *("config.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml"),
)
"""All that is read of a run's folder beside its traces."""

# fmt: off
_RUN_COLUMNS = [
    "run", "folder", "state", "reason", "finished", "stage", "attempt", "started_utc",
    "updated_utc", "notes", "duplicate_of", "label", "group", "group_label", "setting",
    "host", "num_nodes", "hosts", "cpu", "cpu_threads", "cards", "driver", "cpu_estimate",
    "precision", "serving_prompts", "command",
    "git_commit", "versions", "doctor",
    "sampling_mean_s", "sampling_longest_s", "om_perf_reason", "inference_reason",
    "accuracy_kept_reason", "imported_as", "options",
]
# fmt: on

_METRIC_COLUMNS = [field.name for field in fields(Metrics) if field.name not in ("run", "schema")]

# Overrides that leave the student as it is, or that have a column of their own.
NO_SETTING = re.compile(
    r"(hydra|telemetry|site|cluster|launch|local)[.=/@]|(paradigm|model|data|gpu|store_dir|until|training\.seed)="
)


@dataclass(frozen=True)
class Job:
    """A folder to read."""

    run: str
    """The name that its rows carry."""
    folder: Path
    part_path: Path | None = None
    """Where its telemetry goes; None only looks whether there is any."""


@dataclass(frozen=True)
class Reading:
    """What a folder holds."""

    row: dict[str, Any]
    tables: dict[str, pa.Table]
    has_ticks: bool


def read_run(job: Job) -> Reading:
    """The run's row, not yet compared with other runs, its tables, and its part of the telemetry.

    Summaries are among the tables where the telemetry was read. Raises ValueError for a record of a
    foreign or newer schema.
    """
    folder = job.folder
    status, status_problem = read_record(folder / "status.json")
    metrics, metrics_problem = read_record(folder / "metrics.json")
    metrics_problem = metrics_problem or type_problem(metrics, Metrics, "metrics.json")
    manifest, manifest_problem = read_record(folder / "manifest.json")
    state, reason = _state(status, metrics, status_problem or metrics_problem)
    imported = _imported(manifest)
    tables = read_tables(job.run, folder)
    if job.part_path is None:
        has_ticks, ticks_problem = node_traces.look_at_ends(folder)
    else:
        num_rows, ticks_problem = node_traces.write_run(job.run, folder, job.part_path)
        has_ticks = num_rows > 0
        if has_ticks:
            tables["summaries"] = summarise_part(job.run, job.part_path), None
    if metrics and not metrics_problem:
        metrics |= _accuracy(folder, metrics, tables, imported.get("om_perf_reason"))
    problems = [manifest_problem, imported.get("notes")]
    problems += [problem for _, problem in tables.values()]
    problems.append(ticks_problem)
    row = dict.fromkeys([*_RUN_COLUMNS, *_METRIC_COLUMNS])
    row |= _configured(folder) | _provenance(manifest) | imported
    if (row["num_nodes"] or 1) > 1:
        # A student of several nodes is another one, whatever launched them.
        row["setting"] = ", ".join(filter(None, (row["setting"], f"nodes={row['num_nodes']}")))
    if not metrics_problem:
        row |= {
            key: value if isinstance(value, (int, float)) else _text(value)
            for key, value in metrics.items()
            if key != "schema"
        }
    row |= {
        "run": job.run,
        "imported_as": _text(metrics.get("run")) if imported else None,
        "folder": str(folder),
        "state": state,
        "reason": reason,
        "finished": reason is None,
        "stage": _text(status.get("stage")),
        "attempt": attempt if isinstance(attempt := status.get("attempt"), int) else None,
        "updated_utc": _text(status.get("time_utc")),
        "notes": "; ".join(dict.fromkeys(filter(None, problems))) or None,
    }
    served, problem = tables["serving"]
    tables["serving"] = with_run(served, row), problem
    return Reading(row, {part: table for part, (table, _) in tables.items()}, has_ticks)


def _accuracy(
    folder: Path,
    metrics: dict[str, Any],
    tables: dict[str, tuple[pa.Table, str | None]],
    om_perf_reason: str | None,
) -> dict[str, Any]:
    """What metrics of an older version do not say of accuracy kept, and why it cannot be told.

    Chance levels are put into the table of scores, whose older records do not say them either.
    """
    found = {}
    if not run_accuracy.states_accuracy_kept(metrics):
        table, problem = tables["scores"]
        primaries = run_accuracy.stated_primaries(folder) if table.num_rows else {}
        scores = with_chance(table.to_pylist(), primaries)
        chance = pa.array([score["chance"] for score in scores], pa.float64())
        index = table.schema.get_field_index("chance")
        tables["scores"] = table.set_column(index, "chance", chance), problem
        found = run_accuracy.formed(scores, primaries, om_perf_reason=om_perf_reason)
    reason = run_accuracy.missing_reason(
        metrics | found, om_perf=metrics.get("om_perf"), om_perf_reason=om_perf_reason
    )
    return found | {"accuracy_kept_reason": reason}


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
        return state, error_words(status) or f"stage {stage} failed and left no error"
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
    gpus = _records_of(manifest, "gpus")
    names = [str(gpu.get("name")) for gpu in gpus]
    counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    drivers = {str(gpu["driver"]) for gpu in gpus if gpu.get("driver")}
    versions = {name: manifest.get(name) for name in ("kdwatts", "python")}
    versions |= manifest.get("versions") or {}
    versions = {name: version for name, version in versions.items() if version}
    estimate = manifest.get("cpu_estimate") or {}
    command = manifest.get("command")
    arguments = command[1:] if isinstance(command, list) else []
    return (
        {key: _text(manifest.get(key)) for key in ("host", "git_commit")}
        | _machines(manifest)
        | {
            "command": shlex.join(map(str, arguments)) or None,
            "cards": counted or None,
            "driver": ", ".join(sorted(drivers)) or _text(manifest.get("driver")),
            "cpu_estimate": _text(estimate.get("source")),
            "versions": json.dumps(versions) if versions else None,
        }
        | _examined(manifest)
    )


def _machines(manifest: dict[str, Any]) -> dict[str, Any]:
    """All nodes of a run and their processors. A manifest without nodes is of one, its host."""
    nodes = _records_of(manifest, "nodes") or ([manifest] if manifest else [])
    hosts, cpus = ([_text(node.get(key)) for node in nodes] for key in ("host", "cpu"))
    threads = [node.get("cpu_threads") for node in nodes]
    known = [count for count in threads if isinstance(count, int)]
    return {
        "num_nodes": len(nodes) or None,
        "hosts": ", ".join(filter(None, hosts)) or None,
        "cpu": ", ".join(dict.fromkeys(filter(None, cpus))) or None,
        "cpu_threads": sum(known) if known and len(known) == len(threads) else None,
    }


def _records_of(manifest: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [record for record in manifest.get(key) or [] if isinstance(record, dict)]


def _examined(manifest: dict[str, Any]) -> dict[str, Any]:
    """When the first attempt began, and the examinations that the attempts name, as JSON.

    Each attempt may have been on another machine, and after another examination.
    """
    earlier = manifest.get("earlier_attempts")
    attempts = [*(earlier if isinstance(earlier, list) else []), manifest]
    lists = [each.get("doctor") for each in attempts if isinstance(each, dict)]
    lists = [each for each in lists if isinstance(each, list)]
    named = dict.fromkeys(json.dumps(one) for each in lists for one in each)
    first = attempts[0] if isinstance(attempts[0], dict) else {}
    return {
        "started_utc": _text(first.get("time_utc")),
        "doctor": f"[{', '.join(named)}]" if lists else None,
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


def _configured(folder: Path) -> dict[str, Any]:
    """What the configuration asked for, so that a run without metrics still says what it was."""
    asked: dict[str, Any] = {}
    for path in (folder / ".hydra" / "config.yaml", folder / "config.yaml"):
        tree = read_settings(path)
        found = {key: value_at(tree, key, "name") for key in CHOICES}
        found |= {name: value_at(tree, "training", name) for name in ("seed", "precision")}
        found["serving_prompts"] = value_at(tree, "eval", "inference", "prompts")
        # Of .hydra a value may refer to another, which says nothing.
        asked |= {
            key: value
            for key, value in found.items()
            if (isinstance(value, int) if key == "seed" else isinstance(value, str))
            and not str(value).startswith("${")
        }
    overrides = read_settings(folder / ".hydra" / "overrides.yaml") or []
    words = (str(word).lstrip("+") for word in overrides if isinstance(overrides, list))
    settings = sorted(_as_swept(word) for word in words if not NO_SETTING.match(word))
    return asked | {"setting": ", ".join(settings) or None}


def _as_swept(word: str) -> str:
    """An override with its number as Hydra writes it in a sweep: 100000 for 100_000."""
    key, equals, value = word.partition("=")
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return f"{key}{equals}{number(value)}"
    return word
