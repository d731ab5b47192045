import pandas as pd
import pytest

from multirun_analysis.collect import collect
from multirun_analysis.idle import idle_and_wait, idle_and_wait_table
from multirun_analysis.ticks import summarise_ticks, summary_table

NONE = summary_table({})


def summaries_of(collected):
    telemetry = collected.telemetry
    ticks = [(run, telemetry.of(run)) for run in telemetry.runs]
    return summary_table({str(run): summarise_ticks(rows) for run, rows in ticks})


def test_real_cards_were_idle_for_two_thirds_of_the_feature_run(imported_dir):
    found = collect([imported_dir])
    table = idle_and_wait_table(found.runs, found.stages, summaries_of(found)).set_index("run")
    # Means of the 1,139 ticks of each of four cards: 16.1, 41.1, 35.8 and 39.7 %.
    assert table.loc["feature_1", "gpu_util_pct"] == pytest.approx(33.17, abs=0.1)
    # Its cards drew 61.0, 61.5, 62.8 and 61.2 W before anything ran, for 1,162 s of 513 kJ.
    expected_pct = 100 * 246 * 1162.4 / 513_327
    assert table.loc["feature_1", "idle_pct"] == pytest.approx(expected_pct, rel=0.02)
    assert set(table["idle_source"]) == {"least power at 0 % utilisation in the trace"}
    fig = idle_and_wait(found.runs, found.stages, summaries_of(found))
    idle = next(t for t in fig.data if t.meta == {"column": "idle_pct"})
    assert set(idle.marker.opacity) == {0.5}


def test_idle_share_is_what_net_energy_leaves_where_idle_power_was_measured(make, tmp_path):
    folder = make.run(tmp_path / "0", own_energy_j=400.0, own_net_energy_j=300.0)
    make.append(folder / "stages.jsonl", [make.stage("distill"), make.stage("evaluate_student")])
    found = collect([tmp_path])
    table = idle_and_wait_table(found.runs, found.stages, NONE).set_index("stage")
    assert table.loc["distill", "idle_pct"] == 25
    assert table.loc["distill", "idle_source"] == "measured before the run"
    assert pd.isna(table.loc["evaluate_student", "idle_pct"])
    # A table of stages that holds net energy tells it of each.
    netted = found.stages.assign(net_energy_j=900.0)
    table = idle_and_wait_table(found.runs, netted, NONE).set_index("stage")
    assert list(table["idle_pct"]) == pytest.approx([10, 10])


def test_waiting_for_data_is_a_share_of_the_time(make, tmp_path):
    folder = make.run(tmp_path / "0", data_wait_share=0.25)
    rows = [make.stage("distill"), make.stage("teacher", duration_s=10.0, data_wait_s=0.5)]
    make.append(folder / "stages.jsonl", rows)
    found = collect([tmp_path])
    table = idle_and_wait_table(found.runs, found.stages, NONE).set_index("stage")
    assert dict(table["data_wait_pct"]) == {"distill": 25, "teacher": 5}


def test_a_stage_that_was_reused_is_nobodys_time(make, tmp_path):
    folder = make.run(tmp_path / "0")
    make.append(folder / "stages.jsonl", [make.stage("distill", outcome="reused")])
    found = collect([tmp_path])
    assert idle_and_wait_table(found.runs, found.stages, NONE).empty
    assert not idle_and_wait(found.runs, found.stages, NONE).data


def test_bars_are_means_over_seeds_of_building_the_student(make, tmp_path):
    for seed, share in enumerate((0.1, 0.3)):
        folder = make.run(
            tmp_path / str(seed), seed=seed, student_key=f"s{seed}", data_wait_share=share
        )
        make.append(folder / "stages.jsonl", [make.stage("distill")])
    found = collect([tmp_path])
    fig = idle_and_wait(found.runs, found.stages, NONE)
    bars = next(t for t in fig.data if t.meta == {"column": "data_wait_pct"})
    assert list(bars.x) == [pytest.approx(20)]
    assert list(bars.customdata) == [found.runs["group"].iloc[0]]
