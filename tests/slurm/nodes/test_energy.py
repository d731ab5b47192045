"""The joules of a run on two nodes whose CPUs and GPUs draw a known power, and its records."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kdwatts.records.files import read_json, read_jsonl
from tests.slurm.nodes.cluster import Cluster
from tests.slurm.nodes.known_power import METERS_GPUS, Packages, gpu_settings, packages
from tests.slurm.nodes.runs import SMALL, row_of, srun, status
from tests.telemetry.cases import Trace, truth_j

pytestmark = pytest.mark.slow

LENGTH_S = 2_000
"""Of the traces: no run takes so long."""

GPUS: dict[str, Trace] = {
    "n1": [(half / 2, 600.0 if half % 2 else 80.0) for half in range(2 * LENGTH_S)],
    "n2": [(t / 4, 100.0 + 250.0 * (t % 3)) for t in range(4 * LENGTH_S)],
}
CPUS: dict[str, Trace] = {
    "n1": [(0.0, 120.0)],
    "n2": [(float(t), 60.0 if t % 2 else 180.0) for t in range(LENGTH_S)],
}
MOST_W = {"gpu": {"n1": 600.0, "n2": 600.0}, "cpu": {"n1": 120.0, "n2": 180.0}}
BUDGET_KJ = 25.0
"""A little more than half a minute at the mean of 930 W."""
SLOW_TICK_S = 1.0


@dataclass(frozen=True)
class Metered:
    """A run that a budget ended, and what its nodes drew."""

    cluster: Cluster
    run_dir: Path
    start_s: float
    """When the traces began, in monotonic seconds of this process."""
    packages: Packages

    def drawn_j(self, kind: str, node: str, row: dict[str, Any]) -> float:
        """What a node drew in a window, which is on the first node's clock."""
        from_s = row["start_s"] - self.cluster.ahead_s("n1")
        to_s = from_s + row["duration_s"]
        if kind == "cpu":
            return self.packages.shown_j(node, from_s, to_s)
        return truth_j(GPUS[node], from_s - self.start_s, to_s - self.start_s)


@pytest.fixture(scope="module")
def metered(cluster: Cluster, nvml_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Metered:
    folder = tmp_path_factory.mktemp("metered")
    start_s = time.monotonic()
    with packages(cluster, CPUS, start_s) as counted:
        asked = [
            *SMALL,
            "paradigm=sft",
            "training.target_tokens=100_000_000",
            f"training.budget_kj={BUDGET_KJ}",
            f"telemetry.slow_interval_s={SLOW_TICK_S}",
            f"telemetry.rapl_root={counted.root}",
            # Of four CPUs that Slurm counts each task has one.
            "telemetry.cpu_scope=node",
            *(f"hydra.run.dir={folder}/run", f"store_dir={folder}/store"),
        ]
        told = gpu_settings(cluster, GPUS, start_s, nvml_dir, folder)
        cluster.run(srun(2, 2, ["-c", METERS_GPUS, *asked]), **told)
    return Metered(cluster, folder / "run", start_s, counted)


@pytest.mark.parametrize("window", ["run/distill", "run/distill/train"])
@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_a_window_is_the_sum_of_what_both_nodes_are_known_to_have_drawn(
    kind: str, window: str, metered: Metered
):
    row = row_of(metered.run_dir, window)
    skew_s = {node["host"]: node["skew_s"] for node in row["nodes"]}
    assert set(skew_s) == {"n1", "n2"} and skew_s["n1"] == 0
    assert 0 < skew_s["n2"] < 0.1 * row["duration_s"]
    true_j = {node: metered.drawn_j(kind, node, row) for node in skew_s}
    slack_j = sum(skew_s[node] * MOST_W[kind][node] for node in skew_s)
    total_j = sum(true_j.values())
    assert row["energy_j"][kind] == pytest.approx(total_j, abs=0.001 * total_j + slack_j)
    for node in row["nodes"]:
        host = node["host"]
        slack_j = 0.001 * true_j[host] + skew_s[host] * MOST_W[kind][host]
        assert node["energy_j"][kind] == pytest.approx(true_j[host], abs=slack_j)
    assert row["energy_j"][kind] == pytest.approx(sum(n["energy_j"][kind] for n in row["nodes"]))


def test_measurements_span_a_window_wholly_though_clocks_are_a_thousand_seconds_apart(
    metered: Metered,
):
    row = row_of(metered.run_dir, "run/distill")
    assert (row["quality"]["gpu"], row["quality"]["cpu"]) == ("measured", "measured")
    assert row["coverage"]["gpu"] == row["coverage"]["cpu"] == 1
    assert [node["coverage"]["gpu"] for node in row["nodes"]] == [1, 1]


def test_each_node_has_a_trace_of_its_own_whose_rows_name_it(metered: Metered):
    clocks = {}
    for name, host in (("telemetry.jsonl", "n1"), ("telemetry.n2.jsonl", "n2")):
        rows = list(read_jsonl(metered.run_dir / name))
        assert {row["host"] for row in rows} == {host}
        assert {"gpu", "cpu", "host"} <= {row["device_kind"] for row in rows}
        clocks[host] = rows[0]["monotonic_s"]
    assert clocks["n2"] - clocks["n1"] == pytest.approx(1_000, abs=60)


def test_the_manifest_names_both_nodes_and_how_their_clocks_differ(metered: Metered):
    manifest = read_json(metered.run_dir / "manifest.json")
    assert manifest["launch"] == {"nodes": 2, "ranks": 2}
    first, second = manifest["nodes"]
    assert (first["host"], second["host"]) == ("n1", "n2")
    assert (first["ranks"], second["ranks"]) == ([0], [1])
    assert (first["trace"], second["trace"]) == ("telemetry.jsonl", "telemetry.n2.jsonl")
    assert first["clock_offset_s"] == 0
    skew_s = second["clock_skew_s"]
    assert second["clock_offset_s"] == pytest.approx(1_000, abs=skew_s + 0.001) and skew_s < 1


def test_a_budget_of_joules_ends_a_run_on_two_nodes_within_a_step_and_a_slow_tick(
    metered: Metered,
):
    assert status(metered.run_dir)["stopped_by"] == "budget_kj"
    row, train = (row_of(metered.run_dir, w) for w in ("run/distill", "run/distill/train"))
    until_trained = {**row, "duration_s": train["start_s"] + train["duration_s"] - row["start_s"]}
    drawn_j = sum(
        metered.drawn_j(kind, node, until_trained) for kind in ("gpu", "cpu") for node in GPUS
    )
    steps = [r for r in read_jsonl(metered.run_dir / "train.jsonl") if r["split"] == "train"]
    step_s = max(after["seconds"] - before["seconds"] for before, after in pairwise(steps))
    most_w = sum(power_w for powers_w in MOST_W.values() for power_w in powers_w.values())
    assert drawn_j >= 0.999 * 1_000 * BUDGET_KJ
    assert drawn_j - 1_000 * BUDGET_KJ <= most_w * (step_s + SLOW_TICK_S)
