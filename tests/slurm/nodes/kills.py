"""Runs on two nodes in which something is killed at a moment drawn by a seed, and what is left.

`python -m tests.slurm.nodes.kills --seeds 10` kills ten of them on a cluster of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdwatts.records.files import read_json
from tests.slurm.nodes.cluster import Cluster, cluster_of
from tests.slurm.nodes.known_power import Packages, packages
from tests.slurm.nodes.runs import PROGRAM, SMALL, losses, same_weights, srun, status
from tests.telemetry.cases import Trace
from tests.waits import wait_until

STEPS = 40
SETTINGS = (
    *SMALL,
    "paradigm=combined",
    "paradigm.teacher=online",
    "paradigm.response.support=dense",
    f"training.target_tokens={STEPS * 32 * 64}",
    "training.checkpoint_every_s=1e-6",
    "telemetry.slow_interval_s=0.2",
    "telemetry.cpu_scope=node",
)
CPUS: dict[str, Trace] = {"n1": [(0.0, 100.0)], "n2": [(0.0, 70.0)]}
VICTIMS = ("node", "rank", "first rank", "driver")
ENDED_S = 60.0
"""All ranks end in this time after one is lost."""
UNSEEN_S = 1.0
"""What a busy machine may hide, or show too late, at either end of an attempt on each node."""


@dataclass(frozen=True)
class Kill:
    """What is killed, and when."""

    victim: str
    step: int
    """Of training, after which it is killed. An attempt that ends within its first ticks leaves no
    joules."""
    delay_s: float
    """So long after it."""


@dataclass(frozen=True)
class Killed:
    """A run that was killed and then run again, and what its nodes drew."""

    kill: Kill
    run_dir: Path
    first_s: tuple[float, float]
    """When the student's stage was seen to begin, and when the kill came, in monotonic seconds of
    ours."""
    ended_s: float
    """When the last rank of the killed attempt ended."""
    status: Mapping[str, Any]
    """What the folder said after that."""
    packages: Packages


def kill_of(seed: int) -> Kill:
    """A victim and a moment; four seeds in a row have four victims."""
    dice = random.Random(seed)
    return Kill(VICTIMS[seed % 4], dice.randrange(4, STEPS // 2), dice.uniform(0, 0.3))


def command(run_dir: Path, store: Path, root: Path) -> list[str]:
    folders = (f"hydra.run.dir={run_dir}", f"store_dir={store}", f"telemetry.rapl_root={root}")
    return srun(2, 2, [*PROGRAM, *SETTINGS, *folders], "--nodelist=n1,n2")


def whole(cluster: Cluster, folder: Path) -> Path:
    """The folder of a run that nothing stops."""
    with packages(cluster, CPUS, time.monotonic()) as counted:
        cluster.run(command(folder / "run", folder / "store", counted.root))
    return folder / "run"


def killed(cluster: Cluster, folder: Path, kill: Kill) -> Killed:
    """Start a run, kill that, wait for its end, mend the cluster, and run the same command again.

    Raises AssertionError where a rank is there after `ENDED_S`, or the second attempt fails.
    """
    run_dir = folder / "run"
    with packages(cluster, CPUS, time.monotonic()) as counted:
        asked = command(run_dir, folder / "store", counted.root)
        process = cluster.start(asked)
        try:
            wait_until(lambda: _trains(run_dir), 300)
            begun_s = time.monotonic()
            wait_until(lambda: steps_of(run_dir) >= kill.step, 300)
            time.sleep(kill.delay_s)
            killed_s = time.monotonic()
            strike(cluster, kill.victim, process, run_dir)
            wait_until(lambda: not ranks_of(cluster, run_dir), ENDED_S)
            ended_s = time.monotonic()
        finally:
            process.kill() if process.poll() is None else None
        process.communicate()
        left = status(run_dir)
        if kill.victim == "node":
            cluster.boot("n2")
        cluster.run(asked)
    return Killed(kill, run_dir, (begun_s, killed_s), ended_s, left, counted)


def strike(cluster: Cluster, victim: str, process: subprocess.Popen[str], run_dir: Path) -> None:
    """Kill the second node, the rank on it, the first rank, or what started them all."""
    if victim == "node":
        cluster.lose("n2")
    elif victim == "driver":
        process.kill()
    else:
        node = "n1" if victim == "first rank" else "n2"
        (pid,) = ranks_of(cluster, run_dir, (node,))
        os.kill(pid, signal.SIGKILL)


def ranks_of(cluster: Cluster, run_dir: Path, nodes: tuple[str, ...] = ("n1", "n2")) -> list[int]:
    """The ranks of a run that are there, by their ids outside."""
    words = f"-m kdwatts {' '.join(SETTINGS)} hydra.run.dir={run_dir} "
    return [pid for node in nodes for pid in cluster.processes(node, words)]


def steps_of(run_dir: Path) -> int:
    path = run_dir / "train.jsonl"
    return len(losses(run_dir)) if path.is_file() else 0


def _trains(run_dir: Path) -> bool:
    return status(run_dir).get("stage") == "distill"


def faults(run: Killed, whole_dir: Path) -> list[str]:
    """What is wrong with a killed run, by what it left; nothing where all is right."""
    found = []
    if status(run.run_dir)["state"] != "done":
        found.append(f"it is not done: {status(run.run_dir)}")
    if not same_weights(run.run_dir, whole_dir):
        found.append("its student is not that of the run without a stop")
    if losses(run.run_dir) != losses(whole_dir):
        found.append(f"its {steps_of(run.run_dir)} steps are not those of the run without a stop")
    if run.status["state"] == "done":
        found.append("the killed attempt says that it was done")
    # After the loss of a rank srun may end the other before that writes.
    where = run.status["stage"], run.status["node"]
    if run.kill.victim == "node" and where != ("distill", "n2"):
        found.append(f"the killed attempt does not say where a node was lost: {run.status}")
    folder = (run.run_dir / "student").resolve().parent
    first, second = read_json(folder / "artifact.json")["attempts"]
    drawn = {
        name: sum(run.packages.shown_j(node, run.first_s[0], to_s) for node in CPUS)
        for name, to_s in (("least", run.first_s[1]), ("most", run.ended_s))
    }
    unseen_j = 2 * UNSEEN_S * sum(trace[0][1] for trace in CPUS.values())
    energy_j = first["energy_j"]["cpu"]
    if energy_j is None or second["energy_j"]["cpu"] is None:
        found.append(f"joules are missing: {first}, {second}")
    elif not drawn["least"] - unseen_j <= energy_j <= drawn["most"] + unseen_j:
        found.append(f"{energy_j:.1f} J of the killed attempt are told, of {drawn}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many runs are killed")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    num_wrong = 0
    with cluster_of(3) as cluster, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        whole_dir = whole(cluster, folder / "whole")
        for seed in range(asked.first, asked.first + asked.seeds):
            kill = kill_of(seed)
            run = killed(cluster, folder / str(seed), kill)
            wrong = faults(run, whole_dir)
            num_wrong += bool(wrong)
            took_s = run.ended_s - run.first_s[1]
            print(
                f"{seed}: {kill}, ranks ended in {took_s:.1f} s, {wrong or 'all is right'}",
                flush=True,
            )
    sys.exit(1 if num_wrong else 0)


if __name__ == "__main__":
    main()
