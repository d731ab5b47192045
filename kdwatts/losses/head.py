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

RowTerm = Callable[[Tensor, slice], Tensor]
"""From logits [n, V] in float32 and the chunk's place in N to a loss for each of the n rows."""


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
        weight_grad = (
            torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        )
        sums = torch.zeros(len(terms), dtype=torch.float64, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), chunk_rows):
            rows = slice(start, min(start + chunk_rows, len(hidden_ND)))
            hidden_nD = hidden_ND[rows]
            logits_nV = (hidden_nD @ weight_VD.T.to(hidden_nD.dtype)).float()
            with torch.enable_grad():
                logits_nV.requires_grad_(needs_hidden or needs_weight)
                parts = {name: term(logits_nV, rows).sum() for name, term in terms.items()}
                loss = sum(weights[name] * part for name, part in parts.items())
            sums += torch.stack([part.detach().double() for part in parts.values()])
            if not logits_nV.requires_grad:
                continue
            assert isinstance(loss, Tensor)
            (grad_nV,) = torch.autograd.grad(loss, logits_nV)
            grad_nV = grad_nV.to(hidden_nD.dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = grad_nV @ weight_VD.to(grad_nV.dtype)
            if weight_grad is not None:
                weight_grad += grad_nV.T @ hidden_nD
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.weight_dtype = weight_VD.dtype
        total = sum(weights[name] * part for name, part in zip(terms, sums, strict=True))
        assert isinstance(total, Tensor)
        ctx.mark_non_differentiable(sums)
        return total.float(), sums

    @staticmethod
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
