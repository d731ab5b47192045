"""The host: utilisation, memory, the CPU time of this job, and power estimated from it."""

from __future__ import annotations

import logging
import math
import os
import resource
import time

import psutil

from kdwatts.telemetry.energy import Sensor

log = logging.getLogger(__name__)

_SCAN_SHARE = 0.002
"""Looking for new descendants walks all processes of the node: at most 0.2 % of a core for it."""


def utilisation_pct() -> float:
    """Busy share of all CPUs since this thread's last call; the first call means nothing."""
    return psutil.cpu_percent(interval=None)


def memory_used_gib() -> float:
    """Memory of the node in use."""
    return psutil.virtual_memory().used / 2**30


def own_pids() -> set[int]:
    """This process, its ancestors and its descendants."""
    me = psutil.Process()
    return {me.pid} | {p.pid for p in [*me.parents(), *me.children(recursive=True)]}


def process_name(pid: int) -> str:
    """Name of a process; says so when it is not visible from here, as from inside a container."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "not visible from here"


class TreeClock:
    """CPU seconds of this process, its reaped children and live descendants; never goes back."""

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._descendants: list[psutil.Process] = []
        self._next_scan_s = -math.inf
        self._cpu_s = 0.0
        self._lost_s = 0.0
        """CPU seconds of processes that left the tree without being reaped by it."""
        self._dipped = False

    def read(self, *, scan: bool = False) -> tuple[float, float]:
        """Monotonic seconds, and CPU seconds until then.

        `scan` looks for new descendants even if the last look is recent.
        """
        started_s = time.monotonic()
        if scan or started_s >= self._next_scan_s:
            self._descendants = self._me.children(recursive=True)
            ended_s = time.monotonic()
            self._next_scan_s = ended_s + (ended_s - started_s) / _SCAN_SHARE
        # Own time first: a child reaped meanwhile is missed until the next call, not counted twice.
        now_s = time.monotonic()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        total_s = time.process_time() + children.ru_utime + children.ru_stime + self._lost_s
        for process in self._descendants:
            try:
                used = process.cpu_times()
            except psutil.Error:
                continue  # It ended; its parent's children hold its time now.
            total_s += used.user + used.system + used.children_user + used.children_system
        if total_s < self._cpu_s and self._dipped:
            # Still lower at the second look: a descendant was adopted by init, its time is gone.
            self._lost_s += self._cpu_s - total_s
            total_s = self._cpu_s
        self._dipped = total_s < self._cpu_s
        self._cpu_s = max(self._cpu_s, total_s)
        return now_s, self._cpu_s


def tdp_energy_j(cpu_s: float, *, cpu_tdp_w: float, cpu_tdp_threads: int) -> float:
    """Estimated joules of CPU seconds: each hardware thread's share of the TDP while it is busy.

    Only this process tree counts, so two jobs on one node never sum to more than the node's TDP.
    Idle power of the package is nobody's in this model. It is a stand-in where RAPL is closed, with
    a standard deviation of 50 %: `parts.CALIBRATION`.
    """
    return cpu_s * cpu_tdp_w / cpu_tdp_threads


def tdp_sensor() -> Sensor:
    """How readings of the model are judged: it cannot fail, so nothing is refused."""
    return Sensor(
        kind="cpu",
        label=f"process tree of {os.getpid()}",
        method="tdp_model",
        limit_w=math.inf,
        delta_s=0.0,
        max_gap_s=math.inf,
    )
