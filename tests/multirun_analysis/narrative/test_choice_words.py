"""What is said of settings that keep less than is asked, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multirun_analysis.collect.collection import collect
from multirun_analysis.narrative.choice_words import choice_words
from multirun_analysis.statistics.choice import Gate, choose
from multirun_analysis.values.rows import distinct_students


def test_a_setting_whose_interval_reaches_what_is_asked_is_not_said_to_keep_too_little(
    make: Any, tmp_path: Path
):
    """0.394 to 0.564 holds 0.5; 0.308 to 0.475 does not."""
    kept = {"sft": (0.39, 0.308, 0.475), "relational": (0.475, 0.394, 0.564)}
    for paradigm, (value, low, high) in kept.items():
        make.run(
            tmp_path / paradigm,
            paradigm=paradigm,
            student_key=paradigm,
            accuracy_kept=value,
            accuracy_kept_low=low,
            accuracy_kept_high=high,
        )
    students = distinct_students(collect([tmp_path]).runs)
    choice = choose(students, gate=Gate(0.5), tokens=1e9)
    said = choice_words(choice, None, Gate(0.5), days=365)
    assert "Keeps too little: sft (39 %, 31 to 48 %)." in said
    assert "the interval reaches your limit: relational (48 %, 39 to 56 %)." in said


def test_runs_without_scores_are_answered_with_the_benchmarks_that_need_no_network():
    said = choice_words(choose([], gate=Gate(0.5), tokens=1e9), None, Gate(0.5), days=365)
    assert said.endswith("Run with eval=tiny, eval=offline, eval=quick or eval=paper.")
