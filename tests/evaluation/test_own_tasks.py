"""What a task of one's own reads is part of the key, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdwatts.evaluation.lighteval_child import Refusal, load_local_copy
from kdwatts.evaluation.own_tasks import check_data_files, check_own_tasks, inside

TASK = "task: own\ndataset_path: json\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks with data and a function beside them, and files of the same names outside."""
    folder = tmp_path / "tasks"
    for place in (tmp_path, folder, folder / ".hidden", folder / "part"):
        place.mkdir(exist_ok=True)
        (place / "rows.jsonl").write_text("{}")
        (place / "common.yaml").write_text("test_split: test")
    (folder / "results.py").write_text("def score(doc, results): return {}")
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "dataset_kwargs: {data_files: {test: rows.jsonl}}",
        "dataset_kwargs: {data_files: {test: [rows.jsonl, part/rows.jsonl]}}",
        "dataset_kwargs: {data_files: part/../rows.jsonl}",
        "dataset_kwargs: {data_files: 'https://example.org/rows.jsonl'}",
        "dataset_kwargs: {data_dir: part}",
        "include: common.yaml",
        "process_results: !function results.score",
        "process_results: !function lm_eval.tasks.bbh.utils.score",
    ],
)
def test_a_task_whose_files_lie_in_its_folder_is_taken(text: str, folder: Path):
    (folder / "own.yaml").write_text(TASK + text)
    check_own_tasks(folder)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dataset_kwargs: {data_files: {test: ../rows.jsonl}}", "../rows.jsonl"),
        ("dataset_kwargs: {data_files: {test: [rows.jsonl, /data/rows.jsonl]}}", "/data/rows"),
        ("dataset_kwargs: {data_files: .hidden/rows.jsonl}", ".hidden/rows.jsonl"),
        ("dataset_kwargs: {data_dir: ../}", "../"),
        ("dataset_path: ../", "../"),
        ("include: ../common.yaml", "../common.yaml"),
        ("include: [common.yaml, part/outer.yaml]", "../../common.yaml"),
        ("process_results: !function json.loads", "json.loads"),
    ],
)
def test_a_task_that_names_what_lies_outside_is_refused_with_its_name(
    text: str, named: str, folder: Path
):
    (folder / "part" / "outer.yaml").write_text("include: ../../common.yaml")
    if "outer" not in text:
        (folder / "part" / "outer.yaml").unlink()
    (folder / "own.yaml").write_text(TASK.replace("dataset_path: json\n", "") + text)
    with pytest.raises(ValueError, match="would not change the key; put") as caught:
        check_own_tasks(folder)
    assert named in str(caught.value)


def test_names_are_looked_for_in_the_folder_and_not_in_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder.parent)
    assert inside(folder, {"test": ["rows.jsonl"]}, "own") == {"test": [str(folder / "rows.jsonl")]}


def test_a_data_file_that_is_not_there_is_refused_with_the_place_where_it_was_looked_for(
    folder: Path,
):
    missing = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "tasks/r.jsonl"}}}
    with pytest.raises(
        ValueError, match=r"own names the data file tasks/r\.jsonl, and there is no"
    ):
        check_data_files(folder, "own", missing)


@pytest.mark.parametrize(
    ("reader", "files"),
    [
        ("json", {"test": ["rows.jsonl", "part/rows.jsonl"]}),
        ("json", "part/*.none"),
        ("json", "https://example.org/r.jsonl"),
        ("someone/set", "r.jsonl"),
        ("json", None),
    ],
)
def test_data_files_that_are_there_or_somebody_else_s_are_no_fault(
    reader: str, files: object, folder: Path
):
    kwargs = {"data_files": files}
    check_data_files(folder, "own", {"dataset_path": reader, "dataset_kwargs": kwargs})


def test_two_files_that_include_each_other_come_to_an_end(folder: Path):
    (folder / "one.yaml").write_text("include: two.yaml")
    (folder / "two.yaml").write_text("include: one.yaml\ndataset_path: ../")
    with pytest.raises(ValueError, match=r"two\.yaml names \.\./, which lies outside"):
        check_own_tasks(folder)


def test_a_file_that_no_reader_of_yaml_reads_is_left_to_the_harness(folder: Path):
    (folder / "broken.yaml").write_text("task: [")
    check_own_tasks(folder)


def test_lighteval_reads_no_folder_that_is_not_part_of_the_key(folder: Path):
    def load(path: str, name: str | None, **options: str) -> str:
        return path

    setup = {"data_dir": None, "scratch_dir": str(folder)}
    with pytest.raises(
        Refusal, match=r"own reads the folder .*, but a change in it would not change the k"
    ):
        load_local_copy(load, setup, [str(folder)], "own", str(folder))
    setup["data_dir"] = str(folder.parent)
    assert load_local_copy(load, setup, ["tasks"], "own", "tasks") == str(folder)
