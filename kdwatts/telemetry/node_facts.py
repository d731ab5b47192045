"""What the records say of a node beside its joules: host, processor, memory, GPUs."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from kdwatts.telemetry.host import cpu_name
from kdwatts.telemetry.nvml import Device


@dataclass(frozen=True)
class NodeFacts:
    """One node of a run."""

    number: int
    """Counts the nodes of a run from 1, the first rank's."""
    host: str
    cpu: str
    """Name of the processor."""
    cpu_threads: int | None
    memory_gib: float
    ranks: list[int]
    """Numbers of the ranks on it, in order."""
    gpus: list[Device]
    """The GPUs of this job there."""


def facts_of_this_node(
    gpus: Sequence[Device], *, number: int = 1, ranks: Sequence[int] = (0,)
) -> NodeFacts:
    """The facts of the node that this process is on."""
    return NodeFacts(
        number=number,
        host=socket.gethostname(),
        cpu=cpu_name(),
        cpu_threads=psutil.cpu_count(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        ranks=list(ranks),
        gpus=list(gpus),
    )


def facts_from_json(values: Mapping[str, Any]) -> NodeFacts:
    """The facts that another node sent as JSON of `asdict`."""
    return NodeFacts(**{**values, "gpus": [Device(**gpu) for gpu in values["gpus"]]})
