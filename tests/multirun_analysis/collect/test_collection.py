import csv
import json

import pandas as pd
import pytest
from omegaconf import OmegaConf

from kdwatts.records.run_metrics import Metrics
from kdwatts.records.schema import SCHEMA, TelemetryRow
from multirun_analysis.collect.collection import collect
from multirun_analysis.values.order import options_of
from multirun_analysis.values.rows import to_rows


def row(collected, run):
    return collected.runs.set_index("run").loc[run]


def test_a_finished_run_has_all_keys_of_metrics_and_where_it_ran(run_in, tmp_path):
    run_in()
    runs = collect([tmp_path]).runs
    assert set(Metrics.__dataclass_fields__) - {"schema"} <= set(runs)
    found = runs.iloc[0]
    assert found["own_energy_j"] == 400e3
    assert (found["host"], found["cards"]) == ("node7", "1 x NVIDIA H100 80GB HBM3")
    assert found["finished"] and found["state"] == "done"


@pytest.mark.parametrize(
    ("state", "shown", "reason"),
    [
        ({"state": "failed", "error": "ValueError: too few tokens"}, "failed", "too few tokens"),
        (
            {"state": "running", "stage": "teacher"},
            "unfinished",
            "stage teacher, attempt 1, 2025-11-14",
        ),
        ({"state": "preempted"}, "preempted", "not resumed"),
        ({"state": "done", "stage": "shards"}, "done", "stopped after stage shards as asked"),
        ({"state": "weird"}, "weird", "does not know"),
    ],
)
def test_a_run_without_metrics_is_listed_with_its_reason(
    make, run_in, tmp_path, state, shown, reason
):
    run_in(state=make.status() | state, metrics=None)
    found = collect([tmp_path]).runs.iloc[0]
    assert not found["finished"]
    assert found["state"] == shown
    assert reason in found["reason"]
    assert found["paradigm"] == "response" and found["seed"] == 0


def test_a_run_killed_before_its_first_status_is_listed(tmp_path):
    (tmp_path / "7" / ".hydra").mkdir(parents=True)
    found = collect([tmp_path]).runs.iloc[0]
    assert (found["run"], found["state"]) == ("7", "unknown")
    assert "never started" in found["reason"]


def test_a_torn_metrics_file_makes_the_run_unreadable_and_names_the_file(run_in, tmp_path):
    (run_in() / "metrics.json").write_text('{"schema": 1, "own_en')
    found = collect([tmp_path]).runs.iloc[0]
    assert found["state"] == "unreadable"
    assert found["reason"].startswith("metrics.json: not JSON")


@pytest.mark.parametrize("value", ["much", True, float("nan"), {}])
def test_an_energy_that_is_no_number_makes_the_run_unreadable(run_in, tmp_path, value):
    path = run_in() / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"own_energy_j": value}))
    found = collect([tmp_path]).runs.iloc[0]
    assert found["state"] == "unreadable"
    assert found["reason"].startswith("metrics.json: own_energy_j is ")


def test_a_torn_last_line_is_passed_over_and_noted(make, run_in, tmp_path):
    folder = run_in()
    make.append(folder / "stages.jsonl", [make.stage("shards"), make.stage("distill")])
    with (folder / "stages.jsonl").open("a") as file:
        file.write('{"schema": 1, "wind')
    collected = collect([tmp_path])
    assert list(collected.stages["window"]) == ["run/shards", "run/distill"]
    assert collected.runs["notes"].iloc[0] == "stages.jsonl: torn last line passed over"
    assert collected.runs["finished"].iloc[0]


def test_a_broken_line_in_the_middle_is_noted_by_file_and_line(run_in, tmp_path):
    folder = run_in()
    good = json.dumps({"schema": SCHEMA, "step": 1, "tokens": 10, "loss": 2.0})
    (folder / "train.jsonl").write_text(f"{good}\n{{broken}}\n{good}\n")
    collected = collect([tmp_path])
    assert len(collected.train) == 1
    assert collected.runs["notes"].iloc[0].startswith("train.jsonl:2: not JSON")


def test_a_stage_record_that_lacks_its_energy_is_noted_not_guessed(run_in, tmp_path):
    folder = run_in()
    (folder / "stages.jsonl").write_text('{"schema": 1, "window": "run/distill"}\n')
    collected = collect([tmp_path])
    assert collected.stages.empty
    assert "stages.jsonl: a record is not as agreed" in collected.runs["notes"].iloc[0]


@pytest.mark.parametrize("name", ["metrics.json", "status.json", "eval.json", "telemetry.jsonl"])
@pytest.mark.parametrize("schema", [SCHEMA + 1, "2", None])
def test_a_foreign_schema_is_refused_by_file_name(run_in, tmp_path, name, schema):
    folder = run_in()
    (folder / name).write_text(json.dumps({"schema": schema}) + "\n")
    with pytest.raises(ValueError, match=rf"{folder / name}.*schema is"):
        collect([tmp_path])


def test_a_newer_schema_behind_a_broken_line_is_refused_too(run_in, tmp_path):
    folder = run_in()
    (folder / "stages.jsonl").write_text('{broken}\n{"schema": 99}\n')
    with pytest.raises(ValueError, match=r"stages\.jsonl: schema is 99"):
        collect([tmp_path])


def test_stage_energy_is_of_measured_components_when_there_are_any(make, run_in, tmp_path):
    energy_j = {"gpu": 300.0, "cpu": 50.0, "dram": None}
    quality = {"gpu": "measured", "cpu": "estimated", "dram": "missing"}
    estimated = {**quality, "gpu": "missing"}
    make.append(
        run_in() / "stages.jsonl",
        [
            make.stage("shards", energy_j=energy_j, quality=quality),
            make.stage("distill", energy_j={**energy_j, "gpu": None}, quality=estimated),
        ],
    )
    stages = collect([tmp_path]).stages
    assert list(stages["energy_j"]) == [300, 50]
    assert list(stages["energy_quality"]) == ["measured", "estimated"]
    assert stages["dram_energy_j"].isna().all()


def test_missing_numbers_are_empty_cells_in_csv_and_null_in_parquet(run_in, tmp_path):
    run_in(own_energy_j=None, own_energy_quality="missing", own_energy_uncertainty_j=None)
    collect([tmp_path], tmp_path / "out")
    with (tmp_path / "out" / "runs.csv").open() as file:
        (cells,) = csv.DictReader(file)
    assert cells["own_energy_j"] == "" and cells["total_energy_j"] == ""
    table = pd.read_parquet(tmp_path / "out" / "runs.parquet")
    assert table["own_energy_j"].isna().all()
    assert table["own_energy_j"].dtype == "float64"


def test_the_same_student_twice_is_counted_once_and_said(run_in, tmp_path):
    run_in("0-a", student_key="k")
    run_in("1-b", student_key="k")
    run_in("2-c", student_key="k", seed=1)
    collected = collect([tmp_path])
    assert row(collected, "1-b")["duplicate_of"] == "0-a"
    assert row(collected, "1-b")["notes"] == "same student as 0-a, counted once"
    assert list(collected.runs["duplicate_of"].notna()) == [False, True, False]


def test_inherited_energy_is_divided_among_the_distinct_students_that_share_it(run_in, tmp_path):
    # Three students share the shards, two of them the teacher; the last folder repeats a student.
    run_in(
        "0", student_key="a", inherited_energy_by_artifact_j={"shards-1": 30.0, "teacher-1": 90.0}
    )
    run_in(
        "1", student_key="b", inherited_energy_by_artifact_j={"shards-1": 30.0, "teacher-1": 90.0}
    )
    run_in("2", student_key="c", inherited_energy_by_artifact_j={"shards-1": 30.0})
    run_in(
        "3", student_key="b", inherited_energy_by_artifact_j={"shards-1": 30.0, "teacher-1": 90.0}
    )
    shares_j = collect([tmp_path]).runs["inherited_amortised_energy_j"]
    assert list(shares_j) == [30 / 3 + 90 / 2, 55, 10, 55]


def test_labels_hold_what_differs_and_groups_hold_all_but_the_seed(run_in, tmp_path):
    for name, seed, temperature in (("0", 0, 1), ("1", 1, 1), ("2", 0, 4)):
        overrides = (f"paradigm.response.temperature={temperature}", "telemetry.interval_s=0.05")
        run_in(name, seed=seed, student_key=name, overrides=overrides)
    runs = collect([tmp_path]).runs
    assert list(runs["label"]) == [
        "response · temperature=1 · seed 0",
        "response · temperature=1 · seed 1",
        "response · temperature=4 · seed 0",
    ]
    assert runs["group"].nunique() == 2


def test_runs_under_different_power_limits_are_different_settings(run_in, tmp_path):
    for name, limit_w in (("0", 700.0), ("1", 350.0)):
        run_in(name, student_key=name, power_limit_w=limit_w)
    runs = collect([tmp_path]).runs
    assert list(runs["label"]) == ["response · 700 W · seed 0", "response · 350 W · seed 0"]
    assert runs["group"].nunique() == 2


def test_two_students_of_one_seed_are_told_apart_by_what_their_configurations_differ_in(
    run_in, tmp_path
):
    for i, (student, bits) in enumerate((("aa", 8), ("bb", 4), ("cc", 4))):
        folder = run_in(str(i), student_key=student, seed=i // 2)
        with (folder / "config.yaml").open("a") as file:
            file.write(f"teacher:\n  bits: {bits}\ntelemetry:\n  interval_s: {i}\n")
    runs = collect([tmp_path]).runs
    assert list(runs["label"]) == [
        "response · bits=8 · seed 0",
        "response · bits=4 · seed 0",
        "response · bits=4 · seed 1",
    ]
    assert runs["group"].nunique() == 2


def test_two_students_that_no_configuration_tells_apart_are_called_by_their_folders(
    run_in, tmp_path
):
    run_in("0-first", student_key="aaaaaaaaaa")
    run_in("1-second", student_key="bbbbbbbbbb")
    runs = collect([tmp_path]).runs
    assert runs["group"].nunique() == 2
    assert list(runs["group_label"]) == ["response · 0-first", "response · 1-second"]


def test_what_varies_between_runs_is_a_value_of_each_also_where_it_was_not_overridden(
    run_in, tmp_path
):
    for i, overrides in enumerate((("training.micro_batch=4",), ("training.micro_batch=16",), ())):
        run_in(str(i), student_key=f"s{i}", overrides=("training.steps=9", *overrides))
    found = [options_of(row) for row in to_rows(collect([tmp_path]).runs)]
    # The writer's configuration has a micro batch of 8.
    assert found == [{"micro_batch": value} for value in ("4", "16", "8")]


@pytest.mark.parametrize(("single", "swept"), [("100_000", "100000"), ("1e-3", "0.001")])
def test_a_number_that_a_single_run_spells_otherwise_than_a_sweep_is_no_other_setting(
    single: str, swept: str, run_in, tmp_path
):
    for i, value in enumerate((single, swept)):
        run_in(str(i), student_key=f"s{i}", seed=i, overrides=(f"training.x={value}",))
    assert collect([tmp_path]).runs["group"].nunique() == 1


def test_runs_of_equal_name_are_told_apart_by_their_parents(make, tmp_path):
    for parent in ("monday", "tuesday"):
        make.run(tmp_path / parent / "0", student_key=parent)
    runs = collect([tmp_path / "monday", tmp_path / "tuesday"]).runs
    assert list(runs["run"]) == ["monday/0", "tuesday/0"]


def test_telemetry_of_each_run_is_kept_with_missing_power_as_nan(make, run_in, tmp_path):
    tick = TelemetryRow("2025-11-14T01:21:00Z", 1.0, 1, "run", "gpu", 0, power_w=None, error="lost")
    make.append(run_in() / "telemetry.jsonl", [tick])
    (found,) = collect([tmp_path]).telemetry.of("0-response-tiny").to_dict("records")
    assert (found["run"], found["error"]) == ("0-response-tiny", "lost")
    assert found["power_w"] != found["power_w"]


def test_keys_added_by_a_later_writer_of_the_same_schema_are_kept(run_in, tmp_path):
    path = run_in() / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"water_l": 3.5}))
    assert list(collect([tmp_path]).runs["water_l"]) == [3.5]


def test_a_total_of_measured_and_estimated_parts_is_called_mixed(make, run_in, tmp_path):
    run_in(inherited_energy_quality="estimated")
    found = collect([tmp_path]).runs.iloc[0]
    assert found["total_energy_j"] == make.metrics.own_energy_j + make.metrics.inherited_energy_j
    assert found["total_energy_quality"] == "mixed"


def test_a_setting_is_read_whole_however_yaml_wraps_and_quotes_it(run_in, tmp_path):
    folder = run_in()
    long = "paradigm.relational={weight: 2, level: token, distance_weight: 1, angle_weight: 2}"
    words = [long, "data.source.path='/a=b'", "+training.betas=[0.9, 0.95]", "paradigm=sft"]
    OmegaConf.save(OmegaConf.create(words), folder / ".hydra" / "overrides.yaml")
    assert (folder / ".hydra" / "overrides.yaml").read_text().count("\n") > len(words)
    expected = f"data.source.path='/a=b', {long}, training.betas=[0.9, 0.95]"
    assert collect([tmp_path]).runs.iloc[0]["setting"] == expected
