import json
from itertools import pairwise

import pandas as pd
import pytest

from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.records.traces import trace_name
from multirun_analysis.collect import collection_index, node_traces, tick_blocks
from multirun_analysis.collect.collection import collect
from tests.multirun_analysis.written_nodes import (
    APART_S,
    BEGIN_S,
    BUSY_W,
    IDLE_W,
    node_ticks,
    write_nodes_run,
)
from tests.multirun_analysis.written_runs import append_all

TICKS_OF_A_NODE = 150 * 3  # Two GPUs and the host, each second.


@pytest.fixture
def runs(tmp_path):
    return write_nodes_run(tmp_path / "runs" / "0-response-tiny").parent


@pytest.fixture
def folder(runs):
    return runs / "0-response-tiny"


def ticks_of(runs, out_dir=None):
    return collect([runs], out_dir).telemetry.of("0-response-tiny")


def notes_of(runs, out_dir):
    return collect([runs], out_dir).runs["notes"].iloc[0]


def test_ticks_of_all_nodes_are_in_one_table_by_the_clock_of_the_first(runs, tmp_path):
    for table in (ticks_of(runs), ticks_of(runs, tmp_path / "out")):
        assert table.groupby(["node", "host"]).size().to_dict() == {
            (1, "n1"): TICKS_OF_A_NODE,
            (2, "n2"): TICKS_OF_A_NODE,
        }
        assert list(table["monotonic_s"]) == sorted(table["monotonic_s"])
        for _, of_node in table.groupby("node"):
            assert of_node["monotonic_s"].min() == BEGIN_S
            assert of_node["monotonic_s"].max() == BEGIN_S + 149
        # What happened at once stands at one second on both nodes.
        seconds = table.groupby("time_utc")["monotonic_s"].nunique()
        assert (seconds == 1).all()


def test_a_run_of_one_node_is_node_1_and_keeps_its_seconds(tmp_path):
    write_nodes_run(tmp_path / "0-response-tiny", num_nodes=1)
    table = ticks_of(tmp_path)
    assert set(table["node"]) == {1}
    assert table["monotonic_s"].min() == BEGIN_S


def test_each_attempt_has_a_clock_of_its_own(folder, runs, tmp_path):
    first = read_json(folder / "manifest.json")
    for number, ahead_s in ((1, 0.0), (2, 7.0)):
        rows = node_ticks(number, attempt=2, begin_s=90.0)
        rows = [vars(row) | {"monotonic_s": row.monotonic_s - (number - 1) * APART_S + ahead_s}
                for row in rows]  # fmt: skip
        append_all(folder / trace_name(number), rows)
    nodes_manifest_of_attempt_2(folder, first, offset_s=7.0)
    table = ticks_of(runs, tmp_path / "out")
    assert table.groupby(["attempt", "node"])["monotonic_s"].min().to_dict() == {
        (1, 1): BEGIN_S, (1, 2): BEGIN_S, (2, 1): 90.0, (2, 2): 90.0,
    }  # fmt: skip


def nodes_manifest_of_attempt_2(folder, first, *, offset_s):
    second = first | {"attempt": 2, "earlier_attempts": [first]}
    nodes = [node | {"clock_offset_s": offset_s * i} for i, node in enumerate(first["nodes"])]
    write_json(folder / "manifest.json", second | {"nodes": nodes})


@pytest.mark.parametrize("lacks", ["manifest", "offset"])
def test_without_a_stated_offset_clocks_are_laid_side_by_side_by_the_date(
    folder, runs, tmp_path, lacks
):
    if lacks == "manifest":
        (folder / "manifest.json").unlink()
    else:
        nodes = read_json(folder / "manifest.json")["nodes"]
        for node in nodes:
            del node["clock_offset_s"]
        write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"nodes": nodes})
    table = ticks_of(runs, tmp_path / "out")
    assert table.groupby("node")["monotonic_s"].min().tolist() == pytest.approx([BEGIN_S] * 2)


def test_a_trace_of_the_second_node_alone_is_read(folder, runs, tmp_path):
    (folder / "telemetry.jsonl").unlink()
    for table in (ticks_of(runs), ticks_of(runs, tmp_path / "out")):
        assert set(table["node"]) == {2} and len(table) == TICKS_OF_A_NODE
        assert table["monotonic_s"].min() == BEGIN_S


def test_a_broken_line_of_one_node_is_named_with_its_file_and_the_other_node_counts(
    folder, runs, tmp_path
):
    path = folder / "telemetry.n2.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:30]) + b"{broken}\n")
    assert notes_of(runs, tmp_path / "out").startswith("telemetry.n2.jsonl:31: not JSON")
    assert ticks_of(runs).groupby("node").size().to_dict() == {1: TICKS_OF_A_NODE, 2: 30}


def test_a_trace_that_is_not_as_agreed_is_left_out_and_the_other_node_counts(
    folder, runs, tmp_path
):
    bad = vars(node_ticks(2)[0]) | {"attempt": 1.5}
    append_all(folder / "telemetry.n2.jsonl", [bad])
    notes = notes_of(runs, tmp_path / "out")
    assert notes.startswith("telemetry.n2.jsonl: a record is not as agreed")
    assert ticks_of(runs, tmp_path / "out").groupby("node").size().to_dict() == {1: TICKS_OF_A_NODE}


def test_torn_last_lines_of_two_nodes_are_both_named(folder, runs, tmp_path):
    for name in ("telemetry.jsonl", "telemetry.n2.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"schema": 1, "mono')
    expected = (
        "telemetry.jsonl: torn last line passed over; "
        "telemetry.n2.jsonl: torn last line passed over"
    )
    assert notes_of(runs, tmp_path / "out") == expected
    assert collect([runs]).runs["notes"].iloc[0] == expected


@pytest.mark.parametrize("keep", [True, False])
def test_a_newer_trace_of_the_second_node_is_refused_with_its_name(folder, runs, tmp_path, keep):
    newer = vars(node_ticks(2)[0]) | {"schema": SCHEMA + 1}
    append_all(folder / "telemetry.n2.jsonl", [newer])
    with pytest.raises(ValueError, match=r"telemetry\.n2\.jsonl"):
        collect([runs], tmp_path / "out" if keep else None)


def test_a_run_is_read_again_when_the_trace_of_another_node_grows(
    folder, runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(collection_index, "YOUNG_S", -1e9)
    out_dir = tmp_path / "out"
    assert len(ticks_of(runs, out_dir)) == 2 * TICKS_OF_A_NODE
    later = vars(node_ticks(2)[-1])
    append_all(folder / "telemetry.n2.jsonl", [later | {"monotonic_s": later["monotonic_s"] + 1}])
    assert len(ticks_of(runs, out_dir)) == 2 * TICKS_OF_A_NODE + 1
    append_all(folder / "telemetry.n3.jsonl", [later])
    assert set(ticks_of(runs, out_dir)["node"]) == {1, 2, 3}


def test_no_more_than_a_batch_of_each_node_is_held_and_nothing_is_lost_or_out_of_order(
    folder, runs, tmp_path, monkeypatch
):
    whole = ticks_of(runs)
    monkeypatch.setattr(node_traces, "BATCH_ROWS", 7)
    monkeypatch.setattr(tick_blocks, "BLOCK_BYTES", 2000)
    sizes = []
    joined = node_traces._joined_parts
    monkeypatch.setattr(
        node_traces,
        "_joined_parts",
        lambda *given: (sizes.append(table.num_rows) or table for table in joined(*given)),
    )
    num_rows, problem = node_traces.write_run("0-response-tiny", folder, tmp_path / "part")
    assert (num_rows, problem) == (2 * TICKS_OF_A_NODE, None)
    assert max(sizes) <= 2 * 7
    part = tick_blocks.read_part(tmp_path / "part").to_pandas()
    assert all(a <= b for a, b in pairwise(part["monotonic_s"]))
    by = ["monotonic_s", "node", "device_kind", "device_index"]
    pd.testing.assert_frame_equal(
        part.sort_values(by, ignore_index=True), whole.sort_values(by, ignore_index=True)
    )
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["part"]


def test_gpus_of_one_number_on_two_nodes_are_two_gpus_in_summaries(runs, tmp_path):
    for found in (collect([runs]), collect([runs], tmp_path / "out")):
        stages = found.summaries.set_index("stage")
        assert stages["gpu_power_w_mean"].to_dict() == {
            "shards": 2 * BUSY_W + 2 * IDLE_W,
            "distill": 4 * BUSY_W,
            "evaluate_student": 2 * BUSY_W + 2 * IDLE_W,
        }
        assert stages["gpu_util_pct_mean"].to_dict() == {
            "shards": 50, "distill": 100, "evaluate_student": 50,
        }  # fmt: skip
        # The first node never rests, so nobody knows what all of them draw at rest.
        assert stages["gpu_floor_w"].isna().all()
        assert stages["host_util_pct_mean"].tolist() == [15, 15, 15]


def test_the_manifest_of_several_nodes_makes_columns_of_all_of_them(runs):
    run = collect([runs]).runs.iloc[0]
    assert (run["host"], run["num_nodes"], run["hosts"]) == ("n1", 2, "n1, n2")
    assert run["cards"] == "4 x NVIDIA H100 80GB HBM3"
    assert (run["cpu"], run["cpu_threads"]) == ("AMD EPYC 7763 64-Core Processor", 256)
    assert run["setting"] == "nodes=2"


def test_threads_are_missing_where_one_node_does_not_state_them(folder, runs):
    nodes = read_json(folder / "manifest.json")["nodes"]
    del nodes[1]["cpu_threads"]
    nodes[1]["cpu"] = "Intel Xeon"
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"nodes": nodes})
    run = collect([runs]).runs.iloc[0]
    assert pd.isna(run["cpu_threads"])
    assert run["cpu"] == "AMD EPYC 7763 64-Core Processor, Intel Xeon"


def test_runs_on_one_node_and_on_two_are_two_settings(runs):
    write_nodes_run(runs / "1-response-tiny", num_nodes=1, student_key="student-1")
    found = collect([runs]).runs.set_index("run")
    assert found["group_label"].to_dict() == {
        "0-response-tiny": "response · nodes=2",
        "1-response-tiny": "response",
    }
    assert json.loads(found["options"]["0-response-tiny"]) == {"nodes": "2"}
