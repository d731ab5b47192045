"""The CPUs and the memory that this job may use of its host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from kdwatts.config.experiment import Config
from kdwatts.doctor.patient import Patient
from kdwatts.memory.budget import estimate
from kdwatts.metrics.significant_digits import significant
from kdwatts.planning.demands import shown_unit, workload_of
from kdwatts.records.doctor_record import Verdict
from kdwatts.runtime.paths import expanded
from kdwatts.telemetry import cgroup
from kdwatts.telemetry.node_share import find_allocation

LEAST_CPUS = 2.0
"""Training keeps one thread busy, and the meter and the readers of data need another."""


def host_room(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts on the job's CPUs and on free memory."""
    del seconds
    root = Path(expanded(patient.config.telemetry.cgroup_root))
    yield _cpus(root)
    if patient.config.gpu.device == "cpu":
        return  # The plan's demands are held against the memory of the host.
    yield _memory(patient.config, root)


def free_gib(cgroup_root: Path) -> float:
    """Memory in GiB that a new process can have here: what is free, or what its group allows."""
    free = psutil.virtual_memory().available / 2**30
    allowed = cgroup.memory_left_gib(cgroup_root)
    return free if allowed is None else max(0.0, min(free, allowed))


def _cpus(root: Path) -> Verdict:
    allocation = find_allocation(cgroup_root=root)
    quota, cpus = cgroup.quota_cpus(root), allocation.job_cpus
    figure = {"value": float(cpus), "unit": "CPUs"}
    found = f"{cpus:g} of {allocation.node_cpus} hardware threads of the node"
    found += (
        " (no quota" if quota is None else f" (quota of its control group: {significant(quota)}"
    )
    found += f"; the node's load was {significant(os.getloadavg()[0])} in the last minute)"
    if allocation.is_part:
        found += "; the CPU's energy is shared by CPU time"
    against = f"{LEAST_CPUS:g}: one for training, one for the meter and the readers of data"
    if cpus >= LEAST_CPUS:
        return Verdict("cpu_quota", "right", found, against, **figure)
    remedy = "ask for more: cluster.cpus_per_task, docker run --cpus, or the quota of the group"
    return Verdict("cpu_quota", "attention", found, against, remedy, **figure)


def _memory(config: Config, root: Path) -> Verdict:
    budget = estimate(workload_of(config))
    needs_gib = max(budget.teacher_whole_gib, budget.student_served_gib)
    free = free_gib(root)
    figure = {"value": free, "unit": "GiB"}
    found = f"{free:.1f} GiB of the host's memory are free for this job"
    unit, scale = shown_unit(needs_gib)
    against = (
        f"{scale * needs_gib:.1f} {unit}, the weights of the pair's larger model, read through it"
    )
    if free >= needs_gib:
        return Verdict("host_memory", "right", found, against, **figure)
    remedy = "ask for more: cluster.mem_gb, docker run --memory, or end what takes it"
    return Verdict("host_memory", "attention", found, against, remedy, **figure)
