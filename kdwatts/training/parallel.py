"""What ranks tell each other. A process that is alone is one rank of one.

Ranks share an optimizer step: each takes some of its micro-batches. A loss is divided by what the
whole step counts. So losses and gradients of ranks are added up and never averaged.
"""

# B embeddings of this rank, R ranks.

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.distributed import PrefixStore, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from kdwatts.models.sharding import is_sharded
from kdwatts.runtime.ranks import Ranks, meeting_point, node

BUCKET_ELEMENTS = 1 << 24
"""Elements of small gradients that travel as one: 64 MiB of float32."""
POLL_EVERY_S = 0.1
POLL_END_S = 0.02
PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others inside a computation before it counts one as dead."""
LAST_PATIENCE_S = 10.0
ANSWER_PATIENCE_S = 300.0
"""Imports from a slow file system take a minute or two. A rank that dies there is noticed later."""


class Company:
    """The ranks of one launch. What the first rank tells the others reaches each of them, in order.

    Messages go through a store beside the computations: whoever tells does not wait.
    """

    def __init__(self, ranks: Ranks, store: Any, peers: list[int]) -> None:
        self.ranks = ranks
        self.peers = peers
        """Process ids of the other ranks, all on this node."""
        self._store = store
        self._num_told = 0
        self._num_left = 0

    def tell(self, message: Any) -> None:
        """Send a message to all others. Only the first rank does."""
        self._store.set(f"told-{self._num_told}", pickle.dumps(message))
        self._num_told += 1

    def tell_last(self, message: Any) -> None:
        """Send what may be the last message, and wait until all have left: the store ends with us.

        A rank leaves when it hears this message, or after an error of its own. Then it hears
        nothing any more. A busy or dead rank is waited for, but not for long.
        """
        self.tell(message)
        self._wait_for(f"left-{self._num_left}", LAST_PATIENCE_S)
        self._num_left += 1

    def wait_for_answers(self) -> None:
        """Wait until every other rank has answered the last message, or has left."""
        self._wait_for(f"answer-{self._num_told}", ANSWER_PATIENCE_S)

    def _wait_for(self, word: str, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        words = (word, f"left-{self._num_left}")
        waiting = set(range(1, self.ranks.world))
        while waiting and time.monotonic() < deadline_s:
            for rank in list(waiting):
                if any(self._store.check([f"{said}-{rank}"]) for said in words):
                    waiting.remove(rank)
            if waiting:
                time.sleep(POLL_END_S)

    def answer(self) -> None:
        """Say that the last message has been dealt with."""
        self._store.set(f"answer-{self._num_told}-{self.ranks.rank}", b"")

    def leave(self) -> None:
        """Say that this rank has no more part in the run, however it ended here."""
        with contextlib.suppress(RuntimeError):  # The first rank, whose store it is, is gone.
            self._store.set(f"left-{self._num_left}-{self.ranks.rank}", b"")
        self._num_left += 1

    def hear(self) -> Any:
        """The first rank's next message, however long it takes.

        Raises RuntimeError when the store is gone, and the first rank with it.
        """
        name = f"told-{self._num_told}"
        while not self._store.check([name]):
            time.sleep(POLL_EVERY_S)
        self._num_told += 1
        return pickle.loads(self._store.get(name))


_met: list[Company] = []


def meet(ranks: Ranks, device_type: str) -> Company | None:
    """The company of this launch's ranks, met once per process. None for a process that is alone.

    CPU tensors travel by gloo, CUDA tensors by NCCL, which touches a GPU only when it is used.

    Raises RuntimeError for ranks on several nodes: one meter sees the devices of its own node
    alone.
    """
    if ranks.world == 1:
        return None
    if not _met:
        store, *_ = next(rendezvous(meeting_point(), ranks.rank, ranks.world))
        store.set_timeout(PATIENCE)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=ranks.rank,
            world_size=ranks.world,
            timeout=PATIENCE,
        )
        atexit.register(distributed.destroy_process_group)
        found = collected((node(), os.getpid()))
        if len(nodes := {place for place, _ in found}) > 1:
            raise RuntimeError(
                f"{ranks.world} ranks were launched on {len(nodes)} nodes, but one meter sees the "
                "energy of one node only; launch all ranks of a run on one node, and not in "
                "containers of their own"
            )
        peers = [pid for _, pid in found if pid != os.getpid()]
        _met.append(Company(ranks, PrefixStore("company", store), peers))
    return _met[0]


def device_of(ranks: Ranks, device_type: str) -> torch.device:
    """The device of this rank: among several GPUs, the one with its number on the node.

    Raises RuntimeError when there are fewer GPUs than ranks.
    """
    if device_type != "cuda" or ranks.world == 1:
        return torch.device(device_type)
    num_gpus = torch.cuda.device_count()
    # A launcher may show each rank its own GPU alone.
    index = 0 if num_gpus == 1 else ranks.local_rank
    if index >= num_gpus:
        raise RuntimeError(
            f"rank {ranks.rank} is process {index + 1} on its node, but it sees only {num_gpus} "
            "GPUs; start one rank per GPU"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def num_ranks() -> int:
    """Number of processes that train together. 1 without a process group."""
    return distributed.get_world_size() if _grouped() else 1


def rank() -> int:
    """The number of this process among them, counted from 0."""
    return distributed.get_rank() if _grouped() else 0


def summed(values: Sequence[float]) -> list[float]:
    """Each value added up over ranks, in float64. Every rank must give as many values."""
    return _reduced(values, distributed.ReduceOp.SUM)


def largest(values: Sequence[float]) -> list[float]:
    """The largest of each value over ranks."""
    return _reduced(values, distributed.ReduceOp.MAX)


def _reduced(values: Sequence[float], how: Any) -> list[float]:
    if not _grouped():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(total, how)
    return total.tolist()


def collected(value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks: what JSON can carry, as JSON gives it back."""
    text = json.dumps(value).encode()
    sizes = [int(size) for size in _gathered(torch.tensor([len(text)]))]
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    parts = zip(_gathered(padded), sizes, strict=True)
    return [json.loads(part[:size].numpy().tobytes()) for part, size in parts]


def _gathered(part: Tensor) -> list[Tensor]:
    """Every rank's tensor of one shape, on the CPU."""
    if not _grouped():
        return [part]
    parts = [torch.empty_like(part) for _ in range(num_ranks())]
    distributed.all_gather(parts, part)
    return parts


def ranks_by_node() -> tuple[tuple[int, ...], ...]:
    """The ranks of each node, in the order of their first ranks. Every rank must call it."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(collected(node())):
        found.setdefault(name, []).append(number)
    return tuple(tuple(ranks) for ranks in found.values())


def together(synchronize: Callable[[], None]) -> Callable[[], None]:
    """A function that calls `synchronize` and waits for all ranks. Alone, `synchronize` itself."""
    if not _grouped():
        return synchronize

    def both() -> None:
        synchronize()
        largest([0.0])

    return both


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up every gradient over ranks, in place.

    Gradients of sharded parameters are left alone: FSDP2 has added them up. A parameter without a
    gradient must have none on any rank. It is so where all ranks run the same terms.
    """
    if not _grouped():
        return
    waiting: list[Tensor] = []
    for parameter in parameters:
        grad = parameter.grad
        if grad is None or is_sharded(grad):
            continue
        if grad.numel() >= BUCKET_ELEMENTS and grad.is_contiguous():
            distributed.all_reduce(grad)
            continue
        if waiting and waiting[0].dtype != grad.dtype:
            waiting = _sum_as_one(waiting)
        waiting.append(grad)
        if sum(part.numel() for part in waiting) >= BUCKET_ELEMENTS:
            waiting = _sum_as_one(waiting)
    _sum_as_one(waiting)


def _sum_as_one(grads: list[Tensor]) -> list[Tensor]:
    """Add the gradients up in one message; returns none that are left."""
    if grads:
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        parts = flat.split([grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
    return []


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """The norm of the gradients, over all ranks' shards, before they are scaled in place.

    The scaled gradients have a norm of at most `max_norm`.
    """
    sharded = [p for p in parameters if is_sharded(p)]
    if not sharded:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    whole = [p for p in parameters if not is_sharded(p)]
    groups = [[p.grad for p in some if p.grad is not None] for some in (sharded, whole)]
    norm = torch.stack([_whole_norm(grads) for grads in groups if grads]).norm()
    for some in (sharded, whole):
        nn.utils.clip_grads_with_norm_(some, max_norm, norm)
    return norm


def _whole_norm(grads: list[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(grads)
    return norm.full_tensor() if is_sharded(norm) else norm  # pyright: ignore[reportAttributeAccessIssue]


def gather_with_gradient(embedding_BD: Tensor) -> Tensor:
    """The embeddings [B, D] of all ranks in the order of ranks, [R B, D].

    Every rank must give the same shape. Without a process group it is the same tensor. Backward
    adds up the gradients that all ranks have for this rank's rows. So divide a loss that each rank
    takes over all rows by the number of ranks. Then the ranks' shares add up to it, and so do their
    gradients.
    """
    return _Gather.apply(embedding_BD) if _grouped() else embedding_BD  # pyright: ignore[reportReturnType]


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding_BD: Tensor) -> Tensor:
        embedding_BD = embedding_BD.contiguous()
        parts = [torch.empty_like(embedding_BD) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, embedding_BD)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        # A sum and a cut in place of reduce_scatter, which gloo has not had in every version.
        grad = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(grad)
        return grad.chunk(distributed.get_world_size())[distributed.get_rank()]
