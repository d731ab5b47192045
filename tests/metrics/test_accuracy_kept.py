"""Accuracy kept above chance, by hand and by simulation."""

from __future__ import annotations

import random

import pytest

from kdwatts.metrics import accuracy_kept as room
from kdwatts.metrics.accuracy_kept import BenchmarkScore, accuracy_kept, is_at_chance, om_perf


def _score(
    name: str, student: float, teacher: float, chance: float | None, stderr: float | None = 0.01
):
    return BenchmarkScore(name, student, teacher, stderr, stderr, chance)


def test_what_is_kept_is_the_share_of_the_way_from_chance_to_the_teacher():
    """(0.45 - 0.25) / (0.65 - 0.25) = 0.5 and 0.3 / 0.4 = 0.75: 0.625 in the mean."""
    kept = accuracy_kept([_score("mmlu", 0.45, 0.65, 0.25), _score("gsm8k", 0.3, 0.4, 0.0)])
    assert kept.value == pytest.approx(0.625)
    assert kept.benchmarks == ("mmlu", "gsm8k")
    assert kept.low is not None and kept.high is not None
    assert kept.low < 0.625 < kept.high


def test_a_student_at_chance_keeps_nothing_where_the_plain_ratio_says_two_fifths():
    scores = [_score("mmlu", 0.25, 0.65, 0.25)]
    kept = accuracy_kept(scores)
    assert kept.value == pytest.approx(0.0)
    assert om_perf(scores).ratio == pytest.approx(0.25 / 0.65)
    assert kept.student_at_chance == ("mmlu",)


def test_a_teacher_at_chance_everywhere_tells_nothing():
    """26.4 % of 281 questions, each model: the plain ratio is 0.985."""
    kept = accuracy_kept([_score("mmlu_dev", 0.260, 0.264, 0.25, stderr=0.026)])
    assert (kept.value, kept.low, kept.high, kept.benchmarks) == (None, None, None, ())
    assert kept.teacher_at_chance == kept.student_at_chance == ("mmlu_dev",)


def test_a_benchmark_whose_teacher_is_at_chance_does_not_dilute_the_others():
    kept = accuracy_kept([_score("mmlu", 0.45, 0.65, 0.25), _score("arc", 0.26, 0.26, 0.25)])
    assert kept.value == pytest.approx(0.5)
    assert kept.benchmarks == ("mmlu",)
    assert kept.teacher_at_chance == ("arc",)


def test_a_benchmark_without_a_level_of_chance_is_left_out_and_named():
    kept = accuracy_kept(
        [_score("truthfulqa_mc2", 0.4, 0.5, None), _score("mmlu", 0.45, 0.65, 0.25)]
    )
    assert kept.without_chance == ("truthfulqa_mc2",)
    assert kept.benchmarks == ("mmlu",)


@pytest.mark.parametrize(
    ("score", "stderr", "expected"),
    [
        (0.27, 0.01, False),
        (0.269, 0.01, True),
        (0.20, 0.01, True),
        (0.26, None, False),
        (0.25, None, True),
    ],
)
def test_two_standard_errors_are_what_tells_a_score_from_guessing(score, stderr, expected):
    assert is_at_chance(score, stderr, 0.25) is expected


def test_a_score_without_a_level_of_chance_is_never_at_chance():
    assert not is_at_chance(0.0, 0.01, None)


def test_there_is_no_interval_without_standard_errors():
    kept = accuracy_kept([_score("mmlu", 0.45, 0.65, 0.25, stderr=None)])
    assert kept.value == pytest.approx(0.5)
    assert (kept.low, kept.high) == (None, None)


def test_the_interval_holds_what_is_truly_kept_in_95_of_100_worlds(monkeypatch):
    """300 worlds of three benchmarks whose teacher is 5 to 20 standard errors above chance."""
    monkeypatch.setattr(room, "BOOTSTRAP_DRAWS", 1000)
    generator = random.Random(3)
    truths = [
        ("a", 0.35, 0.45, 0.25, 0.02),
        ("b", 0.30, 0.35, 0.25, 0.02),
        ("c", 0.2, 0.4, 0.0, 0.02),
    ]
    kept_truly = sum((s - c) / (t - c) for _, s, t, c, _ in truths) / 3
    held = 0
    for _ in range(300):
        kept = accuracy_kept(
            [
                BenchmarkScore(n, generator.gauss(s, e), generator.gauss(t, e), e, e, c)
                for n, s, t, c, e in truths
            ]
        )
        assert kept.low is not None and kept.high is not None
        held += kept.low <= kept_truly <= kept.high
    assert 0.92 <= held / 300 <= 0.985
