"""What ranks add up and gather together. A process that is alone is one rank of one.

Ranks share an optimizer step: each takes some of its micro-batches. A loss is divided by what the
whole step counts. So losses and gradients of ranks are added up and never averaged.
"""

# B embeddings of this rank, R ranks.

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from kdwatts.models.sharding import is_sharded
from kdwatts.runtime.ranks import Ranks

BUCKET_ELEMENTS = 1 << 24
"""Elements of small gradients that travel as one: 64 MiB of float32."""


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
