import math
from dataclasses import replace

import pandas as pd
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.collect.columns import NODE_SHARES, STAGES
from tests.multirun_analysis.written_nodes import node_share, nodes_row, write_nodes_run


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    runs = tmp_path_factory.mktemp("nodes")
    write_nodes_run(runs / "0")
    return collect([runs])


def test_joules_of_waiting_are_those_of_the_nodes_that_wait(found):
    stages = found.stages.set_index("window")
    # Two idle GPUs of 80 W for 20 s and for 30 s.
    assert stages["waiting_energy_j"].to_dict() == {
        "run/shards": 3200, "run/distill": 0, "run/evaluate_student": 4800,
    }  # fmt: skip
    assert stages["waiting_uncertainty_j"].to_dict() == pytest.approx(
        {"run/shards": 160, "run/distill": 0, "run/evaluate_student": 240}
    )
    assert set(stages["num_nodes"]) == {2} and set(stages["host"]) == {"n1"}


def test_shares_of_nodes_add_up_to_their_window(found):
    shares = found.node_shares
    assert list(shares.columns) == NODE_SHARES.names
    assert len(shares) == 6 and set(shares["host"]) == {"n1", "n2"}
    stages = found.stages.set_index("window")
    sums = shares.groupby("window")["energy_j"].sum()
    assert sums.to_dict() == stages["energy_j"].to_dict()
    waits = shares[shares["waits"]]
    assert list(zip(waits["window"], waits["number"], waits["energy_j"], strict=True)) == [
        ("run/shards", 2, 3200.0),
        ("run/evaluate_student", 2, 4800.0),
    ]
    assert set(shares["skew_s"]) == {0.002} and set(shares["gpu_coverage"]) == {1.0}


def test_a_window_without_nodes_has_one_and_no_joules_of_waiting(make, tmp_path):
    folder = make.run(tmp_path / "0")
    make.append(folder / "stages.jsonl", [make.stage("distill")])
    found = collect([tmp_path])
    (stage,) = found.stages.to_dict("records")
    assert stage["num_nodes"] == 1 and math.isnan(stage["waiting_energy_j"])
    assert found.node_shares.empty and list(found.stages.columns) == STAGES.names


def test_waiting_counts_the_components_that_the_window_counts(make, tmp_path):
    # The first node's processor cannot be read, so the window has no joules of processors.
    own = node_share(1, gpu_j=1000.0, waits=False)
    other = node_share(2, gpu_j=100.0, waits=True)
    other.energy_j["cpu"], other.quality["cpu"] = 50.0, "measured"
    folder = make.run(tmp_path / "0")
    make.append(folder / "stages.jsonl", [nodes_row("shards", [own, other])])
    found = collect([tmp_path])
    assert found.stages["energy_j"].tolist() == [1100.0]
    assert found.stages["waiting_energy_j"].tolist() == [100.0]
    assert found.node_shares["energy_j"].tolist() == [1000.0, 150.0]


def test_calibration_of_nodes_that_wait_adds_up_as_that_of_a_window_does(make, tmp_path):
    shares = [node_share(1, gpu_j=1000.0, waits=False), node_share(2, gpu_j=100.0, waits=True)]
    shares.append(replace(node_share(2, gpu_j=200.0, waits=True), number=3, host="n3"))
    folder = make.run(tmp_path / "0")
    make.append(folder / "stages.jsonl", [nodes_row("shards", shares)])
    assert collect([tmp_path]).stages["waiting_uncertainty_j"].tolist() == pytest.approx([15.0])


def test_what_a_waiting_node_does_not_state_is_missing_and_not_0(make, tmp_path):
    shares = [node_share(1, gpu_j=1000.0, waits=False), node_share(2, gpu_j=None, waits=True)]
    folder = make.run(tmp_path / "0")
    make.append(folder / "stages.jsonl", [nodes_row("shards", shares)])
    (stage,) = collect([tmp_path]).stages.to_dict("records")
    assert math.isnan(stage["energy_j"]) and math.isnan(stage["waiting_energy_j"])


def test_the_table_of_shares_is_kept_as_it_was_read(tmp_path):
    write_nodes_run(tmp_path / "runs" / "0")
    first = collect([tmp_path / "runs"], tmp_path / "out").node_shares
    again = collect([tmp_path / "runs"], tmp_path / "out").node_shares
    pd.testing.assert_frame_equal(first, again)
    assert (tmp_path / "out" / "node_shares.parquet").is_file()
