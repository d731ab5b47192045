"""Which folders are read, and that none with records goes unsaid."""

from __future__ import annotations

import json
import os

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.values.folders import find_folders

CHOOSE = ("--tokens-per-day", "1e9")


@pytest.fixture
def two_runs(make, tmp_path):
    make.run(tmp_path / "sweep" / "0", student_key="a")
    make.run(tmp_path / "elsewhere" / "deep" / "1", seed=1, student_key="b")
    return tmp_path / "sweep"


def test_linked_folders_of_runs_are_read_and_each_run_once(two_runs, tmp_path):
    (two_runs / "more").symlink_to(tmp_path / "elsewhere")
    (two_runs / "again").symlink_to(two_runs / "0")
    (two_runs / "loop").symlink_to(two_runs)
    assert list(collect([two_runs, two_runs / "0"]).runs["run"]) == ["0", "1"]


def test_run_folders_are_found_once_in_counting_order_and_not_inside_runs(tmp_path):
    for name in ("10-sft", "2-sft", "10-sft/student"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "config.yaml").touch()
    found = find_folders([tmp_path, tmp_path / "sweep"]).runs
    assert [path.name for path in found] == ["2-sft", "10-sft"]


def test_a_sweep_inside_a_folder_of_a_run_is_found_beside_it(make, tmp_path):
    make.run(tmp_path / "study")
    make.run(tmp_path / "study" / "sweeps" / "0", student_key="b")
    names = [path.relative_to(tmp_path).as_posix() for path in find_folders([tmp_path]).runs]
    assert names == ["study", "study/sweeps/0"]


@pytest.mark.parametrize("command", [(), ("choose",)])
def test_records_that_are_not_read_are_named_and_the_exit_code_is_1(
    command, two_runs, foreign, capsys
):
    foreign.run(two_runs / "recorded" / "sft_1")
    (two_runs / "gone").symlink_to("/nowhere/sweep")
    asked = [*command, str(two_runs), *(CHOOSE if command else ())]
    assert main(asked) == 1
    gone, recorded = capsys.readouterr().err.splitlines()
    assert gone.endswith("sweep/gone: a link to /nowhere/sweep, which is not there")
    assert "sweep/recorded/sft_1: records without a run's .hydra" in recorded
    assert recorded.endswith("read in by python -m multirun_analysis import")


def test_artifacts_of_a_store_and_a_lost_student_inside_a_run_are_no_records(two_runs, capsys):
    artifact = two_runs / "store" / "evaluate" / "aa53346558da019a"
    artifact.mkdir(parents=True)
    for name in ("artifact.json", "eval.json"):
        (artifact / name).write_text("{}")
    (two_runs / "0" / "student").symlink_to("/nowhere/student")
    assert main([str(two_runs)]) == 0
    assert capsys.readouterr().err == ""


def test_only_foreign_records_are_refused_with_the_command_that_reads_them(
    foreign, tmp_path, capsys
):
    foreign.run(tmp_path / "sft_1")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "python -m multirun_analysis import" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_an_error(two_runs, monkeypatch, capsys):
    scandir = os.scandir

    def locked(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "permission denied", os.fspath(path))
        return scandir(path)

    (two_runs / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", locked)  # To the root user no folder is closed.
    assert main([str(two_runs)]) == 2
    assert "permission denied" in capsys.readouterr().err


def test_runs_that_are_not_finished_are_named_by_what_chooses(make, tmp_path, capsys):
    make.run(tmp_path / "0")
    make.run(tmp_path / "1", state=make.status("failed", error="out of memory"), metrics=None)
    main(["choose", str(tmp_path), *CHOOSE])
    assert capsys.readouterr().out.endswith("Left out because they are not finished: 1.\n")
    main(["choose", str(tmp_path), *CHOOSE, "--json"])
    assert json.loads(capsys.readouterr().out)["unfinished"] == ["1"]


def test_a_page_without_a_finished_run_is_no_success(make, tmp_path, capsys):
    make.run(tmp_path / "0", state=make.status("failed", error="out of memory"), metrics=None)
    assert main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "no run is finished, so the report has no" in captured.err
    assert "out of memory" in captured.out
    assert (tmp_path / "analysis" / "report.html").is_file()


def test_files_of_a_run_that_do_not_read_are_named_and_the_exit_code_is_1(make, tmp_path, capsys):
    run_dir = make.run(tmp_path / "sweep" / "0")
    (run_dir / "train.jsonl").write_text('{"schema": 1}\ngarbage\n{"torn')
    assert main([str(tmp_path / "sweep")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("multirun_analysis: 0: train.jsonl:2: not JSON (")
    (run_dir / "train.jsonl").write_text('{"schema": 1}\n{"torn')
    assert main([str(tmp_path / "sweep")]) == 0


def test_a_trace_of_another_node_without_its_run_is_named(two_runs, capsys):
    (two_runs / "lost").mkdir()
    (two_runs / "lost" / "telemetry.n2.jsonl").write_text("{}\n")
    assert main([str(two_runs)]) == 1
    assert "sweep/lost: records without a run's .hydra" in capsys.readouterr().err
