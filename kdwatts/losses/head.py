"""Losses on the output head's logits without ever holding them all.

Only rows that count are taken, in chunks. A chunk's logits are one matrix product into memory that
is kept from step to step; the losses turn them in place into their gradient, a few rows at a time,
which then gives the gradients of hidden states and head by two more products. All of it happens in
the forward pass. Peak memory grows with the chunk, not with tokens times vocabulary.
"""

# N positions kept by the loss mask, n those of one chunk, D student width, E teacher width,
# V student vocabulary, W teacher vocabulary (both cut to the shared one where they are compared).

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdwatts.losses.chunks import LOGIT_ELEMENTS
from kdwatts.losses.logit_rows import Block, RowTerm, floored, taken


@dataclass(frozen=True)
class DenseTeacher:
    """Final hidden states of the teacher at the rows that count, and its head."""

    hidden_NE: Tensor
    weight_WE: Tensor
    bias_W: Tensor | None = None


class Buffers:
    """Memory for one chunk's logits, kept between calls.

    Fresh memory costs a page fault for every 4 KiB: on a CPU a quarter of the time of the product
    that fills it.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """Uninitialised [rows, columns] of the dtype and device of `like`."""
        key = (name, like.dtype, like.device)
        held = self._held.get(key)
        if held is None or held.numel() < rows * columns:
            self._held.pop(key, None)
            held = self._held[key] = like.new_empty(rows * columns)
        return held[: rows * columns].view(rows, columns)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        teacher: DenseTeacher | None,
        terms: Mapping[str, RowTerm],
        weights: Mapping[str, float],
        chunk_rows: int,
        buffers: Buffers,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        needs_grad = any(ctx.needs_input_grad[:3])
        dtype = _product_dtype(hidden_ND)
        # Sums of many chunks: in bfloat16 the late ones would be rounded away.
        sum_dtype = torch.promote_types(weight_VD.dtype, torch.float32)
        hidden_grad = torch.empty_like(hidden_ND) if needs_hidden else None
        weight_grad = torch.empty_like(weight_VD, dtype=sum_dtype) if needs_weight else None
        bias_grad = torch.zeros_like(bias_V, dtype=sum_dtype) if needs_bias else None  # pyright: ignore[reportArgumentType]
        if weight_grad is not None and not len(hidden_ND):
            weight_grad.zero_()
        # Cast once: autocast would cast the whole weight anew for every product of every chunk.
        hidden_cast_ND, weight_cast_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        teacher = teacher and _cast(teacher)
        sums = torch.zeros(len(terms), dtype=torch.float64, device=hidden_ND.device)
        for rows in _even_slices(len(hidden_ND), chunk_rows):
            hidden_nD = hidden_cast_ND[rows]
            logits_nV = _logits("student", hidden_nD, weight_cast_VD, bias_V, buffers)
            teacher_nW = None
            if teacher:
                teacher_nW = _logits(
                    "teacher", teacher.hidden_NE[rows], teacher.weight_WE, teacher.bias_W, buffers
                )
            for part in _even_slices(len(logits_nV), _block_rows(logits_nV)):
                block = Block(
                    slice(rows.start + part.start, rows.start + part.stop),
                    logits_nV[part],
                    None if teacher_nW is None else teacher_nW[part],
                    needs_grad=needs_grad,
                )
                parts = [
                    taken(name, term, block, weights[name]).sum() for name, term in terms.items()
                ]
                sums += torch.stack(parts)
                if needs_grad:
                    block.close()
            if hidden_grad is not None:
                _product(logits_nV, weight_cast_VD, hidden_grad[rows])
            if weight_grad is not None:
                _add_product(logits_nV.T, hidden_nD, weight_grad, buffers, first=rows.start == 0)
            if bias_grad is not None:
                bias_grad += logits_nV.sum(0, dtype=sum_dtype)
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden_ND, weight_VD, bias_V)]
        total = sums @ sums.new_tensor([weights[name] for name in terms])
        ctx.mark_non_differentiable(sums)
        return total.to(torch.promote_types(hidden_ND.dtype, torch.float32)), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0].item()
        grads = [
            # A copy of the head's gradient to multiply it by 1 would be the largest there is.
            grad
            if grad is None or (scale == 1 and grad.dtype == dtype)
            else (grad * scale).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None, None, None


def _even_slices(length: int, most: int) -> list[slice]:
    """As few slices as are needed, none longer than `most`, all of about one length."""
    count = -(-length // most)
    edges = [length * index // count for index in range(count + 1)] if count else []
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _block_rows(logits_nV: Tensor) -> int:
    num_rows, width = logits_nV.shape
    return max(1, LOGIT_ELEMENTS.get(logits_nV.device.type, num_rows * width) // width)


def _product_dtype(hidden_ND: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's dtype where it is on, as for a linear layer."""
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device) and hidden_ND.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden_ND.dtype


def _cast(teacher: DenseTeacher) -> DenseTeacher:
    """The teacher in the dtype of its products, its head's own without autocast."""
    dtype = _product_dtype(teacher.weight_WE)
    return DenseTeacher(teacher.hidden_NE.to(dtype), teacher.weight_WE.to(dtype), teacher.bias_W)


def _logits(
    name: str, hidden_nD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, buffers: Buffers
) -> Tensor:
    out_nV = buffers.take(name, len(hidden_nD), len(weight_VD), hidden_nD)
    torch.mm(hidden_nD, weight_VD.T, out=out_nV)
    return out_nV if bias_V is None else out_nV.add_(floored(bias_V))


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_product(
    left: Tensor, right: Tensor, total: Tensor, buffers: Buffers, *, first: bool
) -> None:
    """Add left @ right to `total`, or fill it where this is the first product."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=0 if first else 1)
        return
    product = buffers.take("product", len(total), total.shape[1], right)
    torch.mm(left, right, out=product)
    if first:
        total.copy_(product)
    else:
        total += product


def head_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    terms: Mapping[str, RowTerm],
    weights: Mapping[str, float],
    *,
    bias_V: Tensor | None = None,
    teacher: DenseTeacher | None = None,
    chunk_rows: int = 256,
    buffers: Buffers | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of row terms over all N rows, and each term's own sum without gradient.

    `hidden_ND` are the student's final hidden states at the rows that count, `weight_VD` and
    `bias_V` its head cut to the shared vocabulary, `teacher` what dense terms are compared with,
    which gets no gradient. Sums, not means: put the number of tokens of the whole step into the
    weights, so that the gradient, which is exact and ready when this returns, need not be scaled in
    backward. `buffers` keeps memory from call to call.
    """
    if not torch.is_grad_enabled():
        # Inside the function gradients would be formed all the same, at the head's size in memory.
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    total, sums = _HeadLoss.apply(  # pyright: ignore[reportGeneralTypeIssues]
        hidden_ND, weight_VD, bias_V, teacher, terms, weights, chunk_rows, buffers or Buffers()
    )
    return total, dict(zip(terms, sums, strict=True))
