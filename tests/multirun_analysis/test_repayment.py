"""When distilling pays, from folders of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.collect import collect
from multirun_analysis.curves import quality_against_joules
from multirun_analysis.repayment import repayment_section, repayments


def run_with_curve(make: Any, folder: Path, curve: list[tuple[float, float]], **metrics: Any):
    """A finished run and its readings of (joules, bits per byte) on held-out rows."""
    make.run(folder, heldout_bits_per_byte=curve[-1][1], own_energy_j=curve[-1][0], **metrics)
    rows = [
        {"schema": 1, "attempt": 1, "split": "heldout", "step": step, "tokens": step, "loss": 1.0}
        | {"energy_j": joules, "bits_per_byte": bits}
        for step, (joules, bits) in enumerate(curve, start=1)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pair(make: Any, directory: Path, sft_curve: list[tuple[float, float]]):
    """Fine-tuning, and a student distilled with 50 J after a teacher of 600 J."""
    run_with_curve(
        make,
        directory / "0",
        sft_curve,
        paradigm="sft",
        student_key="plain",
        inherited_energy_j=0.0,
        inherited_energy_by_artifact_j={},
    )
    run_with_curve(
        make,
        directory / "1",
        [(25.0, 4.0), (50.0, 3.0)],
        student_key="taught",
        own_energy_uncertainty_j=0.0,
        inherited_energy_j=600.0,
        inherited_energy_by_artifact_j={"teacher-1": 600.0},
    )
    collected = collect([directory])
    found = repayments(collected.runs, collected.train)
    return collected, {repayment.paradigm: repayment for repayment in found}


def test_a_teacher_is_repaid_by_students_that_fine_tuning_would_have_cost_more(
    make: Any, tmp_path: Path
):
    """Fine-tuning reaches 3 bits halfway between 150 J and 250 J: 600 / (200 - 50) are four."""
    _, found = pair(make, tmp_path, [(150.0, 3.5), (250.0, 2.5)])
    assert found["response"].students.value == pytest.approx(4)
    # Fine-tuning inherits no teacher that could be repaid.
    assert found["sft"].students.verdict == "unknown"


def test_a_quality_that_fine_tuning_does_not_have_is_not_reached(make: Any, tmp_path: Path):
    _, found = pair(make, tmp_path, [(150.0, 3.5), (250.0, 3.1)])
    assert found["response"].students.verdict == "not reached"


def test_tokens_repay_own_energy_and_the_share_of_what_was_inherited(make: Any, tmp_path: Path):
    """650 J over 0.11 - 0.019 J a token."""
    _, found = pair(make, tmp_path, [(150.0, 3.5), (250.0, 3.1)])
    assert found["response"].tokens.value == pytest.approx(650 / 0.091)
    first, *_, last = found["response"].lifetime
    assert first is not None and first == pytest.approx(0.95 * 1e6 * 0.11 / (650 + 1e6 * 0.019))
    assert last == pytest.approx(0.95 * 0.11 / 0.019, rel=1e-5)


def test_a_teacher_that_all_seeds_share_keeps_the_interval_of_its_one_measurement(make, tmp_path):
    """11 mJ a token, 95 % within 0.98 mJ: a standard deviation of 0.5 mJ, of three seeds too."""
    teacher = {"teacher_total_j_per_token": 0.011, "teacher_total_interval_95_j": 0.00098}
    students = (0.002, 0.003, 0.004)
    make.seeds(tmp_path, [{"student_total_j_per_token": each, **teacher} for each in students])
    collected = collect([tmp_path])
    (found,) = repayments(collected.runs, collected.train)
    assert found.teacher.value == pytest.approx(0.011)
    assert found.teacher.sd == pytest.approx(0.0005)
    # Students are measured each: s = 1 mJ, and 4.303 / sqrt(3) of it is half the interval.
    assert found.student.sd == pytest.approx(0.001 * 4.3027 / 3**0.5 / 1.96, rel=1e-4)


def test_the_page_says_the_verdict_in_words(make: Any, tmp_path: Path):
    collected, _ = pair(make, tmp_path, [(150.0, 3.5), (250.0, 3.1)])
    text = repayment_section(collected.runs, collected.train)
    assert "not reached" in text and "7.14 k" in text


def test_runs_that_served_nothing_and_read_nothing_are_in_no_table(make: Any, tmp_path: Path):
    make.run(tmp_path / "0", student_total_j_per_token=None, teacher_total_j_per_token=None)
    collected = collect([tmp_path])
    assert repayments(collected.runs, collected.train) == []
    assert repayment_section(collected.runs, collected.train) == ""
    assert not quality_against_joules(collected.train, collected.runs).data


def test_quality_is_drawn_over_the_joules_of_its_readings(make: Any, tmp_path: Path):
    collected, _ = pair(make, tmp_path, [(150.0, 3.5), (250.0, 3.1)])
    fig = quality_against_joules(collected.train, collected.runs)
    lines = {trace.name: (list(trace.x), list(trace.y)) for trace in fig.data}
    assert lines == {"response": ([25, 50], [4, 3]), "sft": ([150, 250], [3.5, 3.1])}


def test_fine_tuning_under_another_power_limit_is_no_baseline(make: Any, tmp_path: Path):
    """At 250 W it reaches 3 bits at 200 J, at 700 W at 900 J: 600 / (200 - 50) are four."""
    shared = {"inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {}, "paradigm": "sft"}
    for name, limit_w, curve in (
        ("0", 700.0, [(850.0, 3.5), (950.0, 2.5)]),
        ("1", 250.0, [(150.0, 3.5), (250.0, 2.5)]),
    ):
        run_with_curve(
            make, tmp_path / name, curve, student_key=name, power_limit_w=limit_w, **shared
        )
    run_with_curve(
        make,
        tmp_path / "2",
        [(25.0, 4.0), (50.0, 3.0)],
        student_key="taught",
        power_limit_w=250.0,
        own_energy_uncertainty_j=0.0,
        inherited_energy_j=600.0,
        inherited_energy_by_artifact_j={"teacher-1": 600.0},
    )
    collected = collect([tmp_path])
    (found,) = (r for r in repayments(collected.runs, collected.train) if r.paradigm == "response")
    assert found.students.value == pytest.approx(4)
