import pandas as pd
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.collect.device_summaries import SUMMARIES
from multirun_analysis.figures.idle import idle_and_wait, idle_words

NONE = SUMMARIES.empty_table().to_pandas()


def test_real_gpus_were_idle_for_two_thirds_of_the_feature_run(imported_dir):
    found = collect([imported_dir])
    table = idle_and_wait(found.runs, found.stages, found.summaries).table.set_index("run")
    # Means of the 1,139 ticks of each of four GPUs: 16.1, 41.1, 35.8 and 39.7 %.
    assert table.loc["feature_1", "gpu_util_pct"] == pytest.approx(33.17, abs=0.1)
    # Its GPUs drew 61.0, 61.5, 62.8 and 61.2 W before anything ran, for 1,162 s of 513 kJ.
    expected_pct = 100 * 246 * 1162.4 / 513_327
    assert table.loc["feature_1", "idle_pct"] == pytest.approx(expected_pct, rel=0.02)
    assert set(table["idle_source"]) == {"least power at 0 % utilisation in the trace"}
    fig = idle_and_wait(found.runs, found.stages, found.summaries).figure
    idle = next(t for t in fig.data if t.meta == {"column": "idle_pct"})
    assert set(idle.marker.opacity) == {0.5}


def test_idle_share_is_what_net_energy_leaves_where_idle_power_was_measured(make, tmp_path):
    folder = make.run(tmp_path / "0", own_energy_j=400.0, own_net_energy_j=300.0)
    make.append(folder / "stages.jsonl", [make.stage("distill"), make.stage("evaluate_student")])
    found = collect([tmp_path])
    table = idle_and_wait(found.runs, found.stages, NONE).table.set_index("stage")
    assert table.loc["distill", "idle_pct"] == 25
    assert table.loc["distill", "idle_source"] == "measured before the run"
    assert pd.isna(table.loc["evaluate_student", "idle_pct"])


def test_a_stage_that_records_net_energy_tells_its_own_idle_share(make, tmp_path):
    folder = make.run(tmp_path / "0", own_energy_j=400.0, own_net_energy_j=300.0)
    net_j = {"gpu": 900.0, "cpu": None, "dram": None}
    rows = [make.stage(stage, net_energy_j=net_j) for stage in ("distill", "evaluate_student")]
    make.append(folder / "stages.jsonl", rows)
    found = collect([tmp_path])
    assert list(found.stages["net_energy_j"]) == [900, 900]
    table = idle_and_wait(found.runs, found.stages, NONE).table.set_index("stage")
    # 1,000 J gross, of which memory is no part: it was not measured.
    assert list(table["idle_pct"]) == pytest.approx([10, 10])


def test_waiting_for_data_is_a_share_of_the_time(make, tmp_path):
    folder = make.run(tmp_path / "0", data_wait_share=0.25)
    rows = [make.stage("distill"), make.stage("teacher", duration_s=10.0, data_wait_s=0.5)]
    make.append(folder / "stages.jsonl", rows)
    found = collect([tmp_path])
    table = idle_and_wait(found.runs, found.stages, NONE).table.set_index("stage")
    assert dict(table["data_wait_pct"]) == {"distill": 25, "teacher": 5}


def test_a_stage_that_was_reused_is_nobodys_time(make, tmp_path):
    folder = make.run(tmp_path / "0")
    make.append(folder / "stages.jsonl", [make.stage("distill", outcome="reused")])
    found = collect([tmp_path])
    assert idle_and_wait(found.runs, found.stages, NONE).table.empty
    assert not idle_and_wait(found.runs, found.stages, NONE).figure.data


def test_bars_are_means_over_seeds_of_building_the_student(make, tmp_path):
    for seed, share in enumerate((0.1, 0.3)):
        folder = make.run(
            tmp_path / str(seed), seed=seed, student_key=f"s{seed}", data_wait_share=share
        )
        make.append(folder / "stages.jsonl", [make.stage("distill")])
    found = collect([tmp_path])
    fig = idle_and_wait(found.runs, found.stages, NONE).figure
    bars = next(t for t in fig.data if t.meta == {"column": "data_wait_pct"})
    assert list(bars.x) == [pytest.approx(20)]
    assert list(bars.customdata) == [found.runs["group"].iloc[0]]


def test_the_feature_run_is_called_expensive_in_words_and_the_others_are_not(imported_dir):
    found = collect([imported_dir])
    table = idle_and_wait(found.runs, found.stages, found.summaries).table
    assert idle_words(table) == [
        "feature · imported: Its GPUs ran a kernel 33 % of the time. Idle devices would have drawn "
        "56 % of its energy in the same time."
    ]


def test_waiting_for_data_is_said_in_words_from_a_tenth_of_the_time(make, tmp_path):
    for name, share in (("0", 0.25), ("1", 0.05)):
        folder = make.run(tmp_path / name, student_key=name, data_wait_share=share, seed=int(name))
        make.append(folder / "stages.jsonl", [make.stage("distill")])
    found = collect([tmp_path])
    table = idle_and_wait(found.runs, found.stages, NONE).table
    waited = table[table["run"] == "0"]
    assert "It waited for data 25 % of the time" in idle_words(waited)[0]
    assert idle_words(table[table["run"] == "1"]) == []
