"""What is killed or cut off ends the run on all nodes, and the same command finishes it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kdwatts.records.files import read_json
from tests.slurm.nodes import kills
from tests.slurm.nodes.cluster import PYTHON, Cluster
from tests.slurm.nodes.known_power import packages
from tests.slurm.nodes.runs import PROGRAM, status
from tests.waits import wait_until

pytestmark = pytest.mark.slow

SEEDS = (0, 2)
"""A node and a first rank; `python -m tests.slurm.nodes.kills` has all four victims."""


@pytest.fixture(scope="module")
def whole_dir(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stops."""
    return kills.whole(cluster, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_run_ends_everywhere_and_learns_the_same_when_it_goes_on(
    seed: int, cluster: Cluster, whole_dir: Path, tmp_path: Path
):
    run = kills.killed(cluster, tmp_path, kills.kill_of(seed))
    assert kills.faults(run, whole_dir) == []


def test_ranks_that_a_pulled_cable_parts_end_within_a_minute_and_the_status_says_where(
    cluster: Cluster, tmp_path: Path
):
    run_dir = tmp_path / "run"
    with packages(cluster, kills.CPUS, time.monotonic()) as counted:
        process = cluster.start(kills.command(run_dir, tmp_path / "store", counted.root))
        wait_until(lambda: kills.steps_of(run_dir) >= 2, 300)
        with cluster.cut_off("n2"):
            wait_until(lambda: not kills.ranks_of(cluster, run_dir), kills.ENDED_S)
        cluster.end(process)
    found = status(run_dir)
    assert (found["state"], found["stage"]) == ("failed", "distill")
    # Both sides see the folder here, and to each the other is lost.
    assert found["node"] in ("n1", "n2") and found["node"] in found["error"]


def test_a_run_of_the_launcher_goes_on_by_itself_on_other_nodes_when_it_loses_one(
    cluster: Cluster, tmp_path: Path
):
    """It has GPUs, which Slurm takes from a job that is requeued before the node is found DOWN."""
    run_dir = tmp_path / "runs" / "0"
    small = ("cluster.nodes=2", "cluster.gres=gpu:1", "cluster.cpus_per_task=1", "cluster.mem_gb=1")
    sent = (
        "-m",
        "hydra/launcher=slurm",
        *small,
        "cluster.partition=main",
        "cluster.timeout_min=30",
    )
    with packages(cluster, kills.CPUS | {"n3": [(0.0, 50.0)]}, time.monotonic()) as counted:
        told = (f"hydra.sweep.dir={run_dir.parent}", "hydra.sweep.subdir='${hydra.job.num}'")
        places = (f"store_dir={tmp_path}/store", f"telemetry.rapl_root={counted.root}")
        driver = cluster.start([PYTHON, *PROGRAM, *sent, *kills.SETTINGS, *told, *places])
        wait_until(lambda: kills.steps_of(run_dir) >= 5, 300)
        # Not the first rank's: that is on the first of them.
        lost = next(node for node in ("n3", "n2") if cluster.processes(node, str(run_dir.parent)))
        cluster.lose(lost)
        code, said = cluster.end(driver, 600)
        cluster.boot(lost)
    assert code == 0, said
    found = status(run_dir)
    assert (found["state"], found["attempt"]) == ("done", 2)
    attempts = read_json((run_dir / "student").resolve().parent / "artifact.json")["attempts"]
    assert [one["energy_j"]["cpu"] > 0 for one in attempts] == [True, True]
