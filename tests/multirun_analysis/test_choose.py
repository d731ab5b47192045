"""Which student to serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.choose import choose
from multirun_analysis.collect import collect
from multirun_analysis.rows import distinct_students
from multirun_analysis.site import site_of


def student(make: Any, folder: Path, paradigm: str, **metrics: Any):
    """A student that inherited nothing, so that all it cost is its own."""
    make.run(
        folder,
        paradigm=paradigm,
        student_key=folder.name,
        inherited_energy_j=0.0,
        inherited_energy_by_artifact_j={},
        **metrics,
    )


@pytest.fixture
def runs(make: Any, tmp_path: Path) -> Path:
    """Cheap and poor, cheap to build and dear to serve, dear to build and cheap to serve."""
    costs = {"own_energy_j": 100.0, "student_total_j_per_token": 0.001}
    student(make, tmp_path / "0", "sft", om_perf=0.90, **costs)
    student(
        make, tmp_path / "1", "response", om_perf=0.96, own_energy_j=1e3,
        student_total_j_per_token=0.02,
    )  # fmt: skip
    student(
        make, tmp_path / "2", "feature", om_perf=0.97, own_energy_j=5e3,
        student_total_j_per_token=0.01,
    )  # fmt: skip
    return tmp_path


def best(directory: Path, tokens: float) -> str:
    students = distinct_students(collect([directory]).runs)
    return choose(students, min_om_perf=0.95, tokens=tokens).enough[0].label


def test_the_longer_it_serves_the_more_its_building_may_cost(runs: Path):
    """1,000 + 0.02 N meets 5,000 + 0.01 N at 400,000 tokens."""
    assert best(runs, 399e3) == "response"
    assert best(runs, 401e3) == "feature"


def test_a_student_that_keeps_too_little_is_not_chosen_however_cheap(runs: Path):
    found = choose(distinct_students(collect([runs]).runs), min_om_perf=0.95, tokens=1e6)
    assert [c.label for c in found.enough] == ["feature", "response"]
    assert [c.label for c in found.too_little] == ["sft"]


def test_estimates_are_not_ranked_beside_measurements(make: Any, runs: Path):
    student(
        make, runs / "3", "combined", om_perf=0.99, own_energy_j=1.0,
        own_energy_quality="estimated", student_total_j_per_token=1e-6,
    )  # fmt: skip
    found = choose(distinct_students(collect([runs]).runs), min_om_perf=0.95, tokens=1e6)
    assert "combined" not in [c.label for c in found.enough]
    assert found.apart == 1


def test_the_words_hold_the_reason_and_the_carbon_of_the_site(runs: Path, capsys: Any):
    """1e6 tokens of the feature student: 15 kJ; with PUE 1.35 and 44 g a kWh 248 mg."""
    command = ["choose", str(runs), "--tokens-per-day", "1e4", "--days", "100", "--site", "france"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("feature: 2\nIt keeps 0.970 of its teacher's accuracy")
    assert "take 15.0 kJ (4.17 Wh), measured: 5.00 kJ to build" in said
    assert "Its teacher would take 110 kJ: 86.4 % less." in said
    assert "At site france (44 gCO2e/kWh, PUE 1.35) that is 248 mgCO2e." in said
    assert "They keep too little: sft (0.900)." in said


def test_an_interval_that_reaches_below_what_is_asked_is_said(
    make: Any, tmp_path: Path, capsys: Any
):
    student(make, tmp_path / "0", "sft", om_perf=0.96, om_perf_low=0.93, om_perf_high=0.99)
    main(["choose", str(tmp_path), "--tokens-per-day", "1e4"])
    assert "0.930 to 0.990 over benchmark samples, from one seed, so that 0.95 is not certain" in (
        capsys.readouterr().out
    )


def test_programs_are_given_a_record(runs: Path, capsys: Any):
    assert main(["choose", str(runs), "--tokens-per-day", "1e6", "--days", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["recommended"]["label"] == "feature"
    assert record["recommended"]["whole_j"] == pytest.approx(15e3)
    assert record["site"]["name"] == "world"
    assert record["co2e_kg"] == pytest.approx(15e3 / 3.6e6 * 1.1 * 0.445)


def test_no_setting_that_keeps_enough_is_an_answer_with_its_own_exit_code(runs: Path, capsys: Any):
    command = ["choose", str(runs), "--tokens-per-day", "1e6", "--min-om-perf", "0.99"]
    assert main(command) == 1
    assert "No setting keeps 0.99 of its teacher's accuracy; feature comes closest with 0.970." in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tokens-per-day", "0"], "give numbers above 0"),
        (["--tokens-per-day", "inf"], "give numbers above 0"),
        (["--tokens-per-day", "1", "--days", "nan"], "give numbers above 0"),
        (["--tokens-per-day", "1", "--min-om-perf", "nan"], "give a number such as 0.95"),
        (["--tokens-per-day", "1", "--site", "mars"], "there is no such site; choose one of fr"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    options: list[str], sentence: str, runs: Path, capsys: Any
):
    assert main(["choose", str(runs), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_sites_figures_are_those_of_conf():
    assert (site_of("france").grid_gco2e_per_kwh, site_of("france").pue) == (44, 1.35)
