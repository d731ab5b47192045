"""How the ranks of a launch share a model: each has all of it, or a shard, over all or over a node.

`fsdp` cuts a model over all ranks. `hsdp` cuts it over the ranks of a node, and every node has a
replica: weights are gathered within nodes, and only gradients travel between them (hybrid shards,
Zhao et al. 2023, arXiv 2304.11277, section 3.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import distributed


@dataclass(frozen=True)
class Sharing:
    """How ranks share one model."""

    parallel: str = "ddp"
    """`ddp`, `fsdp` or `hsdp`, as in `training.parallel`."""
    precision: str = "fp32"
    """That of the arithmetic, bf16 or fp32. Only shards depend on it."""
    nodes: tuple[tuple[int, ...], ...] = ()
    """The ranks of each node. Empty stands for one node with all ranks."""

    @property
    def cuts(self) -> bool:
        """Whether a rank holds a shard: a process that is alone holds all."""
        return self.parallel != "ddp" and distributed.is_initialized()

    @property
    def ranks_by_node(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each node, also where `nodes` is empty."""
        return self.nodes or (tuple(range(distributed.get_world_size())),)

    def mesh(self, device_type: str) -> Any:
        """The device mesh that shards lie on. All ranks must call it.

        It has one dimension, or two where replicas lie on several nodes.

        Raises RuntimeError where hsdp finds ranks that are not in blocks of one size.
        """
        nodes = self.ranks_by_node
        if self.parallel == "fsdp" or len(nodes) == 1:
            return _mesh(device_type, (sum(map(len, nodes)),))
        check_blocks(nodes)
        return _mesh(device_type, (len(nodes), len(nodes[0])))


def check_blocks(nodes: tuple[tuple[int, ...], ...]) -> None:
    """Raise RuntimeError unless every node has equally many ranks, with successive numbers."""
    counts = [len(ranks) for ranks in nodes]
    if len(set(counts)) > 1:
        found = f"nodes have {', '.join(map(str, counts))} ranks"
        remedy = "launch equally many on each node"
    elif [rank for ranks in nodes for rank in ranks] != list(range(sum(counts))):
        found = f"ranks {', '.join(map(str, nodes[0]))} are on the first node"
        remedy = "launch with srun --distribution=block"
    else:
        return
    raise RuntimeError(
        "training.parallel=hsdp and training.teacher_parallel=hsdp need equally many ranks on each "
        f"node, numbered node by node, but {found}; {remedy}, or choose fsdp"
    )


@cache
def _mesh(device_type: str, shape: tuple[int, ...]) -> Any:
    """A mesh once: each has communicators of its own, which take memory of the device."""
    from torch.distributed.device_mesh import init_device_mesh

    names = ("replicas", "shards")[-len(shape) :]
    return init_device_mesh(device_type, shape, mesh_dim_names=names)
