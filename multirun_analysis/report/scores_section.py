"""The scores behind accuracy kept, also where nothing may be divided by the teacher's."""

from __future__ import annotations

from typing import NamedTuple

from kdwatts.metrics.accuracy_kept import is_at_chance
from multirun_analysis.collect.labels import run_name
from multirun_analysis.figures.quality_kept import ABOVE_TEACHER
from multirun_analysis.importer.known import BENCHMARKS
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.accuracy_words import kept_words, missing_reasons
from multirun_analysis.values.notices import notices_of
from multirun_analysis.values.order import in_order, position
from multirun_analysis.values.rows import Row, to_rows


def scores(study: Study) -> Values | None:
    """A table of runs by benchmarks, each with the student's score and the teacher's."""
    found = {
        (score["run"], score["task"], score["subject"]): score
        for score in to_rows(study.collected.scores)
        if score["value"] is not None and _is_primary(score)
    }
    metrics = {task: score["metric"] for (_, task, _), score in found.items()}
    order = list(BENCHMARKS)
    tasks = sorted(metrics, key=lambda task: (position(order, task), task))
    scored = {run for run, _, _ in found}
    runs = in_order([run for run in study.rows if run["finished"] and run["run"] in scored])
    if not runs:
        return None
    pairs = {
        run["run"]: [
            _pair(*(found.get((run["run"], task, who)) for who in ("student", "teacher")))
            for task in tasks
        ]
        for run in runs
    }
    every = [pair for row in pairs.values() for pair in row]
    reasons = missing_reasons(runs).items()
    return {
        "metrics": {task: metrics[task] for task in tasks},
        "runs": [
            run | {"kept_words": kept_words([run]), "pairs": pairs[run["run"]]} for run in runs
        ],
        "above_teacher": ABOVE_TEACHER,
        "any_above": any(pair.is_above for pair in every),
        "why_none": notices_of((run_name(run), why) for why, same in reasons for run in same),
    }


def _is_primary(score: Row) -> bool:
    """Whether a score is of the metric that counts: it has a chance level, or is known to count."""
    known_ = BENCHMARKS.get(score["task"])
    return score.get("chance") is not None or (
        known_ is not None and score["metric"] == known_.metric
    )


class _Pair(NamedTuple):
    student: Row | None
    teacher: Row | None
    is_above: bool
    """Whether the student passes its teacher, which one at chance never does."""


def _pair(student: Row | None, teacher: Row | None) -> _Pair:
    student, teacher = _with_chance(student), _with_chance(teacher)
    if student is None or teacher is None:
        return _Pair(student, teacher, False)
    is_above = not student["is_at_chance"] and student["value"] > teacher["value"]
    return _Pair(student, teacher, is_above)


def _with_chance(score: Row | None) -> Row | None:
    if score is None:
        return None
    chance = score.get("chance")
    return score | {"is_at_chance": is_at_chance(score["value"], score["stderr"], chance)}
