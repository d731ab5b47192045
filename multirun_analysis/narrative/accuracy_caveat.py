"""What a reader must know of accuracy kept: what it is over, what is left out of it, and why."""

from __future__ import annotations

from collections import Counter

from multirun_analysis.statistics.accuracy_words import (
    AT_CHANCE,
    KEPT,
    NOT_TOLD,
    missing_reasons,
    names_of,
)
from multirun_analysis.values.rows import Row, grouped, known


def accuracy_caveat(scores: list[Row], students: list[Row]) -> str:
    """What accuracy kept is over, what is left out of it and why, and who is at chance."""
    compared = {run["run"] for run in students if _is_compared(run)}
    scores = [row for row in scores if row["run"] in compared and row["higher_is_better"]]
    parts = []
    if scores:
        tasks = {
            f"{row['task']} ({row['metric']}, {row['num_fewshot']}-shot, {row['num_samples']} "
            f"samples, {row['harness']} {row['harness_version']})": None
            for row in scores
        }
        more = f" and {len(tasks) - 12} more" if len(tasks) > 12 else ""
        parts.append(
            "For accuracy kept, each benchmark gives (student - chance) / (teacher - chance). "
            "Chance is what guessing scores. Accuracy kept is the mean of these shares. It leaves "
            "out benchmarks where the teacher is less than two standard errors above chance. "
            "OM_perf is the mean of student score / teacher score over all benchmarks. "
            f"Benchmarks: {', '.join(list(tasks)[:12])}{more}."
        )
    parts += _left_out(students)
    by_run = grouped(scores, "run").values()
    if len({frozenset((row["task"], row["num_fewshot"]) for row in rows) for rows in by_run}) > 1:
        parts.append(
            "Runs were scored on different sets of benchmarks. Compare accuracy only within a set."
        )
    if scores and len({run["model"] for run in students}) > 1:
        parts.append("There are several pairs. Each student is compared with its own teacher.")
    return " ".join(parts)


def _is_compared(run: Row) -> bool:
    return bool(known([run], KEPT) or known([run], "om_perf") or names_of(run, "teacher_at_chance"))


def _left_out(students: list[Row]) -> list[str]:
    """Benchmarks that do not count, and why; and students at chance."""
    total = len(students)
    parts = [
        f"Accuracy kept is {NOT_TOLD} for {len(rows)} of {total} students: {reason}."
        for reason, rows in missing_reasons(students).items()
        # How imported runs were evaluated stands with them.
        if any(run["om_perf_reason"] != reason for run in rows)
    ]
    for column, why in (
        ("teacher_at_chance", "the teacher is less than two standard errors above chance"),
        ("benchmarks_without_chance", "guessing has no known score there"),
    ):
        if words := _counted(known(students, KEPT), column):
            parts.append(f"Left out, because {why}: {words}.")
    if words := _counted(students, "student_at_chance"):
        parts.append(f"Students {AT_CHANCE} (no better than guessing): {words}.")
    return parts


def _counted(runs: list[Row], column: str) -> str:
    """The benchmarks of a column, each with the number of students that it concerns."""
    counts = Counter(name for run in runs for name in names_of(run, column))
    return ", ".join(f"{name} ({n} of {len(runs)} students)" for name, n in counts.items())
