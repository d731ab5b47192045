"""Score records as input of accuracy kept, and which of them are at chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdwatts.metrics.accuracy_kept import BenchmarkScore, is_at_chance

Record = Mapping[str, Any]
"""A score as eval.json holds it. One of an older version has no `chance`."""

Primaries = Mapping[str, tuple[str, float | None]]
"""Benchmark to the metric that counts for it, and to its chance level. None where it has none."""


def with_chance(scores: Iterable[Record], primaries: Primaries) -> list[dict[str, Any]]:
    """The records with `chance` filled in for the metric that counts, and None for all others."""
    return [
        {**score, "chance": primaries[score["task"]][1] if _is_primary(score, primaries) else None}
        for score in scores
    ]


def benchmark_scores(
    scores: Sequence[Record], primaries: Primaries, *, subject: str = "student"
) -> list[BenchmarkScore]:
    """The primary, higher-is-better scores that a subject, the student, and its teacher both have.

    Another subject is one of the two in few bits, such as teacher_int4.
    """
    students, teachers = (_by_task(scores, primaries, who) for who in (subject, "teacher"))
    return [
        BenchmarkScore(
            task,
            students[task]["value"],
            teachers[task]["value"],
            students[task]["stderr"],
            teachers[task]["stderr"],
            chance,
        )
        for task, (_, chance) in primaries.items()
        if task in students and task in teachers
    ]


def benchmarks_at_chance(
    scores: Sequence[Record], primaries: Primaries, *, subject: str
) -> list[str]:
    """The benchmarks on which a model is less than two standard errors above chance."""
    return [
        task
        for task, score in _by_task(scores, primaries, subject).items()
        if is_at_chance(score["value"], score["stderr"], primaries[task][1])
    ]


def _by_task(scores: Sequence[Record], primaries: Primaries, subject: str) -> dict[str, Record]:
    return {
        score["task"]: score
        for score in scores
        if score["subject"] == subject
        and _is_primary(score, primaries)
        and score["value"] is not None
        and score["higher_is_better"]
    }


def _is_primary(score: Record, primaries: Primaries) -> bool:
    return score["task"] in primaries and score["metric"] == primaries[score["task"]][0]
