"""The rule by which a student is chosen, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.collect.collection import Collected, collect
from multirun_analysis.statistics.choice import Gate, choose
from multirun_analysis.values.rows import distinct_students
from tests.multirun_analysis.choosing import (
    PLAIN,
    SURE,
    gathered,
    gathered_four,
    record,
    student,
    write_three,
)


@pytest.fixture
def runs(make: Any, tmp_path: Path) -> Path:
    return write_three(make, tmp_path)


@pytest.fixture
def four(make: Any, tmp_path: Path) -> Collected:
    return gathered_four(make, tmp_path)


def best(directory: Path, tokens: float) -> str:
    found = choose(distinct_students(gathered(directory).runs), gate=PLAIN, tokens=tokens)
    return found.enough[0].label


def test_the_longer_it_serves_the_more_its_building_may_cost(runs: Path):
    """1,000 + 0.02 N meets 5,000 + 0.01 N at 400,000 tokens."""
    assert best(runs, 390e3) == "response"
    assert best(runs, 410e3) == "feature"


def test_of_two_that_cannot_be_told_the_cheaper_to_build_is_chosen(runs: Path):
    """At 405,000 tokens feature draws 50 J less, known to 1.96 times 1 % of the 4,000 J that its
    building took more: 78 J. Building is told, so response is chosen, and both are named."""
    found = choose(distinct_students(gathered(runs, **SURE).runs), gate=PLAIN, tokens=405e3)
    assert [c.label for c in found.enough] == ["response", "feature"]
    assert [c.label for c in found.cannot_tell] == ["feature"]
    assert found.reasons[0] == "its energy does not differ clearly from that of feature"


def test_of_two_whose_building_cannot_be_told_either_the_one_that_keeps_more_is_chosen(
    make: Any, tmp_path: Path
):
    """Building differs by 100 J, known to 1.96 sqrt(100^2 + 100^2) = 277 J."""
    for name, joules in (("0", 1000.0), ("1", 1100.0)):
        student(make, tmp_path / name, ("response", "feature")[int(name)], own_energy_j=joules,
                own_energy_random_sd_j=100.0)  # fmt: skip
    alike = {"student_served_key": "a", "student_served_j_per_token": 0.01}
    low = {"accuracy_kept": 0.7, "accuracy_kept_low": 0.65, "accuracy_kept_high": 0.75}
    high = {"accuracy_kept": 0.8, "accuracy_kept_low": 0.76, "accuracy_kept_high": 0.84}

    def chosen(**more: Any) -> tuple[list[str], list[str]]:
        found = gathered(tmp_path, every=alike, run0=low, run1=high | more)
        choice = choose(distinct_students(found.runs), gate=Gate(), tokens=1e6)
        return [c.label for c in choice.enough], [c.label for c in choice.as_accurate]

    # 0.8 - 0.7 is above sqrt(0.04^2 + 0.05^2) = 0.064.
    assert chosen() == (["feature", "response"], [])
    # And below sqrt(0.10^2 + 0.05^2) = 0.112: then the one whose building drew less.
    assert chosen(accuracy_kept_low=0.70) == (["response", "feature"], ["feature"])


def test_a_student_that_keeps_too_little_is_not_chosen_however_cheap(runs: Path):
    found = choose(distinct_students(gathered(runs).runs), gate=PLAIN, tokens=1e6)
    assert [c.label for c in found.enough] == ["feature", "response"]
    assert [c.label for c in found.too_little] == ["sft"]


def test_estimates_are_not_ranked_beside_measurements(make: Any, runs: Path):
    student(
        make, runs / "3", "combined", om_perf=0.99, own_energy_j=1.0,
        own_energy_quality="estimated", student_total_j_per_token=1e-6,
    )  # fmt: skip
    found = choose(distinct_students(gathered(runs).runs), gate=PLAIN, tokens=1e6)
    assert "combined" not in [c.label for c in found.enough]
    assert found.apart == 1


def test_a_seed_that_was_estimated_has_no_mean_with_one_that_was_measured(
    make: Any, tmp_path: Path
):
    student(make, tmp_path / "0", "sft", own_energy_j=100.0)
    student(make, tmp_path / "1", "sft", own_energy_j=900.0, own_energy_quality="estimated", seed=1)
    found = choose(distinct_students(gathered(tmp_path).runs), gate=PLAIN, tokens=1e6)
    assert [c.runs for c in found.enough] == [("0",)] and found.apart == 1


def test_an_imported_run_is_a_setting_of_its_own(make: Any, tmp_path: Path):
    student(make, tmp_path / "0", "sft", own_energy_j=100.0)
    student(make, tmp_path / "1", "sft", own_energy_j=900.0, seed=1, origin="elsewhere")
    found = choose(distinct_students(gathered(tmp_path).runs), gate=PLAIN, tokens=1e6)
    assert [c.runs for c in found.enough] == [("0",), ("1",)]


def test_students_of_one_architecture_are_told_by_building_and_not_by_noise_of_serving(
    four: Collected,
):
    """365 G tokens: 110 J/token of noise are 40 MJ, buildings differ by 1 kJ, known to 55 J."""
    found = choose(distinct_students(four.runs), gate=Gate(), tokens=365e9)
    assert [c.label for c in found.enough] == ["sft", "response", "feature", "relational"]
    assert {c.serving.value for c in found.enough} == {189.5e-6}
    assert found.cannot_tell == []
    assert [c.label for c in found.as_accurate] == ["response", "feature", "relational"]


def test_an_unresolved_saving_is_not_settled_though_its_figure_is_large(four: Collected, capsys):
    """3.182 x 80 = 255 uJ against 411 - 189.5 = 221.5 uJ."""
    four.runs["student_served_random_sd_j"] = 80e-6
    said = record(four, capsys, tokens="365e9")
    assert (said["verdict"], said["interval"]) == ("not settled", None)


def test_a_setting_that_is_told_surely_keeps_enough_and_saves_is_settled(runs: Path, capsys: Any):
    said = record(gathered(runs, **SURE), capsys)
    assert (said["verdict"], said["reasons"], said["cannot_tell"]) == ("settled", [], [])
    assert said["recommended"]["accuracy_kept"] == 0.9
    assert said["min_kept"] == 0.5 and said["min_om_perf"] is None
    assert [c["label"] for c in said["too_little"]] == ["sft"]


def test_a_rejected_setting_that_may_keep_enough_and_may_draw_less_leaves_it_open(
    runs: Path, capsys: Any
):
    near = SURE | {"run0": SURE["run0"] | {"accuracy_kept_high": 0.55}}
    said = record(gathered(runs, **near), capsys)
    assert said["reasons"] == ["sft may keep enough too, and may take less energy"]


def test_both_bars_must_be_cleared_where_both_are_asked(runs: Path, capsys: Any):
    found = gathered(runs, **SURE)
    said = record(found, capsys, "--min-kept", "0.3", "--min-om-perf", "0.965")
    assert said["recommended"]["label"] == "feature" and said["others"] == []
    assert (said["min_kept"], said["min_om_perf"]) == (0.3, 0.965)
    said = record(found, capsys, "--min-kept", "0.85", "--min-om-perf", "0.5")
    assert [c["label"] for c in said["too_little"]] == ["sft", "response"]
    said = record(found, capsys, "--min-om-perf", "0.3")
    assert said["recommended"]["label"] == "sft" and said["min_kept"] is None


def test_calibration_that_both_share_cancels_and_that_of_two_gpus_does_not(runs: Path):
    """5 % of 15 kJ and of 21 kJ; the difference of 6 kJ is known to 78 J on one GPU."""
    found = gathered(runs, **SURE)
    build_sd_j = 0.05 * found.runs["own_energy_j"]
    found.runs["own_energy_shared_sd_j"] = build_sd_j
    found.runs["student_served_shared_sd_j"] = 0.05 * found.runs["student_served_j_per_token"]

    def ties() -> list[str]:
        choice = choose(distinct_students(found.runs), gate=Gate(), tokens=450e3)
        return [c.label for c in choice.cannot_tell]

    assert ties() == []
    found.runs["gpu_name"] = ["A", "A", "B"]
    assert ties() == ["feature"]


def test_what_two_settings_inherited_is_the_same_in_both(make: Any, tmp_path: Path):
    """Own joules differ by 100 +- 28 J; the 10 kJ that both inherited are known to 2 kJ."""
    for name, own_j in (("0", 1000.0), ("1", 1100.0)):
        student(make, tmp_path / name, ("response", "feature")[int(name)], own_energy_j=own_j)
    inherited = {"inherited_energy_j": 20e3, "inherited_amortised_energy_j": 10e3,
                 "inherited_energy_random_sd_j": 4e3,
                 "inherited_energy_shared_sd_j": 1e3, "total_amortised_energy_j": 11e3,
                 "inherited_energy_by_artifact_j": '{"t": 20000.0}',
                 "own_energy_random_sd_j": 10.0, "student_served_key": "a"}  # fmt: skip
    found = gathered(tmp_path, every=inherited)
    choice = choose(distinct_students(found.runs), gate=PLAIN, tokens=1e6)
    assert choice.cannot_tell == []


def test_a_table_without_pooled_figures_ranks_nobody(runs: Path):
    students = distinct_students(collect([runs]).runs)
    plain = [{k: v for k, v in run.items() if "_served_" not in k} for run in students]
    assert choose(plain, gate=Gate(), tokens=1e6).verdict == "cannot be told"
