import csv
import shutil

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.commands.report_command import table
from multirun_analysis.figures.accuracy_against_energy import quality_against_energy
from multirun_analysis.figures.by_stage import energy_by_stage
from multirun_analysis.figures.devices_over_time import devices_over_time
from multirun_analysis.narrative.answer import answer
from multirun_analysis.narrative.caveats import caveats
from multirun_analysis.report.page import report_html
from tests.multirun_analysis.page_words import own_html


@pytest.fixture(scope="module")
def alone(imported_dir):
    return collect([imported_dir])


@pytest.fixture(scope="module")
def mixed(imported_dir, sweep_dir):
    return collect([imported_dir, sweep_dir])


@pytest.fixture(scope="module")
def comparable_dir(foreign, tmp_path_factory):
    """One imported run whose student and teacher were asked alike."""
    root = tmp_path_factory.mktemp("comparable")
    ept = {"E_run_J": 600.0, "T_in": 100, "T_out": 200}
    foreign.run(root / "in" / "response_1", eval=foreign.results(value=0.79), ept=ept)
    teacher_dir = foreign.run(root / "in" / "teacher", eval=foreign.results(value=0.8), ept=ept)
    (teacher_dir / "telemetry.jsonl").unlink()
    assert main(["import", str(root / "in"), "--out", str(root / "out")]) == 0
    return root / "out"


def test_imported_runs_have_a_row_each_and_empty_cells_for_the_unknown(imported_dir, tmp_path):
    collect([imported_dir], tmp_path)
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["feature_1", "relation_1", "response_1"]
    for row in rows:
        assert row["finished"] == "True"
        assert row["origin"].startswith("import of h100_runs/")
        assert (row["unit_correction"], row["num_gpus"]) == ("0.001", "4")
        assert row["seed"] == row["cpu_energy_j"] == row["total_energy_j"] == row["om_perf"] == ""


def test_the_printed_table_says_what_was_imported(alone):
    lines = table(alone.runs).splitlines()
    assert "513 ± 26 kJ measured" in lines[1] and lines[1].endswith("done, imported")


def test_labels_say_imported_and_groups_keep_them_from_our_runs(mixed):
    runs = mixed.runs.set_index("run")
    assert runs.loc["feature_1", "label"].startswith("feature_1 · imported")
    assert runs.loc["feature_1", "group_label"].startswith("feature · imported")
    groups = runs.groupby("group")["origin"].agg(lambda column: column.notna().mean())
    assert set(groups) == {0, 1}
    assert "imported" not in runs.loc["0-sft-tiny", "label"]


def test_an_imported_student_twice_is_counted_once(imported_dir, tmp_path):
    shutil.copytree(imported_dir, tmp_path / "again")
    runs = collect([imported_dir, tmp_path / "again"]).runs
    assert list(runs["duplicate_of"].notna()).count(True) == 3


def test_alone_they_answer_with_their_energy_and_no_accuracy(alone):
    found = answer(alone.runs)
    assert found.headline == (
        "3 students were built. No score can be compared with the teacher's, so none is "
        "recommended."
    )
    (highlight,) = found.highlights
    assert (highlight.student, highlight.figure) == ("response · imported", "306 kJ (85.0 Wh)")
    assert "Imported from records of other software: 3 students." in found.sureness


def test_beside_our_runs_ours_are_still_ranked(mixed, sweep_dir):
    found = answer(mixed.runs)
    assert found.headline.startswith("Combined")
    assert "Not ranked, because they have no score: 3 students." in found.sureness
    ours = answer(collect([sweep_dir]).runs)
    first, last = ([each.figure for each in one.highlights] for one in (found, ours))
    assert first == last


def test_estimated_runs_with_scores_are_ranked_though_imports_were_measured(
    make, imported_dir, tmp_path
):
    make.run(tmp_path / "0", own_energy_quality="estimated", inherited_energy_quality="estimated")
    found = answer(collect([imported_dir, tmp_path]).runs)
    assert (
        "keeps 93.0 % of its teacher's accuracy above chance (interval unknown). Building"
        in found.headline
    )
    assert "not as measurements" in found.warning


def test_a_comparable_import_is_ranked_marked_and_its_serving_energy_compared_with_none(
    make, comparable_dir, tmp_path
):
    make.run(tmp_path / "0", om_perf=0.9)
    collected = collect([comparable_dir, tmp_path])
    found = answer(collected.runs)
    assert found.headline.startswith("Response · imported")
    serving = found.highlights[-1]
    assert serving.figure == "2.00 J/token"
    assert serving.detail == "prompt and answer together, as the other software reports it"
    fig = quality_against_energy(collected.runs).figure
    points = {t.name: t for t in fig.data if t.mode == "markers"}
    assert [t.marker.symbol for t in points.values()] == [("circle",), ("square-dot",)]
    imported = next(name for name in points if name.startswith("response · imported"))
    assert "import of in/response_1" in points[imported].hovertext[0]
    assert "A dot in a mark says that the run is imported." in report_html(collected)


def test_caveats_name_origin_correction_cpu_interval_and_comparability(mixed):
    text = dict(caveats(mixed))["Imported runs"]
    for words in (
        "3 of 13 students are imported. Imported records of Slimming-Models-Saving-Watts "
        "telemetry: 3 runs (h100_runs/feature_1, h100_runs/relation_1, h100_runs/response_1).",
        "energy_mJ rises 998.3 to 1000 times as fast as power_watts says, so it is rescaled by "
        "0.001: 3 runs (feature_1, relation_1, response_1).",
        "Not measured (unknown, not 0): CPU, DRAM.",
        "Power was sampled every 1.02 s on average, every 1.39 s at worst.",
        "Accuracy kept is not known, because student and teacher were evaluated differently",
        "Serving energy: reported without a trace to check it, prefill and decode together: 3 runs",
        "Serving energy: the teacher's 355 J/token is 741 to 810 times the student's",
    ):
        assert words in text
    accuracy = dict(caveats(mixed))["Accuracy"]
    assert "mmlu (acc" not in accuracy
    # feature_1 scores 0.2465 on MMLU, with a standard error of 0.0036.
    assert "Students at chance (no better than guessing): mmlu (1 of 13 students)" in accuracy
    assert "a host that is not recorded, 4 x NVIDIA H100 NVL" in dict(caveats(mixed))["Hardware"]


def test_without_imports_nothing_speaks_of_them(sweep_dir):
    collected = collect([sweep_dir])
    assert "Imported runs" not in dict(caveats(collected))
    own = own_html(report_html(collected))
    assert "mported" not in own


def test_the_page_about_imports_alone_has_every_score_and_its_reason(alone):
    page = own_html(report_html(alone))
    assert '<a href="#imported">3 imported</a>' in page and 'id="imported"' in page
    # MMLU of relation_1 and of the teacher.
    assert "0.647 ± 0.004<small>teacher 0.806</small>" in page
    reason = "for the teacher: 3 runs</summary>feature_1, relation_1, response_1</details>"
    assert 'Accuracy kept is not known: <details class="said">' in page and reason in page
    assert "<td>438 mJ<small>355 J, reported</small></td>" in page


def test_the_page_about_both_shows_the_stages_of_each_origin_apart(mixed):
    page = own_html(report_html(mixed))
    assert "<span>Runs of kdwatts</span>" in page and "<span>Imported runs</span>" in page
    fig = energy_by_stage(mixed.runs[mixed.runs["origin"].notna()], mixed.stages).figure
    assert {round(float(x), 1) for trace in fig.data for x in trace.x} == {513.3, 416.3, 305.9}


def test_power_of_four_gpus_for_20_minutes_is_thinned_and_keeps_its_mean(alone):
    ticks = alone.telemetry.of("feature_1")
    fig = devices_over_time(ticks, alone.stages, run="feature_1").figure
    curves = [trace for trace in fig.data if trace.type == "scatter" and trace.yaxis == "y"]
    assert [curve.name for curve in curves] == ["gpu 0", "gpu 1", "gpu 2", "gpu 3"]
    for index, curve in enumerate(curves):
        assert len(curve.y) <= 300
        mean_w = ticks.loc[ticks["device_index"] == index, "power_w"].mean()
        assert sum(curve.y) / len(curve.y) == pytest.approx(mean_w, rel=0.01)


def test_an_unknown_paradigm_is_called_by_its_folder(foreign, tmp_path):
    foreign.run(tmp_path / "in" / "mystery_1")
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    collected = collect([tmp_path / "out"])
    assert collected.runs["label"].iloc[0] == "mystery_1 · imported"
    assert "mystery_1 · imported" in report_html(collected)


def test_a_torn_source_and_a_score_left_out_are_noted(foreign, tmp_path):
    folder = foreign.run(tmp_path / "in" / "sft_1", eval=foreign.results())
    with (folder / "telemetry.jsonl").open("a") as file:
        file.write('{"timesta')
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert collect([tmp_path / "out"]).runs["notes"].iloc[0] == (
        "the source's telemetry had a torn last line; scores without an agreed metric left out: "
        "piqa"
    )
