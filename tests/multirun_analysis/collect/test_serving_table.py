"""The table of serving.json, of runs and of measurements without a run."""

from __future__ import annotations

import json

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.serving_points import nested_point
from multirun_analysis.values.rows import to_rows
from tests.multirun_analysis.written_serving import (
    STUDENT,
    capacity,
    point,
    record,
    write_pair,
    write_under_load,
)


def test_each_load_of_student_and_teacher_is_a_row_with_flat_columns(make, tmp_path):
    write_pair(make.run(tmp_path / "0"))
    rows = to_rows(collect([tmp_path]).serving)
    assert [(row["run"], row["subject"], row["level"]) for row in rows] == [
        ("0", subject, level) for subject in ("student", "teacher") for level in (1, 4, 16)
    ]
    first = rows[0]
    assert (first["engine"], first["engine_version"], first["flags"]) == (
        "vllm", "0.32.0", "--max-num-seqs=64",
    )  # fmt: skip
    # 2 J a written token; 48 read and 32 written tokens a request.
    assert (first["j_per_output_token"], first["j_per_token"]) == (2.0, 0.8)
    assert (first["j_per_token_low"], first["j_per_token_high"]) == pytest.approx((0.784, 0.816))
    assert (first["ttft_p99_s"], first["slo_ttft_p99_s"]) == (0.05, 0.5)
    assert (first["parking_power_w"], first["gpu_energy_j"]) == (80.0, 6000.0)
    assert (first["host"], first["gpus"]) == ("node7", "NVIDIA H100 80GB HBM3")
    assert first["cpu_energy_j"] is None


def test_a_row_gives_the_point_of_its_record_back(make, tmp_path):
    failing = point(
        8, 1.0, failures={"timeout": 2, "http 429": 1}, remarks=["One sentence."], failed=3
    )
    write_under_load(make.run(tmp_path / "0"), record("student", [failing]))
    (row,) = to_rows(collect([tmp_path]).serving)
    found = nested_point(row)
    written = json.loads((tmp_path / "0" / "serving.json").read_text())[0]["points"][0]
    assert {name: found[name] for name in written} == written


def test_loads_of_the_search_for_a_capacity_are_rows_that_say_so(make, tmp_path):
    tried = point(3.0, 1.0, load="poisson")
    searched = record("student", STUDENT, capacity=capacity(3.0, "found", tried))
    write_under_load(make.run(tmp_path / "0"), searched)
    table = collect([tmp_path]).serving
    assert list(table["is_of_search"]) == [False, False, False, True]
    assert set(table["capacity_requests_per_s"]) == {3.0}
    assert set(table["capacity_verdict"]) == {"found"}


def test_a_folder_with_serving_json_alone_is_measured_without_a_run(make, tmp_path):
    make.run(tmp_path / "0")
    write_under_load(tmp_path / "served", record("model", STUDENT, key=None))
    found = collect([tmp_path])
    assert list(found.runs["run"]) == ["0"] and set(found.serving["run"]) == {"served"}
    assert not found.left_out


def test_an_artifact_of_a_store_is_no_measurement_of_its_own(make, tmp_path):
    make.run(tmp_path / "0")
    kept = write_under_load(tmp_path / "store" / "abc", record("student", STUDENT))
    (kept / "artifact.json").write_text('{"schema": 1}')
    assert collect([tmp_path]).serving.empty


def test_a_run_that_was_killed_before_its_metrics_stays_a_run(make, tmp_path):
    write_pair(make.run(tmp_path / "0", metrics=None, state=make.status("preempted")))
    assert list(collect([tmp_path]).runs["run"]) == ["0"]


@pytest.mark.parametrize("is_run", [True, False])
def test_broken_json_is_one_sentence_and_the_exit_code_is_1(is_run, make, tmp_path, capsys):
    make.run(tmp_path / "0")
    folder = tmp_path / ("0" if is_run else "served")
    folder.mkdir(exist_ok=True)
    (folder / "serving.json").write_text('[{"schema": 1, "sub')
    assert main([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder.name}: serving.json: not JSON" in line


def test_a_record_of_a_newer_schema_is_refused_in_one_sentence(make, tmp_path, capsys):
    folder = write_pair(make.run(tmp_path / "0"))
    records = json.loads((folder / "serving.json").read_text())
    (folder / "serving.json").write_text(json.dumps([one | {"schema": 99} for one in records]))
    assert main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "serving.json: schema is 99" in line


def test_a_record_that_is_not_as_agreed_is_left_out_with_a_sentence(make, tmp_path, capsys):
    folder = make.run(tmp_path / "0")
    (folder / "serving.json").write_text('[{"schema": 1, "subject": "student"}]')
    found = collect([tmp_path])
    assert found.serving.empty
    assert "serving.json: a record is not as agreed" in found.runs["notes"][0]
