"""This job's share of a node that several jobs use, by CPU time.

RAPL counts whole CPU packages. A job that has some of a node's CPUs gets a part of that: of the
idle power by the CPUs it holds, and of the rest by the CPU time it used. Jobs on different CPUs
then never sum to more than the node, and the energy of the whole node is reported beside each part.
Where each process of a launch has a meter, they share the job's CPUs in equal parts. The energy of
a whole node is not shared: the first process alone reports it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdwatts.records.schema import COMPONENTS
from kdwatts.telemetry import cgroup
from kdwatts.telemetry.host import Clocks, CpuTimes
from kdwatts.telemetry.readings import Reading


@dataclass(frozen=True)
class Allocation:
    """How many of the node's CPUs (hardware threads) the job may use."""

    job_cpus: float
    node_cpus: int
    meter_index: int = 0
    num_meters: int = 1
    """Processes of one launch on this node that have a meter each, of which this is one."""

    @property
    def is_part(self) -> bool:
        """Whether others may hold the rest of the node."""
        return self.job_cpus < self.node_cpus

    @property
    def share(self) -> float:
        """The job's share of the idle power, where it has a part of the node. Else 0."""
        return self.job_cpus / self.node_cpus / self.num_meters if self.is_part else 0.0

    def remark(self, kind: str, method: str) -> str | None:
        """What to say of a component that other meters of this launch may count too."""
        num_others = self.num_meters - 1
        if not num_others or kind not in COMPONENTS:
            return None
        processes = "process" if num_others == 1 else "processes"
        launch = f"{num_others} more {processes} of this launch"
        if kind == "gpu":
            return f"the meters of {launch} may count these GPUs, too"
        return f"the whole node, shared with {launch} on it" if method == "rapl" else None


def find_allocation(
    environment: Mapping[str, str] = os.environ,
    *,
    meter_of: tuple[int, int] = (0, 1),
    cgroup_root: Path = cgroup.ROOT,
) -> Allocation:
    """The CPUs of this job: those that Slurm states, else those that the scheduler allows.

    A quota of its control groups limits them. `meter_of` says which of how many processes of a
    launch on this node this one is, where each has a meter.
    """
    node_cpus = os.cpu_count() or 1
    given = environment.get("SLURM_CPUS_ON_NODE", "")
    job_cpus = int(given) if given.isdigit() else len(os.sched_getaffinity(0))
    quota = cgroup.quota_cpus(cgroup_root)
    allowed = min(job_cpus, node_cpus, node_cpus if quota is None else quota)
    return Allocation(allowed, node_cpus, *meter_of)


def attributed_j(
    node_j: float, *, idle_j: float, core_share: float, cpu_time_share: float
) -> float:
    """Joules of the job: idle joules by its share of CPUs, the rest by its share of CPU time.

    Both shares are between 0 and 1, so the sum is never more than `node_j`.
    """
    idle_j = min(idle_j, node_j)
    return idle_j * core_share + (node_j - idle_j) * min(1.0, cpu_time_share)


class AttributedCounter:
    """The job's joules of one component since the meter started. They only grow."""

    def __init__(
        self, node_energy_j: Callable[[], float], clocks: Clocks, allocation: Allocation
    ) -> None:
        self.idle_power_w = 0.0
        """Of the whole node's component; 0 until it is measured: all is told by CPU time."""
        self._node_energy_j = node_energy_j
        self._clocks = clocks
        self._core_share = allocation.share
        self._since: tuple[CpuTimes, float] | None = None
        self._energy_j = 0.0

    def read(self, *, scan: bool) -> Reading:
        """The reading now. `scan` looks for new descendants of this process."""
        now, node_j = self._clocks.read(scan=scan), self._node_energy_j()
        if self._since is not None:
            since, since_j = self._since
            busy_s = now.node_s - since.node_s
            self._energy_j += attributed_j(
                node_j - since_j,
                idle_j=self.idle_power_w * (now.time_s - since.time_s),
                core_share=self._core_share,
                cpu_time_share=(now.job_s - since.job_s) / busy_s if busy_s > 0 else 0.0,
            )
        self._since = now, node_j
        return Reading(now.time_s, self._energy_j)
