"""Losses on the logits of the output head, without ever holding all logits at once.

Only the rows that count are computed, in chunks. The logits of a chunk are one matrix product, in
memory that is kept from step to step. The losses replace these logits by their gradient, a few rows
at a time. Two more products then give the gradients of the hidden states and of the head. All of
this happens in the forward pass. So peak memory grows with the chunk, not with the number of tokens
times the vocabulary.
"""

# N positions kept by the loss mask, n those of one chunk, D student width, E teacher width,
# R those of the longest, V student vocabulary, W teacher vocabulary (both cut to the shared one
# where they are compared).

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdwatts.losses.chunks import LOGIT_ELEMENTS
from kdwatts.losses.fused_choice import agreed_plan, scaled_in_place
from kdwatts.losses.fused_rows import fused_losses
from kdwatts.losses.logit_rows import Block, RowTerm, block_losses
from kdwatts.losses.products import Buffers, add_product, product
from kdwatts.losses.rounding import floored


@dataclass(frozen=True)
class DenseTeacher:
    """The teacher's final hidden states [N, E] at the rows that count, and its head [W, E]."""

    hidden_NE: Tensor
    weight_WE: Tensor
    bias_W: Tensor | None = None


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
    """Weighted sum of the terms over all N rows, and the sum of each term without a gradient.

    `hidden_ND` [N, D] are the student's final hidden states at the rows that count. `weight_VD` [V,
    D] and `bias_V` [V] are its output head, cut to the shared vocabulary. `teacher` is what dense
    terms compare with; it gets no gradient. The unit is that of the terms, for divergences nats.

    These are sums and no means: divide the weights by the number of tokens in the whole step. The
    gradient is exact, and it is ready when this function returns. Pass the same `buffers` to each
    call, and memory is kept from call to call.
    """
    if not torch.is_grad_enabled():
        # Otherwise the function would still form gradients, in memory as large as the head.
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    total, sums = _HeadLoss.apply(  # pyright: ignore[reportGeneralTypeIssues]
        hidden_ND, weight_VD, bias_V, teacher, terms, weights, chunk_rows, buffers or Buffers()
    )
    return total, dict(zip(terms, sums, strict=True))


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
        needs_grad = any(ctx.needs_input_grad[:3])
        gradients = _Gradients.empty(ctx.needs_input_grad, hidden_ND, weight_VD, bias_V)
        # Cast once: autocast would cast the whole weight again for each product of each chunk.
        dtype = _product_dtype(hidden_ND)
        hidden_cast_ND, weight_cast_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        teacher = teacher and _cast(teacher)
        sums = torch.zeros(len(terms), dtype=torch.float64, device=hidden_ND.device)
        # Chunks differ in length. Memory that grew with them would leave the old one behind.
        most_rows = min(chunk_rows, len(hidden_ND))
        for rows in _even_slices(len(hidden_ND), chunk_rows):
            hidden_nD, teacher_nW = hidden_cast_ND[rows], None
            buffer_RV = buffers.take("student", most_rows, len(weight_VD), hidden_nD)
            logits_nV = _logits(hidden_nD, weight_cast_VD, bias_V, buffer_RV)
            if teacher:
                teacher_nE, weight_WE = teacher.hidden_NE[rows], teacher.weight_WE
                buffer_RW = buffers.take("teacher", most_rows, len(weight_WE), teacher_nE)
                teacher_nW = _logits(teacher_nE, weight_WE, teacher.bias_W, buffer_RW)
            plan = agreed_plan(terms, weights, rows, logits_nV, teacher_nW, needs_grad=needs_grad)
            if plan:
                sums += fused_losses(plan, rows, logits_nV, teacher_nW, needs_grad=needs_grad)
            else:
                for block in _blocks(rows, logits_nV, teacher_nW, needs_grad=needs_grad):
                    sums += block_losses(block, terms, weights)
            if needs_grad:
                # The chunk's logits now hold their gradient.
                gradients.add_chunk(rows, logits_nV, hidden_nD, weight_cast_VD, buffers)
        ctx.save_for_backward(gradients.hidden_ND, gradients.weight_VD, gradients.bias_V)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden_ND, weight_VD, bias_V)]
        ctx.scale = None
        total = _weighted(sums, [weights[name] for name in terms])
        ctx.mark_non_differentiable(sums)
        return total.to(torch.promote_types(hidden_ND.dtype, torch.float32)), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # Unpacked once, and named nowhere else: then the caller may keep them without a copy.
        kept = list(zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        scale = grad_outputs[0]
        if scale.device.type == "cuda":
            grads = _scaled_unseen(ctx, kept, scale)
        else:
            number = scale.item()
            grads = [
                # Multiplying by 1 would copy the head's gradient, the largest tensor there is.
                grad
                if grad is None or (number == 1 and grad.dtype == dtype)
                else (grad * number).to(dtype)
                for grad, dtype in kept
            ]
        return *grads, None, None, None, None, None


def _weighted(sums: Tensor, weights: list[float]) -> Tensor:
    if sums.device.type == "cpu":
        return sums @ sums.new_tensor(weights)
    # As numbers: the CPU waits until a list of them has arrived on a GPU.
    parts = [part * weight for part, weight in zip(sums.unbind(), weights, strict=True)]
    return torch.stack(parts).sum()


def _scaled_unseen(ctx: Any, kept: list[Any], scale: Tensor) -> list[Tensor | None]:
    """The gradients times a scale that the CPU does not learn: it would wait for the GPU.

    The head's is multiplied in its own memory, since a copy would be as large as the head. A later
    backward pass through here makes that copy: whoever was given the first one may still hold it.
    """
    grads: list[Tensor | None] = []
    done = ctx.scale
    ctx.scale = scale if done is None else done
    for place, (grad, dtype) in enumerate(kept):
        if grad is None:
            grads.append(None)
            continue
        is_own = place == 1 and grad.dtype == dtype
        if is_own and done is None:
            scaled_in_place(grad, scale)
            grads.append(grad)
            continue
        # The first pass has multiplied it already.
        by = scale / done if is_own and done is not None else scale
        # With as many axes as the gradient: torch would round a scalar to bfloat16 first.
        by = by.reshape([1] * grad.dim())
        grads.append(torch.mul(grad, by, out=torch.empty_like(grad, dtype=dtype)))
    return grads


def _blocks(
    rows: slice, logits_nV: Tensor, teacher_nW: Tensor | None, *, needs_grad: bool
) -> Iterator[Block]:
    """A chunk's logits a few rows at a time, so many as losses take at once."""
    num_rows, width = logits_nV.shape
    most = max(1, LOGIT_ELEMENTS.get(logits_nV.device.type, num_rows * width) // width)
    for part in _even_slices(num_rows, most):
        yield Block(
            slice(rows.start + part.start, rows.start + part.stop),
            logits_nV[part],
            None if teacher_nW is None else teacher_nW[part],
            needs_grad=needs_grad,
        )


@dataclass(frozen=True)
class _Gradients:
    """Of the sum of all losses, added up chunk by chunk; None of what is not trained."""

    hidden_ND: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None

    @staticmethod
    def empty(
        needed: Sequence[bool], hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None
    ) -> _Gradients:
        """Memory that the first chunk fills; zeros where there is none."""
        needs_hidden, needs_weight, needs_bias = needed[:3]
        # Sums over many chunks: in bfloat16, the last chunks would be rounded away.
        dtype = torch.promote_types(weight_VD.dtype, torch.float32)
        gradients = _Gradients(
            torch.empty_like(hidden_ND) if needs_hidden else None,
            torch.empty_like(weight_VD, dtype=dtype) if needs_weight else None,
            torch.zeros_like(bias_V, dtype=dtype) if needs_bias and bias_V is not None else None,
        )
        if gradients.weight_VD is not None and not len(hidden_ND):
            gradients.weight_VD.zero_()
        return gradients

    def add_chunk(
        self,
        rows: slice,
        grad_nV: Tensor,
        hidden_nD: Tensor,
        weight_VD: Tensor,
        buffers: Buffers,
    ) -> None:
        """Add what the gradient of a chunk's logits makes of the head and of its hidden states."""
        if self.hidden_ND is not None:
            product(grad_nV, weight_VD, self.hidden_ND[rows])
        if self.weight_VD is not None:
            add_product(grad_nV.T, hidden_nD, self.weight_VD, buffers, first=rows.start == 0)
        if self.bias_V is not None:
            self.bias_V.add_(grad_nV.sum(0, dtype=self.bias_V.dtype))


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
    hidden_nD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, buffer_RV: Tensor
) -> Tensor:
    """The logits [n, V], in the first rows of the buffer."""
    out_nV = buffer_RV[: len(hidden_nD)]
    torch.mm(hidden_nD, weight_VD.T, out=out_nV)
    return out_nV if bias_V is None else out_nV.add_(floored(bias_V))


def _even_slices(length: int, most: int) -> list[slice]:
    """As few slices as are needed, none longer than `most`, all of about one length."""
    count = -(-length // most)
    edges = [length * index // count for index in range(count + 1)] if count else []
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
