"""Which student to serve, in words, as a record and by exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import Collected
from multirun_analysis.commands.choose import parser, print_choice
from multirun_analysis.statistics.site import site_of
from tests.multirun_analysis.choosing import (
    NOTHING,
    SURE,
    choose_options,
    gathered,
    gathered_four,
    record,
    write_three,
)


@pytest.fixture
def runs(make: Any, tmp_path: Path) -> Path:
    return write_three(make, tmp_path)


@pytest.fixture
def four(make: Any, tmp_path: Path) -> Collected:
    return gathered_four(make, tmp_path)


def test_what_the_pooled_figure_saves_stands_with_its_fieller_interval(four: Collected, capsys):
    """Student 189.5 +- 3.182 x 24.2 = 77.0, teacher 411 +- 19.6 uJ: W/T = 0.4611, its interval
    (0.4611 +- sqrt(0.4611^2 - 0.99773 x 0.17751)) / 0.99773 = 0.2732 to 0.6511."""
    said = record(four, capsys, tokens="365e9")
    assert said["verdict"] == "settled" and said["reasons"] == []
    assert said["saved_share"] == pytest.approx(0.5389, abs=1e-4)
    assert said["interval"] == pytest.approx([1 - 0.6511, 1 - 0.2732], abs=1e-3)
    assert said["recommended"]["serve_measurements"] == 4
    print_choice(four, choose_options(tokens="365e9"))
    text = capsys.readouterr().out
    assert text.startswith(
        "Serve sft (3).\nSettled.\nIt keeps 80 % of its teacher's accuracy above chance"
    )
    assert (
        "53.9 % less (95 % interval 34.9 to 72.7 %). That is 80.8 MJ (51.8 MJ to 110 MJ)." in text
    )
    assert "from 4 independent measurements" in text


def test_a_single_measurement_saves_an_unresolved_amount(four: Collected, capsys: Any):
    four.runs["student_served_random_sd_j"] = None
    said = record(four, capsys, "--site", "france")
    assert said["verdict"] == "not settled" and said["reasons"] == ["its saving is unresolved"]
    assert (said["interval"], said["saved_share"], said["co2e_interval_kg"]) == (None, None, None)
    assert said["recommended"]["label"] == "sft"
    print_choice(four, choose_options("--site", "france"))
    text = capsys.readouterr().out
    assert " % less" not in text
    assert (
        "Its teacher would take 411 J. The saving is unresolved: its interval includes 0 or" in text
    )
    assert "The CO2e saved is unresolved." in text


def test_the_words_hold_the_reason_and_the_carbon_of_the_site(runs: Path, capsys: Any):
    """1e6 tokens of the feature student: 15 kJ; with PUE 1.35 and 44 g a kWh 248 mg. Building is
    told from serving to 1 %, so the saving of 95 kJ is known to 98 J, 0.09 % of 110 kJ."""
    found = gathered(runs, **SURE)
    assert print_choice(found, choose_options("--site", "france", "--min-om-perf", "0.95")) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "Serve feature (2).\nNot settled: it may keep less than the 0.95 that you ask"
    )
    assert "Its OM_perf (mean of student score / teacher score) is 0.970 (interval unknown)" in said
    assert (
        "Building it and serving 1 million tokens in 1 day take 15.0 kJ (4.17 Wh), measured (95 % "
        "interval 15.0 kJ to 15.0 kJ).\nBuilding took 5.00 kJ" in said
    )
    assert (
        "Its teacher would take 110 kJ. The student takes 86.4 % less (95 % interval 86.3 to 86.5 "
        "%). That is 95.0 kJ (94.9 kJ to 95.1 kJ)." in said
    )
    assert (
        "At site france (44 gCO2e/kWh, PUE 1.35) the student causes 248 mgCO2e (95 % interval 248 "
        "mgCO2e to 248 mgCO2e). That is 1.57 gCO2e (1.57 gCO2e to 1.57 gCO2e) less than with its "
        "teacher." in said
    )
    assert "the interval reaches your limit: sft (OM_perf 0.900)." in said


def test_an_interval_that_reaches_below_what_is_asked_is_said(runs: Path, capsys: Any):
    wide = SURE | {"run2": SURE["run2"] | {"accuracy_kept_low": 0.45}}
    print_choice(gathered(runs, **wide), choose_options())
    text = capsys.readouterr().out
    assert "90 % of its teacher's accuracy above chance (45 to 92 %; 95 % interval over" in text
    assert "Not settled: it may keep less than the 0.5 that you ask for." in text


def test_a_setting_whose_teacher_is_at_chance_everywhere_is_listed_apart(runs: Path, capsys: Any):
    found = gathered(runs, **SURE | {"run2": NOTHING})
    said = record(found, capsys)
    assert said["recommended"]["label"] == "response" and said["apart"] == 0
    assert said["teacher_at_chance"] == [
        {"label": "feature", "runs": ["2"], "benchmarks": ["mmlu", "arc"]}
    ]
    print_choice(found, choose_options())
    sentence = "What feature keeps is not known: its teacher is at chance on mmlu, arc.\n"
    assert sentence in capsys.readouterr().out


def test_where_no_teacher_is_above_chance_nothing_can_be_told(runs: Path, capsys: Any):
    found = gathered(runs, every=NOTHING)
    assert print_choice(found, choose_options()) == 1
    assert capsys.readouterr().out.startswith(
        "No recommendation: no teacher is better than guessing.\n"
    )
    assert record(found, capsys)["verdict"] == "cannot be told"
    assert print_choice(found, choose_options("--strict")) == 3
    said = record(found, capsys, "--min-om-perf", "0.95")
    assert said["recommended"]["label"] == "feature"
    assert "the accuracy that it keeps above chance is not known" in said["reasons"]


def test_a_student_at_chance_is_marked(runs: Path, capsys: Any):
    lucky = {"student_at_chance": '["mmlu"]'}
    found = gathered(runs, **SURE | {"run0": SURE["run0"] | lucky, "run2": SURE["run2"] | lucky})
    assert record(found, capsys)["recommended"]["student_at_chance"] == ["mmlu"]
    print_choice(found, choose_options())
    said = capsys.readouterr().out
    assert "It is at chance on mmlu." in said
    assert "Keeps too little: sft (40 %, 35 to 45 %; at chance on mmlu)." in said


def test_the_point_that_answers_and_the_range_over_the_grid_are_named(runs: Path, capsys: Any):
    point = {"serving_batch_size": 8, "serving_prompt_tokens": 64, "serving_new_tokens": 32}
    grid = {"student_total_j_per_token_least": 0.004, "student_total_j_per_token_most": 0.03}
    found = gathered(runs, every=point | grid, **SURE)
    print_choice(found, choose_options())
    assert (
        "The serving energy is from 3 independent measurements at batch size 8, 64 prompt and 32 "
        "new tokens. Over all measured batch sizes and lengths it is 4.00 mJ/token to 30.0 " in
        capsys.readouterr().out
    )  # fmt: skip
    said = record(found, capsys)
    assert said["recommended"]["serve_range_j_per_token"] == [0.004, 0.03]
    found.runs["serving_batch_size"] = [8, 8, 16]
    assert record(found, capsys)["reasons"] == [
        "the settings were served at different batch sizes or lengths"
    ]


def test_programs_are_given_a_record(runs: Path, capsys: Any):
    said = record(gathered(runs), capsys, "--min-om-perf", "0.95")
    assert said["recommended"]["label"] == "feature"
    assert said["recommended"]["whole_j"] == pytest.approx(15e3)
    assert said["site"]["name"] == "world"
    assert said["co2e_kg"] == pytest.approx(15e3 / 3.6e6 * 1.1 * 0.445)
    assert set(said) >= {
        "schema", "min_om_perf", "tokens", "days", "site", "recommended", "co2e_kg", "others",
        "too_little", "apart", "unfinished", "verdict", "interval", "cannot_tell",
    }  # fmt: skip
    assert set(said["recommended"]) >= {
        "label", "runs", "om_perf", "om_perf_low", "om_perf_high", "build_j", "serve_j_per_token",
        "whole_j", "teacher_j", "energy_quality",
    }  # fmt: skip


def test_no_setting_that_keeps_enough_is_an_answer_with_its_own_exit_code(runs: Path, capsys: Any):
    found = gathered(runs, **SURE)
    assert print_choice(found, choose_options("--min-om-perf", "0.99")) == 1
    assert (
        "No recommendation: no setting keeps enough. You ask for an OM_perf of 0.99. The closest "
        "is feature (OM_perf 0.970). This may be enough." in capsys.readouterr().out
    )
    assert print_choice(found, choose_options("--min-kept", "0.95", "--strict")) == 1
    assert record(found, capsys, "--min-kept", "0.95")["verdict"] == "none keeps enough"


def test_strictly_what_is_not_settled_exits_with_3(runs: Path):
    settled = gathered(runs, **SURE)
    assert print_choice(settled, choose_options()) == 0
    assert print_choice(settled, choose_options("--strict")) == 0
    settled.runs["student_served_random_sd_j"] = None
    assert print_choice(settled, choose_options()) == 0
    assert print_choice(settled, choose_options("--strict")) == 3
    assert print_choice(settled, choose_options("--strict", "--json")) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tokens-per-day", "0"], "must be numbers above 0"),
        (["--tokens-per-day", "inf"], "must be numbers above 0"),
        (["--tokens-per-day", "1", "--days", "nan"], "must be numbers above 0"),
        (["--tokens-per-day", "1", "--min-om-perf", "nan"], "give a number such as 0.95"),
        (["--tokens-per-day", "1", "--min-kept", "inf"], "give a number such as 0.5"),
        (["--tokens-per-day", "1", "--site", "mars"], "there is no such site; choose one of fr"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    options: list[str], sentence: str, runs: Path, capsys: Any
):
    assert main(["choose", str(runs), *options]) == 2
    assert main(["choose", str(runs), *options, "--strict"]) == 2
    assert sentence in capsys.readouterr().err


def test_the_help_names_every_verdict_and_exit_code():
    text = parser().format_help()
    for word in ("settled:", "not settled:", "none keeps enough:", "cannot be told:", "exit codes"):
        assert word in text


def test_a_sites_figures_are_those_of_conf():
    assert (site_of("france").grid_gco2e_per_kwh, site_of("france").pue) == (44, 1.35)


def test_an_answer_whose_reader_left_is_no_refusal(runs: Path, monkeypatch: pytest.MonkeyPatch):
    def nobody_reads(*words: object, **options: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", nobody_reads)
    with pytest.raises(BrokenPipeError):
        main(["choose", str(runs), "--tokens-per-day", "1e9"])
