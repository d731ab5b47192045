import math

import pytest

from kdwatts.records.schema import NodeShare
from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.catalogue import exhibits
from multirun_analysis.figures.waiting_nodes import ALL_STAGES, waiting_nodes, waiting_words
from tests.multirun_analysis.written_nodes import node_share, nodes_row


def collected(make, tmp_path, *rows, **changes):
    folder = make.run(tmp_path / "0-response-tiny", **changes)
    make.append(folder / "stages.jsonl", list(rows))
    return collect([tmp_path])


def shares(own_j, waiting_j) -> list[NodeShare]:
    return [node_share(1, gpu_j=own_j, waits=False), node_share(2, gpu_j=waiting_j, waits=True)]


def exhibit_of(found):
    return waiting_nodes(found.runs, found.stages)


def test_a_run_on_several_nodes_has_a_row_for_each_stage_that_nodes_waited_in(nodes_sweep):
    table = exhibit_of(nodes_sweep).table.set_index("stage")
    assert list(table.index) == [ALL_STAGES, "shards", "evaluate_student"]
    assert set(table["run"]) == {"0-response-tiny"} and set(table["num_nodes"]) == {2}
    assert table["waiting_energy_j"].to_dict() == {
        ALL_STAGES: 8000, "shards": 3200, "evaluate_student": 4800,
    }  # fmt: skip
    # Busy: 2 GPUs of 400 W for 150 s on the first node and for 100 s on the second: 200 kJ.
    assert table.loc["shards", "share_pct"] == pytest.approx(100 * 3.2 / 208)
    assert table.loc[ALL_STAGES, "share_pct"] == pytest.approx(100 * 8 / 208)
    assert table.loc["shards", "energy_j"] == 16000 + 3200


def test_the_interval_of_a_share_is_that_of_its_joules_over_those_of_the_rest(make, tmp_path):
    found = collected(make, tmp_path, nodes_row("shards", shares(9000.0, 1000.0)))
    row = exhibit_of(found).table.iloc[0]
    # An error of 5 %: 98 J, 1.96 standard deviations of 50 J.
    assert row["waiting_half_width_j"] == pytest.approx(98, rel=1e-3)
    # Both are off by 5 % independently: 1/9 is off by some 7.1 %, and so is 10 % by 0.9 of that.
    assert row["share_pct"] == pytest.approx(10)
    half_width = (row["share_high_pct"] - row["share_low_pct"]) / 2
    assert half_width == pytest.approx(1.96 * 10 * 0.9 * math.hypot(0.05, 0.05), rel=0.02)


def test_all_attempts_count(make, tmp_path):
    first = nodes_row("shards", shares(1000.0, 100.0), outcome="preempted")
    second = nodes_row("shards", shares(2000.0, 300.0), attempt=2)
    table = exhibit_of(collected(make, tmp_path, first, second)).table
    assert table["waiting_energy_j"].tolist() == [400, 400]
    assert table["share_pct"].tolist() == pytest.approx([100 * 400 / 3400] * 2)


def test_parts_of_a_stage_are_not_counted_again(make, tmp_path):
    whole = nodes_row("shards", shares(1000.0, 100.0))
    part = nodes_row("shards/write", shares(500.0, 50.0), parent="run/shards")
    table = exhibit_of(collected(make, tmp_path, whole, part)).table
    assert table["waiting_energy_j"].tolist() == [100, 100]


def test_runs_on_one_node_have_no_such_exhibit(sweep):
    assert exhibit_of(sweep).table.empty
    shown = exhibits(*(sweep.runs, sweep.stages, sweep.train, sweep.inference), sweep.summaries)
    assert "waiting_nodes" not in shown


def test_the_sentence_says_how_much_and_in_which_stages_the_most_first(nodes_sweep):
    (words,) = waiting_words(exhibit_of(nodes_sweep).table)
    # One meter's calibration is off by 5 % in both stages alike: 400 J, and 784 J in 95 % of cases.
    assert words == (
        "response · nodes=2 · seed 0: It ran on 2 nodes. Nodes that waited for a stage that one "
        "rank builds alone drew 8.0 ± 0.8 kJ (measured). That is 3.8 % (95 % interval 3.4 to "
        "4.3 %) of its joules: 2.3 % in evaluate student and 1.5 % in shards."
    )


def test_a_run_whose_nodes_never_waited_says_so(make, tmp_path):
    busy = [node_share(1, gpu_j=500.0, waits=False), node_share(2, gpu_j=500.0, waits=False)]
    found = collected(make, tmp_path, nodes_row("distill", busy))
    (words,) = waiting_words(exhibit_of(found).table)
    assert words.endswith("2 nodes. No node waited for a stage that one rank builds alone.")


def test_joules_that_are_not_known_make_no_share_and_the_sentence_names_the_stage(make, tmp_path):
    found = collected(
        make, tmp_path,
        nodes_row("shards", shares(1000.0, None)),
        nodes_row("evaluate_student", shares(1000.0, 100.0)),
    )  # fmt: skip
    exhibit = exhibit_of(found)
    (words,) = waiting_words(exhibit.table)
    assert words.endswith("What nodes drew while they waited is not known of shards.")
    assert exhibit.table["share_pct"].isna().all()
    assert exhibit.table["waiting_energy_j"].dropna().tolist() == [100]
    assert not [trace for trace in exhibit.figure.data if trace.type == "bar"]


def test_the_bar_of_a_run_ends_at_its_sum_with_the_interval(nodes_sweep):
    fig = exhibit_of(nodes_sweep).figure
    bars = [trace for trace in fig.data if trace.type == "bar"]
    (whole,) = [trace for trace in fig.data if trace.type == "scatter"]
    assert [bar.name for bar in bars] == ["shards", "evaluate student"]
    assert sum(bar.x[0] for bar in bars) == pytest.approx(whole.x[0])
    assert whole.error_x.array[0] > 0 and whole.error_x.arrayminus[0] > 0
    assert "shards: 3.2 ± 0.3 kJ of waiting (measured)" in bars[0].hovertext[0]
