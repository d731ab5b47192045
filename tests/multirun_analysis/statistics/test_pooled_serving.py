"""Joules per token of what serves alike: what is pooled, what never is, and how sure it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.narrative.caveats import caveats
from multirun_analysis.statistics.served import served
from multirun_analysis.values.rows import to_rows


def rows(directory: Path) -> dict[str, Any]:
    """Each run's row by name, as the collector tells it."""
    return {row["run"]: row for row in to_rows(collect([directory]).runs)}


def old_runs(make: Any, directory: Path, joules: list[float], **each: list[Any]) -> None:
    """Runs that state no serving key, with the student's J/token and fields of their own."""
    for i, j in enumerate(joules):
        changes = {name: values[i] for name, values in each.items()}
        make.run(directory / str(i), student_key=f"s{i}", student_total_j_per_token=j, **changes)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_three_runs_of_one_architecture_are_one_figure_by_student_t_of_two_degrees(make, tmp_path):
    """170, 180 and 190 uJ: s is 10, of the mean 5.77, and t[2] of it 24.8 uJ."""
    old_runs(make, tmp_path, [170e-6, 180e-6, 190e-6], paradigm=["sft", "response", "feature"])
    for row in rows(tmp_path).values():
        assert row["student_served_j_per_token"] == pytest.approx(180e-6)
        assert row["student_served_random_sd_j"] == pytest.approx(10e-6 / math.sqrt(3))
        assert row["student_served_degrees"] == 2
        assert row["student_served_measurements"] == 3
        # 20 kJ of 400 kJ are calibration, which no number of runs averages out.
        assert row["student_served_shared_sd_j"] == pytest.approx(0.05 * 180e-6)
    assert len({row["student_served_key"] for row in rows(tmp_path).values()}) == 1


@pytest.mark.parametrize(
    "apart",
    (
        {"power_limit_w": [250.0, 700.0]},
        {"gpu": ["h100", "a100"]},
        {"num_gpus": [1, 2]},
        {"student_params": [1_000_000, 2_000_000]},
        {"model": ["tiny", "other"]},
        {"data": ["tiny", "other"]},
        {"inference_energy_quality": ["measured", "estimated"]},
    ),
)
def test_what_does_not_serve_alike_is_never_pooled(make, tmp_path, apart):
    old_runs(make, tmp_path, [1.0, 3.0], **apart)
    found = [row["student_served_j_per_token"] for row in rows(tmp_path).values()]
    assert found == [1.0, 3.0]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    (
        ("manifest.json", "node7", "node8"),
        ("manifest.json", '"torch": "2.8.0"', '"torch": "2.9.0"'),
        ("config.yaml", "bf16", "fp32"),
        ("config.yaml", "training:", "eval:\n  inference:\n    prompts: own.jsonl\ntraining:"),
    ),
)
def test_another_host_version_precision_or_prompt_is_another_figure(make, tmp_path, file, old, new):
    old_runs(make, tmp_path, [1.0, 3.0])
    rewrite(tmp_path / "1" / file, old, new)
    assert [r["student_served_j_per_token"] for r in rows(tmp_path).values()] == [1.0, 3.0]


def test_a_commit_or_a_library_that_does_not_serve_sets_nothing_apart(make, tmp_path):
    old_runs(make, tmp_path, [1.0, 3.0])
    rewrite(tmp_path / "1" / "manifest.json", '"lm-eval": null', '"lm-eval": "0.4.13"')
    assert [r["student_served_j_per_token"] for r in rows(tmp_path).values()] == [2.0, 2.0]


def test_hosts_that_are_not_known_are_not_taken_for_one(make, tmp_path):
    old_runs(make, tmp_path, [1.0, 3.0])
    for name in "01":
        rewrite(tmp_path / name / "manifest.json", '"node7"', "null")
    assert [r["student_served_j_per_token"] for r in rows(tmp_path).values()] == [1.0, 3.0]


def test_a_measurement_that_runs_share_counts_once_by_its_number_or_to_the_last_bit(make, tmp_path):
    for name in "01":
        folder = make.run(tmp_path / name, student_key=name)
        make.serving(folder, student=[1.0, 1.0, 4.0])
    for row in rows(tmp_path).values():
        assert row["student_served_measurements"] == 3
        assert row["student_served_j_per_token"] == pytest.approx(2.0)
        # One teacher's figure stands in both metrics.json, equal to the last bit.
        assert row["teacher_served_measurements"] == 1


def test_equal_numbers_of_two_stores_are_two_measurements(make, tmp_path):
    for name, j in (("0", 1.0), ("1", 3.0)):
        make.serving(make.run(tmp_path / name, student_key=name), student=[j])
    assert {r["student_served_j_per_token"] for r in rows(tmp_path).values()} == {2.0}
    assert {r["student_served_measurements"] for r in rows(tmp_path).values()} == {2}


def test_a_run_that_waited_for_no_measurement_has_the_figure_of_those_that_serve_alike(
    make, tmp_path
):
    make.serving(make.run(tmp_path / "0"), student=[1.0, 2.0, 3.0], teacher=[5.0, 6.0, 7.0])
    nothing = {
        f"{subject}_{what}_j_per_token": None
        for subject in ("student", "teacher")
        for what in ("prefill", "decode", "total")
    }
    waiting = make.run(
        tmp_path / "1", student_key="s1", om_perf=0.8, eff_overall=None,
        inference_energy_quality="missing", **nothing,
    )  # fmt: skip
    metrics = json.loads((waiting / "metrics.json").read_text())
    metrics |= {f"{subject}_serving_key": f"{subject}-serves" for subject in ("student", "teacher")}
    (waiting / "metrics.json").write_text(json.dumps(metrics))
    row = rows(tmp_path)["1"]
    assert row["student_served_j_per_token"] == 2.0
    assert row["student_served_measurements"] == 3
    assert row["inference_energy_quality"] == "measured"
    # 0.8 of the accuracy for 6 over 2 J.
    assert row["eff_overall"] == pytest.approx(2.4)
    # Its own figure stays what it measured: nothing.
    assert row["student_total_j_per_token"] is None


def test_the_place_that_a_run_states_answers_and_of_an_older_run_its_first(make, tmp_path):
    for name, keys in (("0", True), ("1", False)):
        folder = make.run(tmp_path / name, student_key=name)
        make.serving(folder, keys=keys, place=(1, 64, 32), student=[9.0, 9.5])
        make.serving(folder, keys=keys, place=(8, 64, 32), student=[1.0, 2.0])
    found = rows(tmp_path)
    assert found["0"]["student_served_j_per_token"] == 1.5
    assert found["1"]["student_served_j_per_token"] == 9.25
    assert "b8 p64 n32" in found["0"]["student_served_key"]


def test_a_single_measurement_borrows_the_relative_spread_of_others_on_its_machine(make, tmp_path):
    """Students at 0.9, 1.0 and 1.1 J lie 10 % apart; so may the teacher's 0.11 J: 11 mJ, t[2]."""
    old_runs(make, tmp_path, [0.9, 1.0, 1.1])
    row = rows(tmp_path)["0"]
    assert row["teacher_served_measurements"] == 1
    assert row["teacher_served_random_sd_j"] == pytest.approx(0.011)
    assert row["teacher_served_degrees"] == 2
    text = dict(caveats(collect([tmp_path])))["Joules per token"]
    assert "Number of measurements: student of tiny on h100 3, teacher of tiny on h100 1." in text
    assert "on the same machine is used for: teacher of tiny on h100." in text


def test_a_single_measurement_borrows_nothing_from_another_machine(make, tmp_path):
    old_runs(make, tmp_path, [0.9, 1.0, 1.1, 2.0], power_limit_w=[250.0, 250.0, 250.0, 700.0])
    row = rows(tmp_path)["3"]
    assert row["student_served_j_per_token"] == 2.0
    assert row["student_served_degrees"] is None
    assert served(row, "student").random_sd is None
    text = dict(caveats(collect([tmp_path])))["Joules per token"]
    assert "without another spread: student of tiny on h100 at 700 W, teacher of tiny" in text


def test_runs_that_differ_beyond_their_windows_are_named(make, tmp_path):
    """Windows 1 % apart and runs 20 %: F is 400; runs alike are named by nobody."""
    for name, joules in (("0", [1.0]), ("1", [1.2])):
        folder = make.run(tmp_path / name, student_key=name)
        make.serving(folder, keys=False, student=joules, teacher=[3.0 + 0.001 * int(name)])
        path = folder / "inference.json"
        costs = json.loads(path.read_text())
        for cost in costs:
            # Of three windows with s = 0.01 J: t[2] s / sqrt(3).
            cost["total_interval_95_j"] = 4.302653 * 0.01 / math.sqrt(3)
        path.write_text(json.dumps(costs))
    text = dict(caveats(collect([tmp_path])))["Joules per token"]
    assert "Runs of student of tiny on h100 differ more than measurements within a run do" in text
    assert "0 1.00 J, 1 1.20 J" in text
    assert "Runs of teacher" not in text


def test_eff_overall_is_of_the_pooled_figures_with_both_errors_in_its_interval(make, tmp_path):
    """0.9 (0.85 to 0.95) times 6 J over 2 J, which three runs each know to 10 %."""
    folder = make.run(tmp_path / "0", om_perf=0.9, om_perf_low=0.85, om_perf_high=0.95)
    make.serving(folder, student=[1.8, 2.0, 2.2], teacher=[5.4, 6.0, 6.6])
    row = rows(tmp_path)["0"]
    assert row["eff_overall"] == pytest.approx(2.7)
    # Fieller: (6 - 2 r)^2 = (0.6 t / sqrt(3))^2 + (0.2 r t / sqrt(3))^2.
    h, k = (4.302653 * s / math.sqrt(3) for s in (0.6, 0.2))
    q, p, s = 4 - k**2, 12.0, 36 - h**2
    low, high = ((p + sign * math.sqrt(p**2 - q * s)) / q for sign in (-1, 1))
    both = math.hypot(math.log(low / 3), math.log(0.85 / 0.9))
    assert row["eff_overall_low"] == pytest.approx(2.7 * math.exp(-both))
    both = math.hypot(math.log(high / 3), math.log(0.95 / 0.9))
    assert row["eff_overall_high"] == pytest.approx(2.7 * math.exp(both))


def test_a_reported_figure_is_pooled_with_nothing_and_has_no_error(make, tmp_path):
    old_runs(make, tmp_path, [1.0, 3.0], origin=["x", "x"],
             inference_energy_quality=["reported"] * 2)  # fmt: skip
    for row, j in zip(rows(tmp_path).values(), (1.0, 3.0), strict=True):
        assert row["student_served_j_per_token"] == j
        assert row["student_served_random_sd_j"] is None
        # What the import says of Eff_overall stays.
        assert row["eff_overall"] == 5.5
    assert "Joules per token" not in dict(caveats(collect([tmp_path])))


def test_pooled_columns_are_in_the_written_table_with_their_types(make, tmp_path):
    old_runs(make, tmp_path / "runs", [1.0, 3.0])
    collect([tmp_path / "runs"], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert list(table["student_served_j_per_token"]) == [2.0, 2.0]
    kept = pd.read_parquet(tmp_path / "out" / "runs.parquet")
    assert kept["student_served_measurements"].dtype == "Int64"
