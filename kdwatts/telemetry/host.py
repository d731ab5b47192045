"""The host: load, memory, clock, the CPU time of this job, and the power estimated from it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kdwatts.telemetry.readings import Sensor

log = logging.getLogger(__name__)

_COSTLY_SHARE = 0.0001
"""Queries that walk all processes or CPUs of a node take at most 0.01 % of a core."""

_SAME_TICK_S = 0.005
_SAME_EDGE_S = 0.0005
"""Times read this recently belong to the same tick, or to the same edge of a window."""


def cpu_name() -> str:
    """The processor's model name as the kernel states it, or else the type of machine."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_used_gib() -> float:
    """Memory of the node in use, in GiB."""
    return psutil.virtual_memory().used / 2**30


def busy_s() -> float:
    """CPU seconds that all CPUs of the node were busy since the node started."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system
    # Not every system tells interrupts apart. Stolen time is another machine's work.
    return busy + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)


def clock_mhz() -> float | None:
    """Mean clock of the node's CPUs in MHz. None where the kernel does not state it."""
    try:
        frequency = psutil.cpu_freq()
    except (NotImplementedError, OSError, ValueError):
        return None  # In containers, on some virtual machines and on ARM there is nothing to read.
    return frequency.current if frequency and frequency.current else None


class Seldom:
    """A costly query that is asked only as often as its cost allows, and gives None in between."""

    def __init__(self, query: Callable[[], Any]) -> None:
        self._query = query
        self._next_s = -math.inf

    def __call__(self, *, now: bool = False) -> Any:
        started_s = time.monotonic()
        if not now and started_s < self._next_s:
            return None
        answer = self._query()
        ended_s = time.monotonic()
        self._next_s = ended_s + (ended_s - started_s) / _COSTLY_SHARE
        return answer


def own_pids(peers: Sequence[int] = ()) -> set[int]:
    """Process ids of this process, its ancestors and descendants, and of the peers with theirs."""
    me = psutil.Process()
    own = [me, *me.parents(), *me.children(recursive=True), *_trees(peers)]
    return {process.pid for process in own}


def num_holding(path: str, peers: Sequence[int] = (), *, with_this: bool = True) -> int:
    """Number of this job's processes that hold a file or device open.

    These are this process where it counts, its descendants, and the peers with theirs.
    """
    me = psutil.Process()
    pids = {process.pid for process in (me, *me.children(recursive=True), *_trees(peers))}
    if not with_this:
        pids.remove(me.pid)
    return sum(_holds(pid, path) for pid in pids)


def _holds(pid: int, path: str) -> bool:
    folder = f"/proc/{pid}/fd"
    # A process that ends meanwhile, or is another user's, is not counted. Neither is a closed file.
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"{folder}/{name}") == path:
                    return True
    return False


def _trees(roots: Sequence[int]) -> list[psutil.Process]:
    """Those of the processes that live, each with its descendants."""
    processes: list[psutil.Process] = []
    for pid in roots:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            processes += [root, *root.children(recursive=True)]
    return processes


def process_name(pid: int) -> str:
    """Name of a process. It says so when the process is not visible, as from inside a container."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "not visible from here"


def tree_cpu_s(pid: int) -> float | None:
    """CPU seconds of a process, its live descendants, and those that they reaped.

    None where the process has ended.
    """
    try:
        root = psutil.Process(pid)
        return sum(map(_used_s, [root, *root.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return None


def _used_s(process: psutil.Process) -> float:
    """Its own CPU seconds and those of children that it reaped; 0 where it has ended."""
    try:
        used = process.cpu_times()
    except psutil.Error:
        return 0.0  # Its parent's children hold its time now.
    return used.user + used.system + used.children_user + used.children_system


class TreeClock:
    """CPU seconds of this process, its ended children and its live descendants. It never goes back.

    `peers` are processes that work for the same run without descending from this one. They count
    too.
    """

    def __init__(self, peers: Sequence[int] = ()) -> None:
        self._me = psutil.Process()
        self._descendants: list[psutil.Process] = []
        self._scan = Seldom(lambda: [*self._me.children(recursive=True), *_trees(peers)])
        self._cpu_s = 0.0
        self._lost_s = 0.0
        """CPU seconds of processes that left the tree without being reaped by it."""
        self._dipped = False

    def read(self, *, scan: bool = False) -> tuple[float, float]:
        """Monotonic seconds, and the CPU seconds until then.

        `scan` looks for new descendants even if the last look is recent.
        """
        descendants = self._scan(now=scan)
        if descendants is not None:
            self._descendants = descendants
        # Own time first: a child reaped meanwhile is missed until the next call, not counted twice.
        now_s = time.monotonic()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        total_s = time.process_time() + children.ru_utime + children.ru_stime + self._lost_s
        total_s += sum(map(_used_s, self._descendants))
        if total_s < self._cpu_s and self._dipped:
            # Still lower at the second look: init has adopted a descendant, and its time is gone.
            self._lost_s += self._cpu_s - total_s
            total_s = self._cpu_s
        self._dipped = total_s < self._cpu_s
        self._cpu_s = max(self._cpu_s, total_s)
        return now_s, self._cpu_s


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds until one moment."""

    time_s: float
    """Monotonic seconds of this host."""
    job_s: float
    node_s: float


def utilisation_pct(before: CpuTimes | None, after: CpuTimes) -> float | None:
    """Busy share of all CPUs between two looks, in %. None for the first look."""
    if before is None or after.time_s <= before.time_s:
        return None
    cpus_s = (after.time_s - before.time_s) * (os.cpu_count() or 1)
    return min(100.0, max(0.0, 100 * (after.node_s - before.node_s) / cpus_s))


class Clocks:
    """CPU time of job and node, read once per tick for all devices that need it."""

    def __init__(self, peers: Sequence[int] = ()) -> None:
        self._tree = TreeClock(peers)
        self._latest = CpuTimes(-math.inf, 0.0, 0.0)
        self._scanned = False

    def read_job(self) -> tuple[float, float]:
        """Monotonic seconds, and the job's CPU seconds until then.

        It does not read the node: it is cheap.

        Right after `read` it gives the same values as `read`.
        """
        if time.monotonic() - self._latest.time_s <= _SAME_TICK_S:
            return self._latest.time_s, self._latest.job_s
        return self._tree.read()

    def read(self, *, scan: bool = False) -> CpuTimes:
        """The CPU times now. With `scan`, at the edge of a window, it looks for new descendants.

        Two edges are always two looks, even when they follow at once: otherwise the time between
        them would have no energy.
        """
        age_s = time.monotonic() - self._latest.time_s
        if age_s > (_SAME_EDGE_S if scan else _SAME_TICK_S) or (scan and not self._scanned):
            time_s, job_s = self._tree.read(scan=scan)
            self._latest, self._scanned = CpuTimes(time_s, job_s, busy_s()), scan
        return self._latest


def tdp_energy_j(cpu_s: float, *, cpu_tdp_w: float, cpu_tdp_threads: int) -> float:
    """Estimated joules of CPU seconds: each busy hardware thread draws its share of the TDP.

    Only this process tree counts, so two jobs on one node never sum to more than the node's TDP.
    The package's idle power belongs to nobody in this model. It stands in where RAPL is closed,
    with a standard deviation of 50 %: see `parts.CALIBRATION`.
    """
    return cpu_s * cpu_tdp_w / cpu_tdp_threads


def model_sensor(kind: str, method: str) -> Sensor:
    """The sensor of a model. Its readings are computed, so none is refused."""
    return Sensor(
        kind=kind,
        label=f"process tree of {os.getpid()}",
        method=method,
        limit_w=math.inf,
        delta_s=0.0,
        max_gap_s=math.inf,
    )
