"""Records of scores as what accuracy kept is formed from."""

from __future__ import annotations

from typing import Any

from kdwatts.metrics.accuracy_kept import BenchmarkScore
from kdwatts.metrics.scores import benchmark_scores, benchmarks_at_chance, with_chance

PRIMARIES = {"mmlu": ("acc", 0.25), "held_out": ("bits_per_byte", None)}


def record(subject: str, value: float | None, **changes: Any) -> dict[str, Any]:
    score = {"subject": subject, "task": "mmlu", "metric": "acc", "value": value}
    return score | {"stderr": 0.01, "higher_is_better": True} | changes


def test_chance_stands_beside_the_metric_that_counts_and_beside_no_other():
    scores = [record("student", 0.4), record("student", 0.5, metric="acc_norm")]
    scores.append(record("student", 0.4, task="mmlu_anatomy"))
    assert [score["chance"] for score in with_chance(scores, PRIMARIES)] == [0.25, None, None]


def test_a_benchmark_counts_where_both_have_its_metric_and_more_is_better():
    lower = {"task": "held_out", "metric": "bits_per_byte", "higher_is_better": False}
    scores = [record(subject, 1.0, **lower) for subject in ("student", "teacher")]
    assert benchmark_scores([*scores, record("student", 0.4)], PRIMARIES) == []
    assert benchmark_scores([record("student", 0.4), record("teacher", None)], PRIMARIES) == []
    pair = [record("student", 0.4), record("teacher", 0.6, stderr=0.02)]
    assert benchmark_scores([*scores, *pair], PRIMARIES) == [
        BenchmarkScore("mmlu", 0.4, 0.6, 0.01, 0.02, 0.25)
    ]


def test_a_student_is_at_chance_on_what_its_own_score_says_whether_or_not_a_teacher_has_one():
    """0.269 is 1.9 standard errors of 0.01 above 0.25, and 0.271 is 2.1."""
    assert benchmarks_at_chance([record("student", 0.269)], PRIMARIES, subject="student") == [
        "mmlu"
    ]
    scores = [record("student", 0.271), record("teacher", 0.1)]
    assert benchmarks_at_chance(scores, PRIMARIES, subject="student") == []
