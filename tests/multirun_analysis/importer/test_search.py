"""Every way in which a folder of records could be missed, and what is said of it."""

from __future__ import annotations

import gzip
import json

import pytest

from multirun_analysis.__main__ import main


@pytest.fixture
def import_all(tmp_path, capsys):
    """Imports tmp_path/in: exit code, names of imported folders, and what is said on stderr."""

    def run(out="out", *more):
        code = main(["import", str(tmp_path / "in"), "--out", str(tmp_path / out), *more])
        captured = capsys.readouterr()
        names = [line.partition(": ")[0] for line in captured.out.splitlines()]
        prefix = f"{tmp_path / out}/"
        said = captured.err.replace("multirun_analysis import: ", "").replace(f"{tmp_path}/", "")
        return code, [name.removeprefix(prefix) for name in names], said.splitlines()

    return run


@pytest.fixture(autouse=True)
def one_run(foreign, tmp_path):
    return foreign.run(tmp_path / "in" / "sft_1", powers_w=(50.0,))


def test_records_in_a_hidden_folder_are_named(foreign, tmp_path, import_all):
    foreign.run(tmp_path / "in" / ".old" / "sft_2")
    code, names, said = import_all()
    assert (code, names) == (1, ["sft_1"])
    assert said == [
        "in/.old/sft_2: left out, a folder that holds records and whose name begins with a dot"
    ]


def test_a_link_to_nothing_and_a_link_to_what_is_read_are_named(tmp_path, import_all):
    (tmp_path / "in" / "gone").symlink_to("/nowhere")
    (tmp_path / "in" / "latest").symlink_to(tmp_path / "in" / "sft_1")
    code, names, said = import_all()
    assert (code, names) == (1, ["sft_1"])
    assert said == [
        "in/gone: a link to /nowhere, which is not there",
        "in/latest: a link to in/sft_1, which is imported once",
    ]
    (tmp_path / "in" / "gone").unlink()
    assert import_all()[0] == 0


def test_records_inside_a_run_are_a_run_too_and_packed_ones_are_read(foreign, tmp_path, import_all):
    folder = foreign.run(tmp_path / "in" / "sft_1" / "again" / "sft_2")
    text = (folder / "telemetry.jsonl").read_bytes()
    (folder / "telemetry.jsonl").unlink()
    (folder / "telemetry.jsonl.gz").write_bytes(gzip.compress(text))
    assert import_all() == (0, ["sft_1", "sft_1/again/sft_2"], [])


def test_a_folder_without_records_above_others_without_any_is_named_once(tmp_path, import_all):
    misspelt = tmp_path / "in" / "sft_2"
    (misspelt / "plots").mkdir(parents=True)
    for name in ("telemetry.csv", "plots/loss.png"):
        (misspelt / name).touch()
    (tmp_path / "in" / "empty").mkdir()
    code, names, said = import_all()
    assert (code, names) == (1, ["sft_1"])
    assert said == [
        "left out, it has no telemetry.jsonl, eval.json or ept.json: 2 folders (in/empty, in/sft_2)"
    ]


def test_a_teacher_of_no_run_and_the_telemetry_of_a_teacher_are_named(
    foreign, tmp_path, import_all
):
    foreign.run(tmp_path / "in" / "llama" / "teacher", eval=foreign.results())
    code, names, said = import_all()
    assert (code, names) == (1, ["sft_1"])
    assert said[0] == "in/llama/teacher: left out, a teacher below whose folder no run is"
    assert said[1].startswith("in/llama/teacher: its telemetry.jsonl is not read")


def test_runs_of_ours_are_named_and_not_taken_for_foreign_ones(make, tmp_path, import_all):
    make.run(tmp_path / "in" / "ours" / "0")
    make.append(tmp_path / "in" / "ours" / "0" / "telemetry.jsonl", [{"schema": 1}])
    code, names, said = import_all()
    assert (code, names) == (1, ["sft_1"])
    assert said == ["in/ours/0: left out, a run folder of kdwatts already"]


def test_records_that_lie_in_out_are_named_and_what_was_imported_goes_unsaid(
    foreign, tmp_path, import_all
):
    assert import_all("in/out") == (0, ["sft_1"], [])
    foreign.run(tmp_path / "in" / "out" / "sft_2")
    code, names, said = import_all("in/out")
    assert (code, names) == (1, ["sft_1"])
    assert said == ["in/out/sft_2: left out, it lies in --out; import it from there"]


def test_a_folder_cannot_be_imported_into_itself(tmp_path, import_all):
    code, names, said = import_all("in")
    assert (code, names) == (2, [])
    assert said == ["--out in holds the records that are to be imported; give another folder"]


def test_two_folders_of_one_name_are_refused_and_none_replaces_the_other(
    foreign, tmp_path, import_all
):
    foreign.run(tmp_path / "in" / "in")
    (tmp_path / "in" / "eval.json").write_text(json.dumps(foreign.results()))
    code, names, said = import_all()
    assert (code, names) == (2, [])
    assert said == ["in and in/in would both be named in; move one of them"]


def test_one_fault_of_several_runs_is_said_once_with_their_names(foreign, tmp_path, import_all):
    for i in (2, 3, 4):
        folder = foreign.run(tmp_path / "in" / f"sft_{i}")
        (folder / "telemetry.jsonl").write_text("")
    code, names, said = import_all()
    assert (code, names) == (2, ["sft_1"])
    assert said == [
        "0 samples of 0 GPUs; an energy needs two samples of one GPU; leave this run out: "
        "3 folders (in/sft_2/telemetry.jsonl, in/sft_3/telemetry.jsonl, in/sft_4/telemetry.jsonl)"
    ]


def test_a_trace_of_another_node_is_no_record_of_other_software(tmp_path, import_all):
    folder = tmp_path / "in" / "sft_2"
    folder.mkdir()
    (folder / "telemetry.n2.jsonl").write_text("{}\n")
    code, names, said = import_all()
    assert (code, names) == (1, ["sft_1"])
    assert said == ["in/sft_2: left out, it has no telemetry.jsonl, eval.json or ept.json"]
