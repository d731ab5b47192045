"""Accuracy kept: the student's benchmark scores beside its teacher's."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class BenchmarkScore:
    """Student's and teacher's score on one benchmark, by its primary metric. Higher is better."""

    benchmark: str
    student: float
    teacher: float
    student_stderr: float | None
    teacher_stderr: float | None
    chance: float | None
    """The score of guessing. None where the benchmark has none."""


@dataclass(frozen=True)
class Kept:
    """Accuracy kept: how far the student is above chance, over how far its teacher is."""

    value: float | None
    """Mean over `benchmarks` of (student - chance) / (teacher - chance), no unit.

    None where no benchmark's teacher is above chance.
    """
    low: float | None
    """Lower end of the 95 % interval over the benchmarks' samples.

    None where a standard error is unknown.
    """
    high: float | None
    """Upper end of the 95 % interval."""
    benchmarks: tuple[str, ...]
    """The benchmarks in the mean: the teacher is at least two standard errors above chance."""
    teacher_at_chance: tuple[str, ...]
    """The benchmarks where the teacher is not. They say nothing about what was kept."""
    student_at_chance: tuple[str, ...]
    """The benchmarks where the student is less than two standard errors above chance."""
    without_chance: tuple[str, ...]
    """The benchmarks whose chance level is not known. They are left out too."""


def is_at_chance(score: float, stderr: float | None, chance: float | None) -> bool:
    """Whether a score is less than two standard errors above chance.

    False where `chance` is unknown. Without a standard error, the score is at chance when it is not
    above it.
    """
    if chance is None:
        return False
    above = score - chance
    return above <= 0 or above < 2 * (stderr or 0.0)


def accuracy_kept(scores: Sequence[BenchmarkScore]) -> Kept:
    """Accuracy kept: the mean over benchmarks of (student - chance) / (teacher - chance), a share.

    Benchmarks whose teacher is at chance, or whose chance level is unknown, are left out. The 95 %
    interval is that of a parametric bootstrap: scores are drawn from normal distributions with
    their standard errors (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section
    6.5). It is longer on one side where a teacher is near chance.
    """
    without = tuple(score.benchmark for score in scores if score.chance is None)
    teacher_at_chance = _teachers_at_chance(scores)
    student_at_chance = tuple(
        score.benchmark
        for score in scores
        if is_at_chance(score.student, score.student_stderr, score.chance)
    )
    counted = _counted(scores)
    low = high = None
    if counted and all(None not in (s.student_stderr, s.teacher_stderr) for s in counted):
        means = _drawn_means(counted, above_chance=True)
        low, high = percentile(means, 2.5), percentile(means, 97.5)
    names = tuple(score.benchmark for score in counted)
    return Kept(
        _mean_share(counted), low, high, names, teacher_at_chance, student_at_chance, without
    )


def _teachers_at_chance(scores: Sequence[BenchmarkScore]) -> tuple[str, ...]:
    return tuple(
        score.benchmark
        for score in scores
        if is_at_chance(score.teacher, score.teacher_stderr, score.chance)
    )


def _counted(scores: Sequence[BenchmarkScore]) -> list[BenchmarkScore]:
    """Those that say what was kept: their chance is known and their teacher is above it."""
    return [
        score
        for score in scores
        if score.chance is not None
        and not is_at_chance(score.teacher, score.teacher_stderr, score.chance)
    ]


def _mean_share(counted: Sequence[BenchmarkScore]) -> float | None:
    shares = [(s.student - (s.chance or 0.0)) / (s.teacher - (s.chance or 0.0)) for s in counted]
    return math.fsum(shares) / len(shares) if shares else None


def percentile(ordered: Sequence[float], share_pct: float) -> float:
    """The nearest of these values, which are in ascending order."""
    return ordered[min(len(ordered) - 1, round(share_pct / 100 * len(ordered)))]


def _drawn_means(scores: Sequence[BenchmarkScore], *, above_chance: bool) -> list[float]:
    """Means over benchmarks of scores drawn anew, ascending; the same for the same scores."""
    generator = random.Random(0)  # A generator of its own, so that each call draws alike.
    means = []
    for _ in range(BOOTSTRAP_DRAWS):
        shares = []
        for score in scores:
            chance = (score.chance or 0.0) if above_chance else 0.0
            student = generator.gauss(score.student, score.student_stderr or 0.0) - chance
            teacher = generator.gauss(score.teacher, score.teacher_stderr or 0.0) - chance
            shares.append(student / max(teacher, 1e-9))
        means.append(math.fsum(shares) / len(shares))
    return sorted(means)


@dataclass(frozen=True)
class OmPerf:
    """OM_perf of a student (arXiv 2605.13981), with its error."""

    ratio: float | None
    """Mean over benchmarks of student score over teacher score, no unit.

    None without scores, and where the teacher scores 0 on a benchmark.
    """
    stderr: float | None
    """One standard error by the delta method. Benchmarks count as independent."""
    corrected: float | None
    """Accuracy kept: the same of (score - chance), where the teacher is clearly above chance."""
    at_chance: tuple[str, ...]
    """Benchmarks left out of `corrected`, as the teacher is less than two errors above chance."""
    low: float | None = None
    """Lower end of the 95 % interval of `ratio`. None where a standard error is unknown."""
    high: float | None = None
    """Upper end of the 95 % interval of `ratio`."""


def om_perf(scores: Sequence[BenchmarkScore]) -> OmPerf:
    """OM_perf: the mean over benchmarks of student score over teacher score (arXiv 2605.13981).

    The mean is None when the teacher scores 0 on a benchmark. The standard error of s/t is |s/t|
    sqrt((u_s/s)^2 + (u_t/t)^2), in a form that does not divide by s. The 95 % interval is that of a
    parametric bootstrap: scores are drawn from normal distributions with their standard errors
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 6.5).
    """
    if not scores or any(score.teacher <= 0 for score in scores):
        return OmPerf(None, None, None, ())
    ratio = sum(score.student / score.teacher for score in scores) / len(scores)
    errors = [_ratio_stderr(score) for score in scores]
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) if len(known) == len(errors) else None
    low = high = None
    if stderr is not None:
        means = _drawn_means(scores, above_chance=False)
        low, high = percentile(means, 2.5), percentile(means, 97.5)
    return OmPerf(
        ratio,
        None if stderr is None else stderr / len(scores),
        _mean_share(_counted(scores)),
        _teachers_at_chance(scores),
        low,
        high,
    )


def _ratio_stderr(score: BenchmarkScore) -> float | None:
    if score.student_stderr is None or score.teacher_stderr is None:
        return None
    ratio = score.student / score.teacher
    return math.hypot(score.student_stderr, ratio * score.teacher_stderr) / score.teacher
