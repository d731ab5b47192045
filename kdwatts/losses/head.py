"""Losses on the output head's logits without ever holding them all.

Rows are taken in chunks; each chunk's logits live just long enough to give its loss and its
gradients, which are formed in the forward pass. Peak memory grows with the chunk, not with
tokens times vocabulary.
"""

# N positions kept by the loss mask, n those of one chunk, D student width, V shared vocabulary.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdwatts.losses.precision import wide

RowTerm = Callable[[Tensor, slice], Tensor]
"""From logits [n, V] and the chunk's place in N to a loss for each of the n rows.

The logits are in float32, or in float64 where the hidden states are."""


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        terms: Mapping[str, RowTerm],
        weights: Mapping[str, float],
        chunk_rows: int,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.zeros_like(hidden_ND) if needs_hidden else None
        # Sums of many chunks: in bfloat16 the late ones would be rounded away.
        sum_dtype = torch.promote_types(weight_VD.dtype, torch.float32)
        weight_grad = torch.zeros_like(weight_VD, dtype=sum_dtype) if needs_weight else None
        # Cast once: autocast would cast the whole weight anew for every product of every chunk.
        cast_VD = weight_VD.to(_product_dtype(hidden_ND))
        sums = torch.zeros(len(terms), dtype=torch.float64, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), chunk_rows):
            rows = slice(start, min(start + chunk_rows, len(hidden_ND)))
            hidden_nD = hidden_ND[rows].to(cast_VD.dtype)
            logits_nV = wide(hidden_nD @ cast_VD.T)
            with torch.enable_grad():
                logits_nV.requires_grad_(needs_hidden or needs_weight)
                parts = {name: term(logits_nV, rows).sum() for name, term in terms.items()}
                loss = sum(weights[name] * part for name, part in parts.items())
            sums += torch.stack([part.detach().double() for part in parts.values()])
            if not logits_nV.requires_grad:
                continue
            assert isinstance(loss, Tensor)
            (grad_nV,) = torch.autograd.grad(loss, logits_nV)
            grad_nV = grad_nV.to(cast_VD.dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = grad_nV @ cast_VD
            if weight_grad is not None:
                weight_grad += grad_nV.T @ hidden_nD
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.weight_dtype = weight_VD.dtype
        total = sum(weights[name] * part for name, part in zip(terms, sums, strict=True))
        assert isinstance(total, Tensor)
        ctx.mark_non_differentiable(sums)
        return total.to(torch.promote_types(hidden_ND.dtype, torch.float32)), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            None if hidden_grad is None else hidden_grad * scale.to(hidden_grad.dtype),
            None if weight_grad is None else (weight_grad * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def _product_dtype(hidden_ND: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's dtype where it is on, as for a linear layer."""
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device) and hidden_ND.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden_ND.dtype


def head_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    terms: Mapping[str, RowTerm],
    weights: Mapping[str, float],
    *,
    chunk_rows: int = 256,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of row terms over all N rows, and each term's own sum without gradient.

    `hidden_ND` are the student's final hidden states at the rows that count, `weight_VD` its head
    cut to the shared vocabulary. Sums, not means: the caller knows how many tokens the whole step
    has. The gradient is exact; it is ready when this returns and only scaled in backward.
    """
    total, sums = _HeadLoss.apply(hidden_ND, weight_VD, terms, weights, chunk_rows)  # pyright: ignore[reportGeneralTypeIssues]
    return total, dict(zip(terms, sums, strict=True))
