"""Accuracy kept: the student's benchmark scores beside its teacher's."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class BenchmarkScore:
    """Primary, higher-is-better metric of one benchmark for the student and its teacher."""

    benchmark: str
    student: float
    teacher: float
    student_stderr: float | None
    teacher_stderr: float | None
    chance: float | None
    """Score of guessing; None where the benchmark has none."""


@dataclass(frozen=True)
class OmPerf:
    """Accuracy kept by the student."""

    ratio: float | None
    """Mean over benchmarks of student score over teacher score."""
    stderr: float | None
    """One standard error, by the delta method, benchmarks taken as independent."""
    corrected: float | None
    """The same of (score - chance), over the benchmarks whose teacher is clear of chance."""
    at_chance: tuple[str, ...]
    """Benchmarks left out of `corrected`: teacher within two standard errors of chance."""
    low: float | None = None
    """2.5th percentile of `ratio` over the bootstrap; None where a standard error is unknown."""
    high: float | None = None
    """97.5th percentile."""


def om_perf(scores: Sequence[BenchmarkScore]) -> OmPerf:
    """Mean over benchmarks of student over teacher score (arXiv 2605.13981).

    A benchmark on which the teacher scores 0 has no ratio and makes the mean None. The standard
    error of s/t is |s/t| sqrt((u_s/s)^2 + (u_t/t)^2), written without dividing by s. The interval
    is a parametric bootstrap's: scores drawn anew from normal distributions of their standard
    errors (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 6.5), so that it
    is lopsided where a teacher's score is small against its error.
    """
    if not scores or any(score.teacher <= 0 for score in scores):
        return OmPerf(None, None, None, ())
    ratio = sum(score.student / score.teacher for score in scores) / len(scores)
    errors = [_ratio_stderr(score) for score in scores]
    stderr = _root_sum_square(errors)
    at_chance = tuple(score.benchmark for score in scores if _at_chance(score))
    corrected = [
        (score.student - score.chance) / (score.teacher - score.chance)
        for score in scores
        if score.chance is not None and not _at_chance(score)
    ]
    low, high = (None, None) if stderr is None else _bootstrap_interval(scores)
    return OmPerf(
        ratio,
        None if stderr is None else stderr / len(scores),
        sum(corrected) / len(corrected) if corrected else None,
        at_chance,
        low,
        high,
    )


def _bootstrap_interval(scores: Sequence[BenchmarkScore]) -> tuple[float, float]:
    """The same numbers for the same scores: the generator has a fixed seed."""
    generator = random.Random(0)
    means = sorted(
        math.fsum(
            generator.gauss(score.student, score.student_stderr or 0.0)
            / max(generator.gauss(score.teacher, score.teacher_stderr or 0.0), 1e-9)
            for score in scores
        )
        / len(scores)
        for _ in range(BOOTSTRAP_DRAWS)
    )
    edge = round(0.025 * BOOTSTRAP_DRAWS)
    return means[edge - 1], means[-edge]


def _ratio_stderr(score: BenchmarkScore) -> float | None:
    if score.student_stderr is None or score.teacher_stderr is None:
        return None
    ratio = score.student / score.teacher
    return math.hypot(score.student_stderr, ratio * score.teacher_stderr) / score.teacher


def _at_chance(score: BenchmarkScore) -> bool:
    if score.chance is None:
        return False
    return score.teacher - score.chance <= 2 * (score.teacher_stderr or 0.0)


def _root_sum_square(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.sqrt(sum((value or 0.0) ** 2 for value in known))
