"""Whether the nodes of a partition can be what a job asks for, as far as sinfo says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdwatts.runtime.ranks import Launch
from kdwatts.runtime.slurm_jobs import output_of

PATIENCE_S = 10.0
MB_PER_GB = 1024
"""As sbatch reads --mem, and sinfo prints memory."""
UNSTATED_MB = 1
"""Memory that sinfo prints of a node whose RealMemory slurm.conf does not state."""


@dataclass(frozen=True)
class SlurmNode:
    """A node of a partition, in whatever state it is."""

    name: str
    num_cpus: int
    memory_mb: int


def launch_of(params: Mapping[str, Any]) -> Launch:
    """Nodes and ranks of each job that is sent with these parameters of Hydra's launcher."""
    nodes = max(1, params["nodes"] or 1)
    return Launch(nodes, nodes * max(1, params["tasks_per_node"] or 1))


def check_room(params: Mapping[str, Any]) -> None:
    """Raise ValueError for more nodes, memory or CPUs than the partition has.

    `params` are those of Hydra's launcher. sbatch would take such a job where the cluster does not
    enforce limits, and it would wait for ever. Of several partitions one with room is enough. A
    partition of which sinfo says nothing is left to sbatch.
    """
    found = _partitions(params["partition"])
    refusals = [_refusal(params, name, nodes) for name, nodes in found.items()]
    if refusals and all(refusals):
        raise ValueError(refusals[0])


def _refusal(params: Mapping[str, Any], partition: str, nodes: Sequence[SlurmNode]) -> str | None:
    """Why a partition can never run the job. None where it can."""
    launch = launch_of(params)
    if launch.nodes > len(nodes):
        return (
            f"cluster.nodes={launch.nodes} is more than partition {partition} has, which is "
            f"{_nodes(len(nodes))}; ask for fewer, or choose another cluster.partition"
        )
    cpus = launch.ranks_per_node * (params["cpus_per_task"] or 1)
    memory_mb = MB_PER_GB * (params["mem_gb"] or 0)
    memories = [node.memory_mb for node in nodes if node.memory_mb > UNSTATED_MB]
    num_with_memory = len(nodes) - sum(one < memory_mb for one in memories)
    if num_with_memory < launch.nodes:
        return (
            f"cluster.mem_gb={params['mem_gb']} is more than the nodes of partition {partition} "
            f"have: {_of_all(num_with_memory, nodes)} so much, and the largest has "
            f"{max(memories) // MB_PER_GB}; ask for less, or choose another cluster.partition"
        )
    num_with_cpus = sum(node.num_cpus >= cpus for node in nodes)
    if num_with_cpus < launch.nodes:
        return (
            f"cluster.cpus_per_task={params['cpus_per_task']} for each of "
            f"hydra.launcher.tasks_per_node={launch.ranks_per_node} is {cpus} CPUs a node, and "
            f"{_of_all(num_with_cpus, nodes)} so many in partition {partition}, where the largest "
            f"has {max(node.num_cpus for node in nodes)}; ask for fewer, or choose another "
            "cluster.partition"
        )
    return None


def _of_all(count: int, nodes: Sequence[SlurmNode]) -> str:
    """How many of these nodes have something, as subject and verb."""
    return f"{count or 'none'} of {_nodes(len(nodes))} {'has' if count < 2 else 'have'}"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _partitions(asked: str | None) -> dict[str, list[SlurmNode]]:
    """The nodes of each partition that is asked for, or of the default one. Down ones count too.

    Empty where sinfo fails, is not there, or prints something else.
    """
    # Not with --partition: sinfo refuses it beside --all, which shows hidden partitions, too.
    words = ("sinfo", "--all", "--noheader", "--Node", "--format=%P|%N|%c|%m")
    said, wanted = output_of(*words, timeout_s=PATIENCE_S), (asked or "").split(",")
    found: dict[str, list[SlurmNode]] = {}
    for line in filter(None, (said or "").split("\n")):
        partition, *values = (part.strip() for part in line.split("|"))
        if len(values) != 3 or not all(value.isdecimal() for value in values[1:]):
            return {}
        name = partition.rstrip("*")  # sinfo marks the default partition by a star.
        if name in wanted if asked else name != partition:
            node = SlurmNode(values[0], int(values[1]), int(values[2]))
            found.setdefault(name, []).append(node)
    return found
