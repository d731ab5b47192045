"""Accuracy kept of one run, why it cannot be told, and on which benchmarks it is at chance.

Records of older versions do not state it. It is computed from their scores, with the chance levels
that the run's configuration states, or else those of the table of known benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdwatts.metrics.accuracy_kept import accuracy_kept
from kdwatts.metrics.scores import Primaries, benchmark_scores, benchmarks_at_chance
from multirun_analysis.importer.known import PRIMARIES
from multirun_analysis.importer.lm_eval_results import TEACHER_SCORES_0
from multirun_analysis.values.yaml_files import read_settings, value_at

KEY = "accuracy_kept"
NO_SCORES = "its records hold no scores that it could be formed from"

Record = Mapping[str, Any]


def states_accuracy_kept(metrics: Record) -> bool:
    """Whether a run's metrics state accuracy kept themselves, or state that it cannot be told."""
    return KEY in metrics


def stated_primaries(folder: Path) -> Primaries:
    """The metrics that count and their chance levels, as the run was configured or as is known."""
    tasks = value_at(read_settings(folder / "config.yaml"), "eval", "tasks")
    primaries = dict(PRIMARIES)
    for task in tasks if isinstance(tasks, list) else ():
        name, metric = value_at(task, "name"), value_at(task, "primary_metric")
        if isinstance(name, str) and isinstance(metric, str):
            name = name.replace(":", "_")
            known_metric, known = PRIMARIES.get(name, (None, None))
            chance = task.get("chance", known if known_metric == metric else None)
            primaries[name] = metric, chance if isinstance(chance, (int, float)) else None
    return primaries


def formed(
    scores: Sequence[Record], primaries: Primaries, *, om_perf_reason: str | None
) -> dict[str, Any]:
    """The fields of accuracy kept that a record of this version has.

    An imported student whose teacher was asked differently, as the reason says, is not compared.
    """
    alike = om_perf_reason in (None, TEACHER_SCORES_0)
    kept = accuracy_kept(benchmark_scores(scores, primaries) if alike else [])
    return {
        KEY: kept.value,
        "accuracy_kept_low": kept.low,
        "accuracy_kept_high": kept.high,
        "accuracy_kept_benchmarks": list(kept.benchmarks),
        "benchmarks_without_chance": list(kept.without_chance),
        **{
            f"{subject}_at_chance": benchmarks_at_chance(scores, primaries, subject=subject)
            for subject in ("student", "teacher")
        },
    }


def missing_reason(
    found: Record, *, om_perf: float | None, om_perf_reason: str | None
) -> str | None:
    """Why accuracy kept has no value. None where it has one, and where nothing was evaluated."""
    if found.get(KEY) is not None:
        return None
    if om_perf_reason not in (None, TEACHER_SCORES_0):
        return om_perf_reason
    at_chance, without = (
        found.get(key) or [] for key in ("teacher_at_chance", "benchmarks_without_chance")
    )
    if at_chance:
        which = "every benchmark that has a chance level" if without else "every benchmark"
        return f"the teacher is at chance on {which} ({', '.join(at_chance)})"
    if without:
        return f"no chance level is known of {', '.join(without)}"
    return None if om_perf is None else NO_SCORES
