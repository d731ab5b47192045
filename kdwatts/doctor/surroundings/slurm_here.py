"""Slurm's commands, the job around this process, and whether the cluster has what is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.runtime.slurm_jobs import output_of, own_id

COMMANDS = ("sbatch", "srun", "squeue", "sacct", "sinfo")
"""What sending, following and ending jobs takes."""
PATIENCE_S = 5.0


def slurm_here(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts on Slurm; a single one where there is no Slurm."""
    present = [name for name in COMMANDS if shutil.which(name)]
    job = own_id()
    if not present:
        where = f", though this is its job {job}" if job else ""
        yield Verdict("slurm", None, f"no Slurm here{where}")
        return
    against = "sbatch, srun, squeue, sacct and sinfo, with which sweeps are sent"
    if missing := [name for name in COMMANDS if name not in present]:
        found = f"{', '.join(missing)} not among the commands here"
        remedy = "load Slurm's module, or add its folder to PATH"
        yield Verdict("slurm", "attention", found, against, remedy)
        return
    listed = output_of("sinfo", "--noheader", "--format=%P|%G", timeout_s=min(PATIENCE_S, seconds))
    if listed is None:
        found = "its commands are here, but sinfo gives no answer"
        remedy = "sinfo says why; without Slurm, runs on this machine need nothing of it"
        yield Verdict("slurm", "attention", found, against, remedy)
        return
    partitions = _partitions(listed)
    within = f"this is job {job}" if job else "this is no job of it"
    found = f"Slurm answers, {within}; partitions: {', '.join(partitions) or 'none'}"
    yield Verdict("slurm", "right", found, against)
    cluster = patient.config.cluster
    if cluster.partition or cluster.gres:
        yield _asked_for(cluster.partition, cluster.gres, partitions)


def _partitions(listed: str) -> dict[str, list[str]]:
    """Name of each partition to the resources (gres) of its nodes; the default is marked by `*`."""
    found: dict[str, list[str]] = {}
    for line in filter(None, listed.split("\n")):
        name, _, resources = line.partition("|")
        found.setdefault(name.strip().rstrip("*"), []).extend(resources.strip().split(","))
    return found


def _asked_for(partition: str | None, gres: str | None, known: dict[str, list[str]]) -> Verdict:
    """Whether sbatch would find the partition and the resource that jobs here ask for."""
    name, against = "slurm_partition", "sinfo"
    wanted = [f"partition {partition}"] if partition else []
    wanted += [f"gres {gres}"] if gres else []
    asks = f"jobs ask for {' and '.join(wanted)}"
    if partition and partition not in known:
        found = f"{asks}, and the cluster has no such partition"
        remedy = f"set cluster.partition to one of {', '.join(known)}, or to null"
        return Verdict(name, "attention", found, against, remedy)
    resources = known[partition] if partition else [one for all_ in known.values() for one in all_]
    if gres and not any(_gives(one, gres) for one in resources):
        found = f"{asks}, and no node there has such a gres"
        there = ", ".join(sorted(set(resources) - {"(null)"})) or "none"
        remedy = f"set cluster.gres after what there is ({there}), or to null"
        return Verdict(name, "attention", found, against, remedy)
    return Verdict(name, "right", f"{asks}, and the cluster has it", against)


def _gives(resource: str, wanted: str) -> bool:
    """Whether `gpu:h100:8(S:0-1)` of a node has the kind of `gpu:h100:1` or `gpu:1`."""
    has, asks = resource.partition("(")[0].split(":"), wanted.removeprefix("gres/").split(":")
    kind = [word for word in asks if not word.isdecimal()]
    return has[: len(kind)] == kind
