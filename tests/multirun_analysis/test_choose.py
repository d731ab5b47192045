"""Which student to serve, and how sure that is."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.choice import VERDICTS, Gate, choose
from multirun_analysis.choose import answer, parser
from multirun_analysis.collect import Collected, collect
from multirun_analysis.rows import distinct_students
from multirun_analysis.site import site_of

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
PLAIN = Gate(None, 0.95)
"""The plain ratio alone, without chance."""


def student(make: Any, folder: Path, paradigm: str, **metrics: Any):
    """A student that inherited nothing, so that all it cost is its own."""
    known = {"own_energy_random_sd_j": 0.0, "own_energy_shared_sd_j": 0.0}
    make.run(
        folder,
        paradigm=paradigm,
        student_key=folder.name,
        inherited_energy_j=0.0,
        inherited_energy_by_artifact_j={},
        **{**known, **metrics},
    )


def gathered(directory: Path, **runs: dict[str, Any]) -> Collected:
    """The runs with what the collector pools: by default what each run measured itself, exactly.

    Accuracy kept is not told unless it is given. `runs` are further columns of a run by its name;
    `every` are those of all.
    """
    found = collect([directory])
    found = replace(found, runs=found.runs.copy())  # In one piece: columns are added below.
    told = ("accuracy_kept", "accuracy_kept_low", "accuracy_kept_high", "teacher_at_chance")
    frame, every = found.runs, dict.fromkeys(told) | runs.pop("every", {})
    for subject in ("student", "teacher"):
        frame[f"{subject}_served_j_per_token"] = frame[f"{subject}_total_j_per_token"]
        frame[f"{subject}_served_random_sd_j"] = 0.0
        frame[f"{subject}_served_shared_sd_j"] = 0.0
        frame[f"{subject}_served_degrees"] = math.inf
        frame[f"{subject}_served_key"] = frame["run"]
        frame[f"{subject}_served_measurements"] = 3
    columns = dict.fromkeys(name for changes in (every, *runs.values()) for name in changes)
    for column in columns:
        old = frame[column] if column in frame else [None] * len(frame)
        frame[column] = [
            runs.get(f"run{run}", {}).get(column, every.get(column, value))
            for run, value in zip(frame["run"], old, strict=True)
        ]
    return found


def asked(*options: str, tokens: str = "1e6") -> Any:
    return parser().parse_args(["DIR", "--tokens-per-day", tokens, "--days", "1", *options])


def record(found: Collected, capsys: Any, *options: str, tokens: str = "1e6") -> dict[str, Any]:
    capsys.readouterr()
    answer(found, asked("--json", *options, tokens=tokens))
    return json.loads(capsys.readouterr().out)


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


SURE = {
    "run0": {"accuracy_kept": 0.4, "accuracy_kept_low": 0.35, "accuracy_kept_high": 0.45},
    "run1": {"accuracy_kept": 0.8, "accuracy_kept_low": 0.75, "accuracy_kept_high": 0.85},
    "run2": {"accuracy_kept": 0.9, "accuracy_kept_low": 0.88, "accuracy_kept_high": 0.92},
}
"""What the three keep, told apart and on one side of 0.5 each."""


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
    assert found.reasons[0] == "in joules it cannot be told from feature"


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


SINGLE_UJ = (134.0, 168.0, 212.0, 244.0)
"""Four measurements of one architecture: their mean is 189.5 uJ/token, its sd 24.2 uJ."""


@pytest.fixture
def four(make: Any, tmp_path: Path) -> Collected:
    """Four students of one architecture: the dearer to build, the less its own measurement."""
    paradigms = ("relational", "feature", "response", "sft")
    for number, (paradigm, single) in enumerate(zip(paradigms, SINGLE_UJ, strict=True)):
        student(
            make, tmp_path / str(number), paradigm, own_energy_j=4e3 - 1e3 * number,
            student_total_j_per_token=single * 1e-6, teacher_total_j_per_token=411e-6,
            own_energy_random_sd_j=20.0,
        )  # fmt: skip
    pooled = {"student_served_j_per_token": 189.5e-6, "student_served_random_sd_j": 24.2e-6,
              "student_served_degrees": 3.0, "student_served_key": "a",
              "student_served_measurements": 4, "teacher_served_random_sd_j": 10e-6,
              "teacher_served_key": "t", "accuracy_kept": 0.8, "accuracy_kept_low": 0.7,
              "accuracy_kept_high": 0.9}  # fmt: skip
    return gathered(tmp_path, every=pooled)


def test_students_of_one_architecture_are_told_by_building_and_not_by_noise_of_serving(
    four: Collected,
):
    """365 G tokens: 110 J/token of noise are 40 MJ, buildings differ by 1 kJ, known to 55 J."""
    found = choose(distinct_students(four.runs), gate=Gate(), tokens=365e9)
    assert [c.label for c in found.enough] == ["sft", "response", "feature", "relational"]
    assert {c.serving.value for c in found.enough} == {189.5e-6}
    assert found.cannot_tell == []
    assert [c.label for c in found.as_accurate] == ["response", "feature", "relational"]


def test_what_the_pooled_figure_saves_stands_with_its_fieller_interval(four: Collected, capsys):
    """Student 189.5 +- 3.182 x 24.2 = 77.0, teacher 411 +- 19.6 uJ: W/T = 0.4611, its interval
    (0.4611 +- sqrt(0.4611^2 - 0.99773 x 0.17751)) / 0.99773 = 0.2732 to 0.6511."""
    said = record(four, capsys, tokens="365e9")
    assert said["verdict"] == "settled" and said["reasons"] == []
    assert said["saved_share"] == pytest.approx(0.5389, abs=1e-4)
    assert said["interval"] == pytest.approx([1 - 0.6511, 1 - 0.2732], abs=1e-3)
    assert said["recommended"]["serve_measurements"] == 4
    answer(four, asked(tokens="365e9"))
    text = capsys.readouterr().out
    assert text.startswith(
        "sft: 3\nSettled.\nIt keeps 0.800 of its teacher's accuracy above chance"
    )
    assert "53.9 % less (95 % interval 34.9 to 72.7 %), or 80.8 MJ (51.8 MJ to 110 MJ)." in text
    assert "from 4 independent measurements" in text


def test_a_single_measurement_saves_an_unresolved_amount(four: Collected, capsys: Any):
    four.runs["student_served_random_sd_j"] = None
    said = record(four, capsys, "--site", "france")
    assert said["verdict"] == "not settled" and said["reasons"] == ["what it saves is unresolved"]
    assert (said["interval"], said["saved_share"], said["co2e_interval_kg"]) == (None, None, None)
    assert said["recommended"]["label"] == "sft"
    answer(four, asked("--site", "france"))
    text = capsys.readouterr().out
    assert " % less" not in text
    assert "Its teacher would take 411 J: what is saved is unresolved." in text
    assert text.count("what is saved is unresolved") == 2  # CO2e follows.


def test_an_unresolved_saving_is_not_settled_though_its_figure_is_large(four: Collected, capsys):
    """3.182 x 80 = 255 uJ against 411 - 189.5 = 221.5 uJ."""
    four.runs["student_served_random_sd_j"] = 80e-6
    said = record(four, capsys, tokens="365e9")
    assert (said["verdict"], said["interval"]) == ("not settled", None)


def test_the_words_hold_the_reason_and_the_carbon_of_the_site(runs: Path, capsys: Any):
    """1e6 tokens of the feature student: 15 kJ; with PUE 1.35 and 44 g a kWh 248 mg. Building is
    told from serving to 1 %, so the saving of 95 kJ is known to 98 J, 0.09 % of 110 kJ."""
    found = gathered(runs, **SURE)
    assert answer(found, asked("--site", "france", "--min-om-perf", "0.95")) == 0
    said = capsys.readouterr().out
    assert said.startswith("feature: 2\nNot settled: that it keeps 0.95 is not certain; sft may ")
    assert "It keeps 0.970 of its teacher's scores as they are, OM_perf (of unknown spread" in said
    assert "take 15.0 kJ (4.17 Wh; 95 % interval 15.0 kJ to 15.0 kJ), measured: 5.00 kJ to" in said
    assert (
        "Its teacher would take 110 kJ: 86.4 % less (95 % interval 86.3 to 86.5 %), or 95.0 kJ "
        "(94.9 kJ to 95.1 kJ)." in said
    )
    assert (
        "At site france (44 gCO2e/kWh, PUE 1.35) that is 248 mgCO2e (95 % interval 248 mgCO2e to "
        "248 mgCO2e); 1.57 gCO2e (1.57 gCO2e to 1.57 gCO2e) less than with its teacher." in said
    )
    assert "Below what is asked, but not surely: sft (0.900)." in said


def test_a_setting_that_is_told_surely_keeps_enough_and_saves_is_settled(runs: Path, capsys: Any):
    said = record(gathered(runs, **SURE), capsys)
    assert (said["verdict"], said["reasons"], said["cannot_tell"]) == ("settled", [], [])
    assert said["recommended"]["accuracy_kept"] == 0.9
    assert said["min_kept"] == 0.5 and said["min_om_perf"] is None
    assert [c["label"] for c in said["too_little"]] == ["sft"]


def test_an_interval_that_reaches_below_what_is_asked_is_said(runs: Path, capsys: Any):
    wide = SURE | {"run2": SURE["run2"] | {"accuracy_kept_low": 0.45}}
    answer(gathered(runs, **wide), asked())
    text = capsys.readouterr().out
    assert (
        "0.450 to 0.920, 95 % over benchmark samples, one seed, so that 0.5 is not certain" in text
    )
    assert "Not settled: that it keeps 0.5 is not certain." in text


def test_the_wider_of_the_intervals_over_seeds_and_over_samples_holds(make: Any, tmp_path: Path):
    """0.6 and 0.62: t[1] x 0.01 = 0.127; over samples 0.55 to 0.67."""
    for seed in (0, 1):
        student(make, tmp_path / str(seed), "sft", seed=seed)

    def kept(low: float, high: float) -> Any:
        ends = {"accuracy_kept_low": low, "accuracy_kept_high": high}
        found = gathered(
            tmp_path, every=ends, run0={"accuracy_kept": 0.6}, run1={"accuracy_kept": 0.62}
        )
        choice = choose(distinct_students(found.runs), gate=Gate(), tokens=1e6)
        return choice.enough[0].accuracy

    assert kept(0.55, 0.67).over == "95 % over 2 seeds, wider than over benchmark samples"
    assert kept(0.55, 0.67).low == pytest.approx(0.61 - 0.127, abs=1e-3)
    samples = kept(0.4, 0.8)
    assert (samples.low, samples.high) == (0.4, 0.8)
    assert samples.over == "95 % over benchmark samples, wider than over 2 seeds"


def test_a_rejected_setting_that_may_keep_enough_and_may_draw_less_leaves_it_open(
    runs: Path, capsys: Any
):
    near = SURE | {"run0": SURE["run0"] | {"accuracy_kept_high": 0.55}}
    said = record(gathered(runs, **near), capsys)
    assert said["reasons"] == ["sft may keep enough too, and may draw less"]


def test_both_bars_must_be_cleared_where_both_are_asked(runs: Path, capsys: Any):
    found = gathered(runs, **SURE)
    said = record(found, capsys, "--min-kept", "0.3", "--min-om-perf", "0.965")
    assert said["recommended"]["label"] == "feature" and said["others"] == []
    assert (said["min_kept"], said["min_om_perf"]) == (0.3, 0.965)
    said = record(found, capsys, "--min-kept", "0.85", "--min-om-perf", "0.5")
    assert [c["label"] for c in said["too_little"]] == ["sft", "response"]
    said = record(found, capsys, "--min-om-perf", "0.3")
    assert said["recommended"]["label"] == "sft" and said["min_kept"] is None


NOTHING = {"accuracy_kept": None, "teacher_at_chance": '["mmlu", "arc"]'}


def test_a_setting_whose_teacher_is_at_chance_everywhere_is_listed_apart(runs: Path, capsys: Any):
    found = gathered(runs, **SURE | {"run2": NOTHING})
    said = record(found, capsys)
    assert said["recommended"]["label"] == "response" and said["apart"] == 0
    assert said["teacher_at_chance"] == [
        {"label": "feature", "runs": ["2"], "benchmarks": ["mmlu", "arc"]}
    ]
    answer(found, asked())
    sentence = "What feature keeps cannot be told: its teacher is at chance on mmlu, arc.\n"
    assert sentence in capsys.readouterr().out


def test_where_no_teacher_is_above_chance_nothing_can_be_told(runs: Path, capsys: Any):
    found = gathered(runs, every=NOTHING)
    assert answer(found, asked()) == 1
    assert capsys.readouterr().out.startswith("Cannot be told: no teacher is above chance.\n")
    assert record(found, capsys)["verdict"] == "cannot be told"
    assert answer(found, asked("--strict")) == 3
    said = record(found, capsys, "--min-om-perf", "0.95")
    assert said["recommended"]["label"] == "feature"
    assert "what it keeps above chance cannot be told" in said["reasons"]


def test_a_student_at_chance_is_marked(runs: Path, capsys: Any):
    lucky = {"student_at_chance": '["mmlu"]'}
    found = gathered(runs, **SURE | {"run0": SURE["run0"] | lucky, "run2": SURE["run2"] | lucky})
    assert record(found, capsys)["recommended"]["student_at_chance"] == ["mmlu"]
    answer(found, asked())
    said = capsys.readouterr().out
    assert "It is at chance on mmlu." in said
    assert "They keep too little: sft (0.400, 0.350 to 0.450; at chance on mmlu)." in said


def test_the_point_that_answers_and_the_range_over_the_grid_are_named(runs: Path, capsys: Any):
    point = {"serving_batch_size": 8, "serving_prompt_tokens": 64, "serving_new_tokens": 32}
    grid = {"student_total_j_per_token_least": 0.004, "student_total_j_per_token_most": 0.03}
    found = gathered(runs, every=point | grid, **SURE)
    answer(found, asked())
    assert (
        "Served at batch size 8, 64 prompt and 32 new tokens; from 3 independent measurements; "
        "4.00 mJ/token to 30.0 mJ/token over all points that were measured." in
        capsys.readouterr().out
    )  # fmt: skip
    said = record(found, capsys)
    assert said["recommended"]["serve_range_j_per_token"] == [0.004, 0.03]
    found.runs["serving_batch_size"] = [8, 8, 16]
    assert record(found, capsys)["reasons"] == [
        "not all were served at the same batch size and lengths"
    ]


def test_calibration_that_both_share_cancels_and_that_of_two_cards_does_not(runs: Path):
    """5 % of 15 kJ and of 21 kJ; the difference of 6 kJ is known to 78 J on one card."""
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
    assert answer(found, asked("--min-om-perf", "0.99")) == 1
    assert (
        "None keeps enough: no setting keeps 0.99 of its teacher's accuracy; feature comes closest "
        "with 0.970." in capsys.readouterr().out
    )
    assert answer(found, asked("--min-kept", "0.95", "--strict")) == 1
    assert record(found, capsys, "--min-kept", "0.95")["verdict"] == "none keeps enough"


def test_strictly_what_is_not_settled_exits_with_3(runs: Path):
    settled = gathered(runs, **SURE)
    assert answer(settled, asked()) == 0
    assert answer(settled, asked("--strict")) == 0
    settled.runs["student_served_random_sd_j"] = None
    assert answer(settled, asked()) == 0
    assert answer(settled, asked("--strict")) == 3
    assert answer(settled, asked("--strict", "--json")) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tokens-per-day", "0"], "give numbers above 0"),
        (["--tokens-per-day", "inf"], "give numbers above 0"),
        (["--tokens-per-day", "1", "--days", "nan"], "give numbers above 0"),
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


def test_the_readme_has_the_verdicts_of_the_program_and_a_command_that_it_understands():
    listed = re.findall(r"^\| `([a-z ]+)` \| (?:it |one |every |no )", README, re.MULTILINE)
    assert listed == list(VERDICTS)
    (command,) = re.findall(r"^python -m multirun_analysis choose (.*)$", README, re.MULTILINE)
    assert parser().parse_args(shlex.split(command)).min_kept == 0.4


def test_a_table_without_pooled_figures_ranks_nobody(runs: Path):
    students = distinct_students(collect([runs]).runs)
    plain = [{k: v for k, v in run.items() if "_served_" not in k} for run in students]
    assert choose(plain, gate=Gate(), tokens=1e6).verdict == "cannot be told"


def test_a_sites_figures_are_those_of_conf():
    assert (site_of("france").grid_gco2e_per_kwh, site_of("france").pue) == (44, 1.35)
