"""CPU packages and GPUs of nodes whose power is known, so that a run's joules can be worked out."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.slurm.nodes.cluster import Cluster
from tests.telemetry.cases import Trace, truth_j
from tests.telemetry.conftest import PowercapTree

UPDATE_S = 0.005
ZONE = "intel-rapl:0"

METERS_GPUS = """
import os, runpy, socket, sys
from kdwatts.telemetry.node_meter import NodeMeter

# Of the settings of all nodes those of this one, before the library of its GPUs reads them.
mine = socket.gethostname() + "_"
os.environ |= {name.removeprefix(mine): v for name, v in os.environ.items() if mine in name}
measure = NodeMeter.__init__

def measure_gpus(self, *a, **how):
    measure(self, *a, **{**how, "use_gpus": True})

NodeMeter.__init__ = measure_gpus
sys.argv[0] = "kdwatts"
runpy.run_module("kdwatts", run_name="__main__", alter_sys=True)
"""
"""A program of Python: a run that computes on CPUs, and is metered as one that uses the GPUs."""


class Packages:
    """A CPU package of each node, whose counter follows a trace."""

    def __init__(self, cluster: Cluster, traces: Mapping[str, Trace], start_s: float) -> None:
        """The traces begin at `start_s`, monotonic seconds of this process."""
        self.root = cluster.local_dir / "powercap"
        """Where each node finds the counters of its own."""
        self._start_s, self._traces = start_s, dict(traces)
        self._trees: dict[str, PowercapTree] = {}
        for node in traces:
            folder = cluster.local_dir_of(node) / "powercap"
            self._trees[node] = PowercapTree(folder)
            self._trees[node].add(ZONE, "package-0")
        self._times_s: dict[str, list[float]] = {node: [] for node in traces}
        self._energies_j: dict[str, list[float]] = {node: [] for node in traces}

    def update(self) -> None:
        """Write to each counter what was drawn by now, and remember that."""
        for node, tree in self._trees.items():
            now_s = time.monotonic()
            energy_j = truth_j(self._traces[node], 0.0, now_s - self._start_s)
            tree.set(ZONE, energy_j)
            self._times_s[node].append(time.monotonic())
            self._energies_j[node].append(energy_j)

    def shown_j(self, node: str, from_s: float, to_s: float) -> float:
        """How far a node's counter moved between two of our monotonic times.

        A busy machine may update it late. What it did not show, no meter can know.
        """
        return self._shown_j(node, to_s) - self._shown_j(node, from_s)

    def _shown_j(self, node: str, time_s: float) -> float:
        last = bisect.bisect_right(self._times_s[node], time_s) - 1
        return self._energies_j[node][max(last, 0)]


@contextmanager
def packages(cluster: Cluster, traces: Mapping[str, Trace], start_s: float) -> Iterator[Packages]:
    """Packages that count meanwhile."""
    counted, ended = Packages(cluster, traces, start_s), threading.Event()
    counted.update()

    def count() -> None:
        while not ended.wait(UPDATE_S):
            counted.update()

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counted
    finally:
        ended.set()
        thread.join()
        for node in traces:
            tree = cluster.local_dir_of(node) / "powercap"
            for path in sorted(tree.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            tree.rmdir()


def gpu_settings(
    cluster: Cluster, traces: Mapping[str, Trace], start_s: float, nvml_dir: Path, folder: Path
) -> dict[str, str]:
    """The environment in which METERS_GPUS finds a GPU on each node that draws its trace."""
    told = {"LD_LIBRARY_PATH": str(nvml_dir)}
    for node, trace in traces.items():
        path = folder / f"trace-{node}.txt"
        path.write_text("".join(f"{time_s} {power_w}\n" for time_s, power_w in trace))
        settings = {
            "TRACE": path,
            "START_S": start_s + cluster.ahead_s(node),
            "FIRST_UUID": 16 * int(node[1:]),
        }
        told |= {f"{node}_NVML_REPLAY_{name}": str(value) for name, value in settings.items()}
    return told
