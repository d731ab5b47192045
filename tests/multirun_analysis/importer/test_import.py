import json
import os
import shutil

import pytest

from kdwatts.records.files import read_json
from kdwatts.records.run_metrics import Metrics
from kdwatts.telemetry.recover import recover_components
from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.importer import imported_run as importer


def imported(capsys, *arguments):
    """Exit code, lines of standard output, lines of standard error."""
    code = main(["import", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def content(directory):
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def source_dir(foreign, tmp_path):
    """One run and its teacher, ten times as large."""
    teacher = foreign.results(model="meta-llama/Llama-3.1-70B-Instruct", value=0.8)
    teacher["config"]["model_num_parameters"] = 80
    ept = {"E_run_J": 600.0, "T_in": 100, "T_out": 200}
    folder = foreign.run(tmp_path / "in" / "relation_1", eval=foreign.results(), ept=ept)
    teacher_dir = foreign.run(
        tmp_path / "in" / "teacher", eval=teacher, ept={**ept, "E_run_J": 6e3}
    )
    (teacher_dir / "telemetry.jsonl").unlink()
    return folder.parent


def test_a_run_folder_of_ours_is_left_and_one_line_is_printed(source_dir, tmp_path, capsys):
    out_dir = tmp_path / "out"
    code, printed, errors = imported(capsys, source_dir, "--out", out_dir)
    assert (code, errors) == (0, [])
    assert printed == [f"{out_dir / 'relation_1'}: imported, 3.00 ± 0.15 kJ measured"]
    assert {path.name for path in (out_dir / "relation_1").iterdir()} == {
        "telemetry.jsonl",
        "stages.jsonl",
        "eval.json",
        "manifest.json",
        "status.json",
        "metrics.json",
    }
    assert [path.name for path in out_dir.iterdir()] == ["relation_1"]
    assert read_json(out_dir / "relation_1" / "status.json")["state"] == "done"


def test_what_the_records_say_is_there_and_what_they_do_not_say_is_null(
    source_dir, tmp_path, capsys
):
    imported(capsys, source_dir, "--out", tmp_path / "out")
    found = Metrics(**read_json(tmp_path / "out" / "relation_1" / "metrics.json"))
    assert (found.paradigm, found.model) == ("relational", "llama31_70b_to_8b")
    assert (found.gpu, found.gpu_name, found.num_gpus) == ("h100_nvl", "NVIDIA H100 NVL", 2)
    assert (found.student_params, found.teacher_params) == (8, 80)
    assert found.origin == "import of in/relation_1: Slimming-Models-Saving-Watts telemetry"
    unknown = (
        "seed", "data", "site", "train_tokens", "train_duration_s", "train_j_per_token", "co2e_kg",
        "inherited_energy_j", "inherited_energy_by_artifact_j", "own_net_energy_j", "cpu_energy_j",
        "dram_energy_j", "evaluation_energy_j", "student_bits_per_byte", "grid_gco2e_per_kwh",
    )  # fmt: skip
    assert {name: getattr(found, name) for name in unknown} == dict.fromkeys(unknown)


def test_efficiency_is_accuracy_kept_times_the_ratio_of_energies(source_dir, tmp_path, capsys):
    # Student and teacher were asked alike: 0.6 / 0.8, and 20 J over 2 J a token.
    imported(capsys, source_dir, "--out", tmp_path / "out")
    found = read_json(tmp_path / "out" / "relation_1" / "metrics.json")
    assert found["om_perf"] == pytest.approx(0.75)
    assert found["om_perf_corrected"] == pytest.approx(0.35 / 0.55)
    assert found["eff_overall"] == pytest.approx(7.5)


def test_the_energy_of_the_window_is_what_recovery_finds_in_the_written_rows(imported_dir):
    run_dir = imported_dir / "feature_1"
    (line,) = (run_dir / "stages.jsonl").read_text().splitlines()
    stage = json.loads(line)
    again = recover_components(run_dir / "telemetry.jsonl", "run/distill", 1, interval_s=1.0172)
    assert again and stage["energy_j"] == again.energy_j
    assert stage["uncertainty_j"] == again.uncertainty_j
    assert (stage["outcome"], stage["method"]["gpu"]) == ("done", "nvml_counter")
    # The extremes of four GPUs, as in the data's own README within 0.1 %.
    assert stage["reason"]["gpu"] == (
        "imported; energy_mJ rises 999.5 to 999.7 times as fast as power_watts says, so it is "
        "rescaled by 0.001"
    )


def test_the_same_import_again_is_said_to_be_there_and_changes_nothing(
    source_dir, tmp_path, capsys
):
    out_dir = tmp_path / "out"
    imported(capsys, source_dir, "--out", out_dir)
    before = content(out_dir)
    code, printed, _ = imported(capsys, source_dir, "--out", out_dir)
    assert code == 0
    assert printed == [f"{out_dir / 'relation_1'}: was imported before, 3.00 ± 0.15 kJ measured"]
    assert content(out_dir) == before


@pytest.mark.parametrize("name", ["relation_1/telemetry.jsonl", "teacher/eval.json"])
def test_other_records_under_the_same_name_are_refused_and_overwrite_nothing(
    source_dir, tmp_path, capsys, name
):
    out_dir = tmp_path / "out"
    imported(capsys, source_dir, "--out", out_dir)
    before = content(out_dir)
    path = source_dir / name
    path.write_text(path.read_text().replace("40", "41").replace("0.8", "0.7"))
    code, printed, errors = imported(capsys, source_dir, "--out", out_dir)
    assert (code, printed) == (2, [])
    assert len(errors) == 1
    assert "relation_1: exists and is no import of the same records" in errors[0]
    assert content(out_dir) == before


def test_a_folder_that_is_no_import_is_never_touched(source_dir, tmp_path, capsys):
    (tmp_path / "out" / "relation_1").mkdir(parents=True)
    (tmp_path / "out" / "relation_1" / "notes.txt").write_text("mine")
    code, _, errors = imported(capsys, source_dir, "--out", tmp_path / "out")
    assert (code, len(errors)) == (2, 1)
    assert [p.name for p in (tmp_path / "out" / "relation_1").iterdir()] == ["notes.txt"]


def test_an_interrupted_import_leaves_no_half_run(source_dir, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importer, "write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(["import", str(source_dir), "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_appears_under_its_name_only_when_it_is_complete(source_dir, tmp_path, monkeypatch):
    seen = []
    rename = os.rename

    def watch(path, target):
        seen.append({entry.name for entry in os.scandir(path)})
        rename(path, target)

    monkeypatch.setattr(importer.Path, "rename", watch)
    assert main(["import", str(source_dir), "--out", str(tmp_path / "out")]) == 0
    assert {"metrics.json", "status.json", "telemetry.jsonl"} < seen[0]


def test_a_refused_run_leaves_nothing_and_the_others_are_imported(
    foreign, source_dir, tmp_path, capsys
):
    foreign.run(source_dir / "feature_1", per_joule=5e4)
    code, printed, errors = imported(capsys, source_dir, "--out", tmp_path / "out")
    assert (code, len(printed), len(errors)) == (2, 1, 1)
    assert errors[0].startswith("multirun_analysis import: ")
    assert "feature_1/telemetry.jsonl: energy_mJ of gpu 0 should rise 1 or 1000 times" in errors[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["relation_1"]


def test_without_evaluation_and_reported_energy_the_run_is_imported_without_them(
    foreign, tmp_path, capsys
):
    foreign.run(tmp_path / "in" / "feature_1")
    code, _, _ = imported(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert code == 0
    assert not (tmp_path / "out" / "feature_1" / "eval.json").exists()
    found = read_json(tmp_path / "out" / "feature_1" / "metrics.json")
    assert (found["model"], found["om_perf"], found["student_total_j_per_token"]) == (None,) * 3
    assert found["inference_energy_quality"] == "missing"


def test_the_teachers_folder_may_have_another_name(source_dir, tmp_path, capsys):
    (source_dir / "teacher").rename(source_dir / "llama70b")
    code, _, errors = imported(capsys, source_dir, "--out", tmp_path / "out")
    assert code == 2
    assert "llama70b: has no telemetry.jsonl" in errors[0] and "--teacher llama70b" in errors[0]
    shutil.rmtree(tmp_path / "out")
    arguments = (source_dir, "--out", tmp_path / "out", "--teacher", "llama70b")
    assert imported(capsys, *arguments)[0] == 0
    assert read_json(tmp_path / "out" / "relation_1" / "metrics.json")["om_perf"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no such directory"),
        (["empty"], "empty holds no run: neither it nor a folder below it has"),
        (["in", "--teacher", "nobody"], "--teacher nobody: in/nobody holds no eval.json"),
    ],
)
def test_what_cannot_be_read_ends_with_one_sentence_and_exit_code_2(
    source_dir, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, printed, errors = imported(capsys, *arguments, "--out", "out")
    assert (code, printed, len(errors)) == (2, [], 1)
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_broken_teacher_refuses_the_import_by_file(source_dir, tmp_path, capsys):
    (source_dir / "teacher" / "ept.json").write_text('{"E_run_J": ')
    code, _, errors = imported(capsys, source_dir, "--out", tmp_path / "out")
    assert (code, len(errors)) == (2, 1)
    assert "teacher/ept.json: not JSON" in errors[0]
    assert not (tmp_path / "out").exists()


def test_runs_at_any_depth_are_imported_below_the_same_folders(foreign, tmp_path, capsys):
    for name in ("SFT 1", "RESPONSE/MODEL 1", "RESPONSE/seed_3/deep/MODEL 1"):
        foreign.run(tmp_path / "in" / name)
    (tmp_path / "elsewhere").mkdir()
    foreign.run(tmp_path / "elsewhere" / "MODEL 1")
    (tmp_path / "in" / "FEATURE").symlink_to(tmp_path / "elsewhere")
    out_dir = tmp_path / "in" / "imported"
    code, printed, errors = imported(capsys, tmp_path / "in", "--out", out_dir)
    assert (code, len(printed), errors) == (0, 4, [])
    rows = collect([out_dir]).runs.set_index("run")[["paradigm", "seed"]]
    assert {run: row["paradigm"] for run, row in rows.iterrows()} == {
        "FEATURE/MODEL 1": "feature",
        "RESPONSE/MODEL 1": "response",
        "RESPONSE/seed_3/deep/MODEL 1": "response",
        "SFT 1": "sft",
    }
    assert rows.loc["RESPONSE/seed_3/deep/MODEL 1", "seed"] == 3
    # What was imported is not taken for records when it lies among them.
    assert imported(capsys, tmp_path / "in", "--out", out_dir)[0] == 0


def test_a_teacher_stands_beside_its_runs_at_any_depth(foreign, tmp_path, capsys):
    for group, value in (("llama", 0.6), ("qwen/large", 0.4)):
        teacher = tmp_path / "in" / group / "teacher"
        teacher.mkdir(parents=True)
        results = foreign.results(value=value)
        (teacher / "eval.json").write_text(json.dumps(results))
        foreign.run(tmp_path / "in" / group / "sft_1", eval=foreign.results(value=0.3))
    code, printed, errors = imported(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert (code, len(printed), errors) == (0, 2, [])
    for group, value in (("llama", 0.6), ("qwen/large", 0.4)):
        scores = json.loads((tmp_path / "out" / group / "sft_1" / "eval.json").read_text())
        found = {(s["subject"], s["task"]): s["value"] for s in scores}
        assert found["teacher", "mmlu"] == value
        assert found["student", "mmlu"] == 0.3


def test_a_folder_that_is_a_run_itself_is_imported_under_its_name(foreign, tmp_path, capsys):
    foreign.run(tmp_path / "in" / "sft_1")
    assert imported(capsys, tmp_path / "in" / "sft_1", "--out", tmp_path / "out")[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sft_1"]


def test_a_folder_without_records_is_named_and_the_exit_code_is_1(foreign, tmp_path, capsys):
    run_dir = foreign.run(tmp_path / "in" / "sft_1")
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "loss.png").touch()
    misspelt = tmp_path / "in" / "sft" / "2"
    misspelt.mkdir(parents=True)
    (misspelt / "telemetry.json").touch()
    code, printed, errors = imported(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert (code, len(printed)) == (1, 1)
    assert errors == [
        f"multirun_analysis import: {misspelt}: left out, it has no telemetry.jsonl, eval.json or "
        "ept.json"
    ]
