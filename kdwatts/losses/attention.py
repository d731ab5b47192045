"""Attention relations: the student learns how the teacher's tokens relate to each other.

MiniLMv2, arXiv 2012.15828, section 3. Queries are compared with queries, keys with keys and values
with values, as scaled dot products under a softmax. The two models may have different numbers of
heads, and fewer heads for keys and values (grouped-query attention): all heads of a projection lie
side by side, and both models' projections are split anew into the same number of relation heads.
Nothing is repeated.
"""

# B sequences, T positions, W width of a projection (heads times head width), A relation heads,
# E = W / A, C queries of one chunk, K = T cut to the keys that some query of a chunk may see.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdwatts.losses.chunks import RELATION_ELEMENTS
from kdwatts.losses.rounding import wide

PROJECTIONS = ("q", "k", "v")
UNSEEN = -1e30
"""Logit of a key that a query does not see. Its probability is 0, and no NaN arises from it."""


def attention_loss(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    valid_BT: Tensor,
    *,
    position_BT: Tensor | None = None,
    relation_heads: int,
) -> Tensor:
    """Divergence of the attention relations, KL(teacher || student), in nats: a sum over queries.

    `student` and `teacher` hold the projections [B, T, W] of one block under `q`, `k` and `v`; W
    may differ between the two. `valid_BT` [B, T] is true where there is text. Each valid query
    compares itself with the valid positions up to its own. With `position_BT` [B, T], the place of
    each token in its document, it compares itself with its own document alone.

    The result is a mean over the three relations and over the relation heads, and a sum over the
    valid queries. It is computed in float32 (float64 stays float64).

    Raises ValueError when W is no multiple of `relation_heads`.
    """
    place_T = torch.arange(valid_BT.shape[1], device=valid_BT.device)
    begin_BT = torch.zeros_like(valid_BT, dtype=torch.int64)
    if position_BT is not None:
        begin_BT = place_T - position_BT
    losses = [
        _relation_kl(student[name], teacher[name], valid_BT, begin_BT, relation_heads)
        for name in PROJECTIONS
    ]
    return torch.stack(losses).mean()


def _relation_kl(
    student_BTW: Tensor,
    teacher_BTW: Tensor,
    valid_BT: Tensor,
    begin_BT: Tensor,
    relation_heads: int,
) -> Tensor:
    return _RelationKl.apply(  # pyright: ignore[reportReturnType]
        _split(student_BTW, relation_heads),
        _split(teacher_BTW, relation_heads),
        valid_BT,
        begin_BT,
    )


def _split(projected_BTW: Tensor, relation_heads: int) -> Tensor:
    """[B, A, T, E], scaled by the fourth root of E so that products are over its square root."""
    width = projected_BTW.shape[-1]
    if width % relation_heads:
        raise ValueError(
            f"attention: a projection of width {width} cannot be split into {relation_heads} "
            "relation heads; set paradigm.relational.relation_heads to a number that divides both "
            "models' widths"
        )
    split_BTAE = wide(projected_BTW).unflatten(-1, (relation_heads, -1))
    return split_BTAE.transpose(1, 2) * (width // relation_heads) ** -0.25


class _RelationKl(torch.autograd.Function):
    """Forms the gradient in the forward pass, so that no [T, T] relation outlives its chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        student_BATE: Tensor,
        teacher_BATE: Tensor,
        valid_BT: Tensor,
        begin_BT: Tensor,
    ) -> Tensor:
        batch, heads, length, _ = student_BATE.shape
        # Cast once, and not in the products of each chunk.
        student_BATE = student_BATE.contiguous()
        teacher_BATE = teacher_BATE.to(student_BATE.dtype).contiguous()
        elements = RELATION_ELEMENTS["cpu" if student_BATE.device.type == "cpu" else "cuda"]
        chunk = max(1, elements // (batch * heads * length))
        needs_grad = ctx.needs_input_grad[0]
        grad_BATE = torch.zeros_like(student_BATE) if needs_grad else None
        total = student_BATE.new_zeros((), dtype=torch.float64)
        # The loss is a difference of products, which autocast would round to three digits.
        with torch.autocast(student_BATE.device.type, enabled=False):
            for start in range(0, length, chunk):
                queries, keys = slice(start, start + chunk), slice(0, min(start + chunk, length))
                seen_B1CK = _seen(valid_BT, begin_BT, queries, keys)
                log_q, log_p = (
                    _log_relation(state_BATE, queries, keys, seen_B1CK)
                    for state_BATE in (student_BATE, teacher_BATE)
                )
                counted_B1C1 = valid_BT[:, None, queries, None].to(log_q.dtype)
                p = log_p.exp()
                kl_BAC1 = (p * log_p.sub_(log_q)).sum(-1, keepdim=True)
                total += (kl_BAC1 * counted_B1C1).sum().double()
                if grad_BATE is None:
                    continue
                grad_BACK = log_q.exp_().sub_(p)
                asked_BACE = student_BATE[:, :, queries] * counted_B1C1
                grad_BATE[:, :, queries] += grad_BACK @ student_BATE[:, :, keys] * counted_B1C1
                grad_BATE[:, :, keys] += grad_BACK.mT @ asked_BACE
        ctx.save_for_backward(None if grad_BATE is None else grad_BATE / heads)
        return (total / heads).to(student_BATE.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_BATE,) = ctx.saved_tensors
        return None if grad_BATE is None else grad_BATE * grad_outputs[0], None, None, None


def _seen(valid_BT: Tensor, begin_BT: Tensor, queries: slice, keys: slice) -> Tensor:
    """Which keys a query sees [B, 1, C, K]: valid ones of its document up to itself, and itself."""
    place_T = torch.arange(valid_BT.shape[1], device=valid_BT.device)
    query_C1, key_K = place_T[queries, None], place_T[keys]
    earlier_BCK = (key_K < query_C1) & (key_K >= begin_BT[:, queries, None])
    seen_BCK = earlier_BCK & valid_BT[:, None, keys] | (key_K == query_C1)
    return seen_BCK[:, None]


def _log_relation(state_BATE: Tensor, queries: slice, keys: slice, seen_B1CK: Tensor) -> Tensor:
    """Log of the softmax [B, A, C, K] over what each query sees; masked before, not after, it."""
    products = state_BATE[:, :, queries] @ state_BATE[:, :, keys].mT
    return products.masked_fill_(~seen_B1CK, UNSEEN).log_softmax(-1)
