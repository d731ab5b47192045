"""Sums over nodes, against numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kdwatts.records.schema import COMPONENTS
from kdwatts.telemetry.node_sums import NodeParts, lost, share, summed, summed_w
from kdwatts.telemetry.parts import Part, missing, skewed

GPU = Part(
    energy_j=3000.0,
    method="nvml_counter",
    quality="measured",
    uncertainty_j=math.hypot(30.0, 150.0),
    coverage=1.0,
    sampled_energy_j=3010.0,
    net_energy_j=2000.0,
    shared_uncertainty_j=150.0,
)


def _gpu(**changes: Any) -> Part:
    return Part(**{**vars(GPU), **changes})


def _node(number: int, **components: Part) -> NodeParts:
    absent = dict.fromkeys(COMPONENTS, missing("not here"))
    return NodeParts(number, f"n{number}", {**absent, **components}, 10.0, 0.5)


def test_energies_add_random_errors_in_squares_and_calibration_as_it_is():
    other = _gpu(
        energy_j=1000.0,
        uncertainty_j=math.hypot(40.0, 50.0),
        shared_uncertainty_j=50.0,
        coverage=0.5,
        sampled_energy_j=990.0,
        net_energy_j=500.0,
    )
    gpu = summed([_node(1, gpu=GPU), _node(2, gpu=other)])["gpu"]
    assert gpu == Part(
        energy_j=4000.0,
        method="nvml_counter",
        quality="measured",
        uncertainty_j=pytest.approx(math.hypot(30.0, 40.0, 200.0)),
        coverage=0.75,
        sampled_energy_j=4000.0,
        net_energy_j=2500.0,
        shared_uncertainty_j=200.0,
    )


def test_calibrations_of_different_methods_add_in_squares():
    samples = _gpu(method="nvml_samples", uncertainty_j=80.0, shared_uncertainty_j=80.0)
    parts = [GPU, samples, GPU]
    gpu = summed([_node(n, gpu=part) for n, part in enumerate(parts, start=1)])["gpu"]
    assert gpu.method == "nvml_samples"
    assert gpu.shared_uncertainty_j == pytest.approx(math.hypot(300.0, 80.0))


def test_what_is_missing_on_one_node_is_missing_in_the_sum_with_that_nodes_name():
    nodes = [_node(1, gpu=GPU), lost(2, "n2", "it does not answer"), _node(3, gpu=GPU)]
    parts = summed(nodes)
    assert parts["gpu"] == missing("node 2 (n2): it does not answer")
    assert parts["cpu"] == missing(
        "node 1 (n1), node 3 (n3): not here; node 2 (n2): it does not answer"
    )


def test_what_all_nodes_lack_alike_is_said_once():
    assert summed([_node(1, gpu=GPU), _node(2, gpu=GPU)])["dram"] == missing("not here")


def test_measured_and_estimated_never_add_up():
    cpu = _gpu(method="rapl", sampled_energy_j=None)
    guess = _gpu(method="tdp_model", quality="estimated")
    mixed = summed([_node(1, cpu=cpu), _node(2, cpu=guess), _node(3, cpu=cpu)])["cpu"]
    assert mixed == missing(
        "cpu is measured on node 1 (n1), node 3 (n3) and estimated on node 2 (n2), and the two are "
        "never added"
    )
    both = summed([_node(1, cpu=guess), _node(2, cpu=guess)])["cpu"]
    assert (both.energy_j, both.quality) == (6000.0, "estimated")


def test_a_measured_and_an_attributed_part_are_attributed_and_whole_nodes_add_up():
    own = _gpu(method="rapl", sampled_energy_j=None)
    part = _gpu(method="attributed", quality="attributed", energy_j=500.0, net_energy_j=None)
    nodes = [_node(1, cpu=own), _node(2, cpu=part, node_cpu=_gpu(method="rapl", energy_j=9000.0))]
    parts = summed(nodes)
    assert (parts["cpu"].energy_j, parts["cpu"].quality) == (3500.0, "attributed")
    assert parts["cpu"].method == "attributed"
    assert parts["cpu"].net_energy_j is None and parts["cpu"].sampled_energy_j is None
    # The node that is not shared counts its own.
    assert parts["node_cpu"].energy_j == 12_000.0
    assert "node_dram" not in parts


def test_a_remark_on_one_node_has_its_name():
    gpu = summed([_node(1, gpu=GPU), _node(2, gpu=_gpu(reason="counter stood still"))])["gpu"]
    assert gpu.reason == "node 2 (n2): counter stood still"


def test_a_skew_of_two_edges_adds_their_squares_times_the_power():
    # 300 W for 10 s; 0.1 s and 0.2 s of it may lie outside.
    part = skewed(GPU, 10.0, (0.1, 0.2))
    assert part.uncertainty_j == pytest.approx(math.hypot(30.0, 150.0, 30.0, 60.0))
    assert part.shared_uncertainty_j == 150.0


def test_idle_power_of_all_nodes_is_unknown_where_one_does_not_know_it():
    known = {"gpu": 100.0, "cpu": 40.0, "dram": None}
    assert summed_w([known, {"gpu": 60.0, "cpu": None}]) == {
        "gpu": 160.0,
        "cpu": None,
        "dram": None,
    }


def test_a_share_says_what_the_node_used_and_whether_it_waited():
    one = share(_node(2, gpu=GPU), waits=True)
    assert (one.number, one.host, one.waits) == (2, "n2", True)
    assert (one.duration_s, one.skew_s) == (10.0, 0.5)
    assert one.energy_j == {"gpu": 3000.0, "cpu": None, "dram": None}
    assert one.quality["cpu"] == "missing" and one.reason["cpu"] == "not here"
