"""How this process was launched: alone, or as one of several ranks by torchrun or Slurm's srun."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PLACES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_WORLD_SIZE"),
    # Of the step: a batch script that holds many tasks and runs one process by itself is alone.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES"),
)
"""Where torchrun, and srun, tell a process its rank, their number, its rank on the node, and the
number of nodes. The last may be missing: then there is one."""

_START_ANEW = "torchrun and srun set these variables: start by one of them, or unset them"

FIRST_PORT, NUM_PORTS = 15_000, 15_000
"""Below 32,768, from where Linux takes ports for connections that ask for none."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that make one run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Its rank among those of its node."""
    nodes: int = 1
    """Nodes of this launch, as the launcher counts them."""

    @property
    def leads(self) -> bool:
        """Whether this process owns folder, store and meter."""
        return self.rank == 0


@dataclass(frozen=True)
class Launch:
    """How many processes make one run, and on how many nodes: what a key and a plan depend on."""

    nodes: int = 1
    ranks: int = 1
    """Of all nodes together."""

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node that has the most of them."""
        return -(-self.ranks // self.nodes)

    def in_words(self) -> str:
        """Ranks and nodes, such as `8 ranks of 2 nodes`."""
        ranks, nodes = (
            f"{count} {word}{'s' * (count > 1)}"
            for count, word in ((self.ranks, "rank"), (self.nodes, "node"))
        )
        return f"{ranks} of {nodes}"


def own_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """The launch of this process, as its launcher states it. Raises what `launched` raises."""
    ranks = launched(environment)
    return Launch(ranks.nodes, ranks.world)


def launched(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What torchrun or srun told this process: rank 0 of 1 where neither did.

    Raises ValueError for values that neither of them gives.
    """
    for *names, of_nodes in PLACES:
        if all(name in environment for name in names):
            rank, world, local_rank = (_number(environment, name) for name in names)
            if rank >= world or local_rank >= world:
                raise ValueError(
                    f"{names[0]}={rank} and {names[2]}={local_rank} are not below "
                    f"{names[1]}={world}; {_START_ANEW}"
                )
            return Ranks(rank, world, local_rank, max(1, _number(environment, of_nodes, "1")))
    return Ranks()


def place_on_node(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The number of this process among those of its launch on its node, and how many these are.

    It is (0, 1) where no launcher states it. Processes of mpirun count too, though they are no
    ranks of ours.
    """
    for names in (
        ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ):
        if all(environment.get(name, "").isdecimal() for name in names):
            index, count = (int(environment[name]) for name in names)
            return index, max(1, count)
    ranks = launched(environment)
    if ranks.world == 1:
        return 0, 1
    counts = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node_index = _number(environment, "SLURM_NODEID", "0")
    return ranks.local_rank, counts[node_index] if node_index < len(counts) else ranks.world


def _tasks_per_node(text: str) -> list[int]:
    """Tasks of each node of a step, which Slurm writes as `4(x2),3` for 4, 4 and 3."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    """The whole number, 0 or more, that an environment variable holds."""
    text = environment[name] if default is None else environment.get(name, default)
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise ValueError(
            f"the environment has {name}={text!r}, which is no whole number; {_START_ANEW}"
        )
    return int(text)


def meeting_point(environment: Mapping[str, str] = os.environ) -> str:
    """The address where the ranks find each other, as torch.distributed takes it.

    torchrun gives it in MASTER_ADDR and MASTER_PORT. Under srun it is the first host of the step,
    with a port made from the numbers of job and step, unless these variables are set.
    """
    if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
        return "env://"
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    host = environment.get("MASTER_ADDR") or first_host(nodes)
    if not host:
        raise RuntimeError(
            "several ranks were launched, and neither MASTER_ADDR and MASTER_PORT nor "
            "SLURM_JOB_NODELIST say where they meet; start them with torchrun or srun"
        )
    job, step = (_number(environment, f"SLURM_{name}_ID", "0") for name in ("JOB", "STEP"))
    port = environment.get("MASTER_PORT") or FIRST_PORT + (31 * job + step) % NUM_PORTS
    return f"tcp://{host}:{port}"


def host_and_space() -> str:
    """Within what a process id is unique: containers may share a host's name, and not its ids."""
    return f"{socket.gethostname()} {process_space()}".strip()


def process_space() -> str:
    """What processes have in common that see each other's ids. Empty elsewhere than on Linux."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def machine() -> str:
    """What all processes of one machine have in common, in containers too: the id of its start."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return socket.gethostname()


def first_host(nodes: str) -> str:
    """The first host of a list that Slurm wrote, such as `gpu[03-05,9],x1`.

    Empty for an empty list.

    Only the forms of a job's environment are read: hosts between commas, numbers in brackets.
    """
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""
