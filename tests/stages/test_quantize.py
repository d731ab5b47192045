"""Teacher and student in few bits through a run: stages, keys, scores, records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from kdwatts.planning.describe import describe
from kdwatts.planning.serving_time import load_lines
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.records.quantized_model import without_bits
from kdwatts.stages.graph import PlannedStage, plan
from kdwatts.stages.quantized_subjects import name_of
from multirun_analysis.collect.collection import collect
from multirun_analysis.report.page import report_html
from tests.whole_runs import run

Configure = Callable[..., Any]

SERVED = ("gpu=cpu", "eval=tiny", "eval.serving.engine=transformers", "paradigm=sft")
BITS = "eval.serving.quantizations=[int8,fp8]"


def stages_of(configure: Configure, *overrides: str) -> dict[str, PlannedStage]:
    return {planned.name: planned for planned in plan(configure(*SERVED, *overrides), [])}


def test_nothing_that_exists_gets_another_key(configure: Configure):
    plain, more = stages_of(configure), stages_of(configure, BITS)
    assert {name: more[name].key for name in plain} == {
        n: planned.key for n, planned in plain.items()
    }
    added = [name for name in more if name not in plain]
    assert added == [
        f"{stage}_{subject}_{bits}"
        for stage in ("quantize", "evaluate", "serving")
        for subject in ("student", "teacher")
        for bits in ("int8", "fp8")
    ]


def test_what_is_scored_and_what_is_served_is_one_folder(configure: Configure):
    stages = stages_of(configure, BITS, "eval.serving.workload.length=natural")
    for model in ("student_int8", "student_fp8", "teacher_int8", "teacher_fp8"):
        made = stages[f"quantize_{model}"].key
        for stage in ("evaluate", "serving"):
            assert stages[f"{stage}_{model}"].parents[f"quantize_{model}"] == made


def test_a_teacher_is_rounded_once_for_all_paradigms_and_a_student_for_each(configure: Configure):
    one, other = stages_of(configure, BITS), stages_of(configure, BITS, "training.seed=7")
    for name in ("quantize_teacher_int8", "evaluate_teacher_int8", "serving_teacher_int8"):
        assert one[name].key == other[name].key
    for name in ("quantize_student_int8", "evaluate_student_int8"):
        assert one[name].key != other[name].key


def test_students_of_one_shape_share_their_serving_in_few_bits_where_lengths_are_forced(
    configure: Configure,
):
    one, other = stages_of(configure, BITS), stages_of(configure, BITS, "training.seed=7")
    assert one["serving_student_int8"].key == other["serving_student_int8"].key
    assert one["serving_student_int8"].reads.keys() == {"quantize_student_int8"}
    keys = {one[f"serving_student{bits}"].key for bits in ("", "_int8", "_fp8")}
    assert len(keys) == 3
    natural = (BITS, "eval.serving.workload.length=natural")
    one, other = (stages_of(configure, *natural, *more) for more in ([], ["training.seed=7"]))
    assert one["serving_student_int8"].key != other["serving_student_int8"].key


def test_how_weights_are_rounded_is_in_the_key(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    before = stages_of(configure, BITS)["quantize_teacher_int8"].key
    monkeypatch.setattr("kdwatts.models.rounding_to_bits.library_version", lambda: "0.99")
    assert stages_of(configure, BITS)["quantize_teacher_int8"].key != before


def test_a_run_that_ends_before_plans_none_and_one_without_a_teacher_only_the_student(
    configure: Configure,
):
    assert not [n for n in stages_of(configure, BITS, "until=distill") if "int8" in n]
    alone = stages_of(configure, BITS, "model.teacher=null")
    assert [n for n in alone if n.endswith("_int8")] == [
        "quantize_student_int8", "evaluate_student_int8", "serving_student_int8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("evaluate_teacher_int4", "evaluate_teacher"),
        ("student_fp8", "student"),
        ("evaluate_teacher", "evaluate_teacher"),
        ("distill", "distill"),
    ],
)
def test_a_name_loses_its_bits_and_nothing_else(name: str, plain: str):
    assert without_bits(name) == plain


def test_the_plan_names_every_model_in_a_column_wide_enough(configure: Configure, tmp_path: Path):
    from kdwatts.artifacts.store import Store

    config = configure(*SERVED, BITS, f"store_dir={tmp_path}")
    stages = plan(config, [])
    lines = describe(config, stages, Store(config.store_dir), []).splitlines()
    ends = {
        line.index(planned.key)
        for planned in stages
        for line in lines
        if f" {planned.name} " in line
    }
    assert len(ends) == 1
    assert "teacher in int8 and teacher in fp8 behind transformers" in load_lines(config, stages)[0]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run until its scores, of few questions."""
    folder = tmp_path_factory.mktemp("few_bits")
    return run(
        folder / "run",
        *SERVED,
        f"store_dir={folder / 'store'}",
        "training=smoke",
        "eval.serving.quantizations=[int8]",
        "eval.tasks.0.limit=60",
        "eval.tasks.1.limit=60",
        "until=evaluate",
    )


def test_scores_in_few_bits_stand_beside_those_of_the_models_as_they_are(scored: Path):
    subjects = [score["subject"] for score in read_json(scored / "eval.json")]
    assert list(dict.fromkeys(subjects)) == ["student", "teacher", "student_int8", "teacher_int8"]


def test_metrics_compare_a_model_in_few_bits_with_the_teacher_as_it_is(scored: Path):
    metrics = read_json(scored / "metrics.json")
    teacher = metrics["quantized"]["teacher_int8"]
    scores = {
        score["subject"]: score["value"]
        for score in read_json(scored / "eval.json")
        if score["metric"] == "acc"
    }
    chance = 0.25
    assert teacher["accuracy_kept"] == pytest.approx(
        (scores["teacher_int8"] - chance) / (scores["teacher"] - chance)
    )
    assert teacher["accuracy_kept_low"] < teacher["accuracy_kept"] < teacher["accuracy_kept_high"]
    assert teacher["om_perf"] == pytest.approx(scores["teacher_int8"] / scores["teacher"])
    assert (teacher["scheme"], teacher["engine"]) == ("W8A8", None)
    assert metrics["accuracy_kept"] == pytest.approx(
        (scores["student"] - chance) / (scores["teacher"] - chance)
    )


def test_joules_of_scoring_in_few_bits_are_not_added_to_those_of_student_and_teacher(scored: Path):
    metrics = read_json(scored / "metrics.json")
    windows = {
        row["window"].removeprefix("run/"): row for row in read_jsonl(scored / "stages.jsonl")
    }
    cpu_j = {name: row["energy_j"]["cpu"] for name, row in windows.items() if "/" not in name}
    if any(cpu_j[f"evaluate_{who}"] is None for who in ("student", "teacher")):
        pytest.skip("this machine has no joules")
    assert metrics["evaluation_energy_j"] == pytest.approx(
        cpu_j["evaluate_student"] + cpu_j["evaluate_teacher"]
    )
    model = metrics["quantized"]["student_int8"]
    assert model["quantizing_energy_j"] == pytest.approx(cpu_j["quantize_student_int8"])
    assert model["evaluation_energy_j"] == pytest.approx(cpu_j["evaluate_student_int8"])


def test_a_folder_in_eight_bits_is_smaller_and_transformers_loads_it(scored: Path):
    from tests.whole_runs import artifact_of

    kept = [*SERVED, "training=smoke", "eval.serving.quantizations=[int8]"]
    folder = artifact_of(scored.parent / "store", "quantize_teacher_int8", *kept) / "model"
    stated = read_json(scored / "metrics.json")["quantized"]["teacher_int8"]["weights_bytes"]
    assert stated == (folder / "model.safetensors").stat().st_size
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert stated < 0.5 * 4 * sum(weight.numel() for weight in model.parameters())


def test_the_page_takes_no_model_in_few_bits_for_the_teacher(scored: Path):
    collected = collect([scored])
    page = report_html(collected)
    section = page.split('<section id="few_bits">')[1].split("</section>")[0]
    assert "teacher in int8" in section
    assert "student in int8" in section
    table = page.split('<section id="scores">')[1].split("</section>")[0]
    assert "int8" not in table


def test_names_of_nodes_and_scores_are_the_subject_and_its_bits():
    assert (name_of("teacher", "int4"), name_of("teacher", None)) == ("teacher_int4", "teacher")


@pytest.mark.slow
def test_a_model_in_few_bits_is_served_as_its_subject_and_the_record_says_the_bits(
    scored: Path, tmp_path: Path
):
    served = run(
        tmp_path / "run",
        *SERVED,
        f"store_dir={scored.parent / 'store'}",
        "training=smoke",
        "eval.serving.quantizations=[int8]",
        "eval.tasks.0.limit=60",
        "eval.tasks.1.limit=60",
        "eval.inference=null",
        "eval.serving.concurrency=[1]",
        "eval.serving.min_window_s=2",
        "eval.serving.max_window_s=8",
        "eval.serving.parking_s=0",
    )
    records = {
        (one["subject"], one["engine"]["quantization"]): one
        for one in read_json(served / "serving.json")
    }
    whole = {(who, bits) for who in ("student", "teacher") for bits in (None, "int8")}
    assert records.keys() == whole
    for (subject, bits), one in records.items():
        remarks = [words for point in one["points"] for words in point["remarks"]]
        assert any("unpacks rounded weights" in words for words in remarks) == bool(bits), subject
    metrics = read_json(served / "metrics.json")
    engine = metrics["quantized"]["teacher_int8"]["engine"]
    assert engine["measurements"] == metrics["teacher_engine_measurements"] == 1
    assert engine["tpot_p99_s"] != metrics["teacher_engine_tpot_p99_s"]
    assert metrics["serving_energy_j"] == pytest.approx(
        sum(
            row["energy_j"]["cpu"] or 0.0
            for row in read_jsonl(served / "stages.jsonl")
            if row["window"] in ("run/serving_student", "run/serving_teacher")
        )
    )
    rows = collect([served]).serving
    assert set(rows["quantization"].dropna()) == {"int8"}
