"""When distilling pays, from folders of runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.curves import quality_against_joules
from multirun_analysis.statistics.repayment import efficiency, joules_ratio, repayments
from tests.multirun_analysis.page_words import section_of


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
    make.serving(directory / "1", student=[0.019] * 3, teacher=[0.11] * 3)
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
    first, last = (efficiency(found["response"], tokens).value for tokens in (1e6, 1e12))
    assert first == pytest.approx(0.95 * 1e6 * 0.11 / (650 + 1e6 * 0.019))
    # It tends to Eff_overall.
    assert last == pytest.approx(0.95 * 0.11 / 0.019, rel=1e-5)


def test_an_efficiency_has_an_interval_of_accuracy_and_joules_or_is_unresolved(make, tmp_path):
    kept = {"om_perf_low": 0.9, "om_perf_high": 1.0}
    once = make.run(tmp_path / "once" / "0", **kept)
    make.serving(once, student=[0.019], teacher=[0.11])
    many = make.run(tmp_path / "many" / "0", **kept)
    make.serving(many, student=[0.018, 0.019, 0.020], teacher=[0.10, 0.11, 0.12])
    for folder, is_told in (("once", False), ("many", True)):
        found = collect([tmp_path / folder])
        (repayment,) = repayments(found.runs, found.train)
        told = efficiency(repayment, 1e9)
        assert told.is_bounded is is_told
        assert (">unresolved<" in section_of(found, "repayment")) is not is_told
        if told.low is not None and told.value is not None:
            ratio = joules_ratio(repayment, 1e9)
            assert ratio.low is not None and ratio.value is not None
            apart = math.hypot(math.log(0.95 / 0.9), math.log(ratio.value / ratio.low))
            assert told.low == pytest.approx(told.value * math.exp(-apart))


def test_beside_a_teacher_at_chance_no_efficiency_is_told(make: Any, tmp_path: Path):
    """98 % of a score that guessing reaches are no accuracy for any joules."""
    make.serving(
        make.run(
            tmp_path / "0", om_perf=0.98, accuracy_kept=None, accuracy_kept_low=None,
            accuracy_kept_high=None, teacher_at_chance=["mmlu"],
        ),
        student=[0.019] * 3, teacher=[0.11] * 3,
    )  # fmt: skip
    found = collect([tmp_path])
    (repayment,) = repayments(found.runs, found.train)
    assert repayment.tokens.verdict == "reached"
    assert efficiency(repayment, 1e9).value is None


def test_a_teacher_measured_once_has_the_spread_of_the_students_beside_it(make, tmp_path):
    """Students of 2, 3 and 4 mJ lie a third apart: of the teacher's 12 mJ 4 mJ, t of 2 degrees."""
    teacher = {"teacher_total_j_per_token": 0.012, "teacher_total_interval_95_j": 0.00098}
    students = (0.002, 0.003, 0.004)
    make.seeds(tmp_path, [{"student_total_j_per_token": each, **teacher} for each in students])
    collected = collect([tmp_path])
    (found,) = repayments(collected.runs, collected.train)
    assert found.student.value == pytest.approx(0.003)
    assert found.student.random_sd == pytest.approx(0.001 / 3**0.5)
    assert (found.student.degrees, found.teacher.degrees) == (2, 2)
    assert found.teacher.value == pytest.approx(0.012)
    assert found.teacher.random_sd == pytest.approx(0.004)
    # 12 - 3 mJ are within 4.3 * 4.04 mJ: nothing is told.
    assert found.tokens.verdict == "unresolved"


def test_settings_of_one_architecture_have_one_figure_and_nothing_ranks_them_by_it(make, tmp_path):
    for name, j in (("sft", 0.0134), ("response", 0.0244)):
        make.run(tmp_path / name, paradigm=name, student_key=name, student_total_j_per_token=j)
    collected = collect([tmp_path])
    found = repayments(collected.runs, collected.train)
    assert [r.student.value for r in found] == pytest.approx([0.0189, 0.0189])
    assert len({r.student for r in found}) == 1


@pytest.mark.parametrize("spread", (0.0, 0.001, 0.02, 0.04, 0.09))
def test_reached_has_two_ends_and_no_other_verdict_has_an_upper_one(make, tmp_path, spread):
    make.serving(
        make.run(tmp_path / "0"),
        student=[0.02] * 3,
        teacher=[0.1 - spread, 0.1, 0.1 + spread],
    )
    collected = collect([tmp_path])
    (found,) = repayments(collected.runs, collected.train)
    # The gain is 80 mJ; t[2] / sqrt(3) = 2.484 times the spread is its error.
    assert found.tokens.verdict == ("reached" if 2.4842 * spread < 0.08 else "unresolved")
    ends = (found.tokens.low, found.tokens.value, found.tokens.high)
    if found.tokens.verdict == "reached":
        assert None not in ends and 0 < ends[0] < ends[1] < ends[2]
    else:
        assert ends[1:] == (None, None) and ends[0] > 0


def test_calibration_cancels_only_where_one_machine_read_building_and_serving(make, tmp_path):
    """400 kJ and a share of 100 kJ with 50 % calibration; 0.08 J a token saved, read exactly."""
    folder = make.run(tmp_path / "0", own_energy_uncertainty_j=200e3)
    make.serving(folder, student=[0.02] * 3, teacher=[0.1] * 3)
    collected = collect([tmp_path])
    (here,) = repayments(collected.runs, collected.train)
    # What is left are 1 % of a sensor's joules.
    assert here.tokens.low == pytest.approx(500e3 / 0.08 * (1 - 0.0196), rel=1e-4)
    other = make.run(tmp_path / "1", paradigm="sft", student_key="1", own_energy_uncertainty_j=0.0)
    make.serving(other, student=[0.02] * 3, teacher=[0.1] * 3)
    manifest = tmp_path / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("node7", "node8"))
    collected = collect([tmp_path])
    found = {r.paradigm: r for r in repayments(collected.runs, collected.train)}
    assert found["response"].tokens.low < 0.2 * here.tokens.low
    assert not found["response"].same_meter


def test_students_to_share_a_teacher_have_fiellers_interval_over_seeds(make, tmp_path):
    """Own joules of 40, 50 and 60 against 190, 200 and 210: (600 - 150 N)^2 = h^2 + (g N)^2."""
    for seed in range(3):
        near = 10.0 * (seed - 1)
        run_with_curve(
            make, tmp_path / f"sft{seed}", [(100.0, 4.0), (200.0 + near, 3.0)],
            paradigm="sft", seed=seed, student_key=f"p{seed}", inherited_energy_j=0.0,
            inherited_energy_by_artifact_j={},
        )  # fmt: skip
        run_with_curve(
            make, tmp_path / f"taught{seed}", [(25.0, 4.0), (50.0 + near, 3.0)], seed=seed,
            student_key=f"t{seed}", inherited_energy_j=600.0,
            inherited_energy_by_artifact_j={"teacher-1": 600.0}, own_energy_uncertainty_j=0.0,
        )  # fmt: skip
    collected = collect([tmp_path])
    (found,) = (r for r in repayments(collected.runs, collected.train) if r.paradigm == "response")
    answer = found.students
    assert (answer.verdict, answer.value) == ("reached", pytest.approx(4))
    # Welch: two sds of 10 / sqrt(3) with two degrees each have four; t[4] = 2.776445.
    gain_half = 2.776445 * 10 * (2 / 3) ** 0.5
    for end in (answer.low, answer.high):
        assert (600 - 150 * end) ** 2 == pytest.approx((1.959964 * 6) ** 2 + (gain_half * end) ** 2)


def test_the_page_says_the_verdict_in_words(make: Any, tmp_path: Path):
    collected, _ = pair(make, tmp_path, [(150.0, 3.5), (250.0, 3.1)])
    text = section_of(collected, "repayment")
    assert "not reached" in text and "7,140" in text


def test_runs_that_served_nothing_and_read_nothing_are_in_no_table(make: Any, tmp_path: Path):
    make.run(tmp_path / "0", student_total_j_per_token=None, teacher_total_j_per_token=None)
    collected = collect([tmp_path])
    assert repayments(collected.runs, collected.train) == []
    assert section_of(collected, "repayment") == ""
    assert not quality_against_joules(collected.train, collected.runs).figure.data


def test_quality_is_drawn_over_the_joules_of_its_readings(make: Any, tmp_path: Path):
    collected, _ = pair(make, tmp_path, [(150.0, 3.5), (250.0, 3.1)])
    fig = quality_against_joules(collected.train, collected.runs).figure
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
