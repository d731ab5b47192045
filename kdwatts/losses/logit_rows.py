"""The logits of a few rows, their softmax, and the gradient of the student's logits.

A loss on logits forms its value and its gradient together. It is a function of a `Block` and a
weight. It returns one value per row and adds its gradient to the block. The gradient comes from a
closed form, or from autograd (`kdwatts.losses.plain`).
"""

# N positions kept by the loss mask, n those of one block, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdwatts.losses.rounding import floored, wide


class Block:
    """Student and teacher logits [n, V] of consecutive rows, with the gradient of the student's.

    The block owns both tensors and overwrites them. At the end, the student's tensor holds the
    gradient of all losses that were added, unless its dtype is narrower than float32.
    """

    def __init__(
        self,
        rows: slice,
        student_nV: Tensor,
        teacher_nV: Tensor | None = None,
        *,
        needs_grad: bool = True,
    ) -> None:
        self.rows = rows
        self.needs_grad = needs_grad
        self._student_nV, self._teacher_nV = student_nV, teacher_nV
        self._softmaxes: dict[float, Softmax] = {}
        self._grad_nV: Tensor | None = None
        self.num_gradients = 0
        """Additions to the gradient so far."""

    def student(self, temperature: float) -> Softmax:
        """The student's softmax at this temperature. Only read it: all losses share it."""
        if temperature not in self._softmaxes:
            if self._softmaxes:
                # The logits may be overwritten. These equal them up to their maximum.
                known, softmax = next(iter(self._softmaxes.items()))
                scaled_nV = softmax.shifted_nV * (known / temperature)
                made = _shifted(scaled_nV, scaled_nV.new_zeros(()), own=True)
            else:
                made = softmax_of(self._student_nV, temperature)
            self._softmaxes[temperature] = made
        return self._softmaxes[temperature]

    def teacher(self, temperature: float) -> Softmax:
        """The teacher's softmax at this temperature, which you may overwrite. Ask for it once."""
        return softmax_of(self._teacher_once(), temperature, in_place=True)

    def logits(self) -> tuple[Tensor, Tensor]:
        """Logits [n, V] of student and teacher, in float32 (float64 stays float64).

        Only read the student's. You may overwrite the teacher's. Ask for the teacher once, by
        `logits` or by `teacher`.
        """
        if not self._softmaxes:
            self.student(1.0)  # For losses that come when the gradient lies where the logits were.
        student_nV = self._student_nV
        if self._grad_nV is student_nV:
            (temperature, softmax), *_ = self._softmaxes.items()
            student_nV = (softmax.shifted_nV + softmax.most_n1).mul_(temperature)
        return wide(student_nV), wide(self._teacher_once())

    def _teacher_once(self) -> Tensor:
        assert self._teacher_nV is not None, "no dense teacher was given, or it was asked for twice"
        teacher_nV, self._teacher_nV = self._teacher_nV, None
        return teacher_nV

    def add_gradient(self, part_nV: Tensor, factor: Tensor | float) -> None:
        """Add `part_nV` [n, V] times `factor` to the gradient.

        `factor` is a number or one per row [n, 1].
        """
        assert self._softmaxes, "the gradient overwrites logits that nobody has read"
        self.num_gradients += 1
        if self._grad_nV is None:
            # The first part is written, not added to zeros.
            fits = self._student_nV.dtype == part_nV.dtype
            target_nV = self._student_nV if fits else torch.empty_like(part_nV)
            self._grad_nV = torch.mul(part_nV, factor, out=target_nV)
        elif isinstance(factor, Tensor):
            self._grad_nV.addcmul_(part_nV, factor)
        else:
            self._grad_nV.add_(part_nV, alpha=factor)

    def add_gradient_at(self, ids_nK: Tensor, part_nK: Tensor) -> None:
        """Add `part_nK` [n, K] to the gradient at the tokens `ids_nK` [n, K]. An id may repeat."""
        assert self._grad_nV is not None, "add the dense part first"
        self.num_gradients += 1
        self._grad_nV.scatter_add_(-1, ids_nK, part_nK.to(self._grad_nV.dtype))

    @property
    def num_rows(self) -> int:
        """Number of rows n."""
        return len(self._student_nV)

    def close(self) -> Tensor:
        """The gradient [n, V], in the student's memory and dtype."""
        assert self._grad_nV is not None
        if self._grad_nV is not self._student_nV:
            self._student_nV.copy_(self._grad_nV)
        return self._student_nV


RowTerm = Callable[[Block, float], Tensor]
"""A loss of each row of a block, [n] in float64. It adds its gradient, times the given weight."""


@dataclass(frozen=True)
class Softmax:
    """softmax(z / T) of n rows, not normalised, in float32 or float64: p = exp / total."""

    shifted_nV: Tensor
    """z / T less its maximum, so that log p = shifted - log total."""
    most_n1: Tensor
    """What was subtracted from z / T: its maximum, or 0 where z came from another softmax."""
    exp_nV: Tensor
    total_n1: Tensor
    """Sum of exp over V. It is in float64, since little is computed with it."""

    @property
    def scale_n1(self) -> Tensor:
        """The factor [n, 1] that turns `exp_nV` into probabilities."""
        return self.total_n1.reciprocal().to(self.exp_nV.dtype)

    @property
    def log_total_n(self) -> Tensor:
        """The log [n] of the sum of `exp_nV` over the vocabulary."""
        return self.total_n1[:, 0].log()

    def probabilities(self) -> Tensor:
        """Probabilities p [n, V], in new memory."""
        return self.exp_nV * self.scale_n1

    def log_at(self, ids_nK: Tensor) -> Tensor:
        """log p [n, K] in nats of the tokens `ids_nK` [n, K], in float64."""
        return self.shifted_nV.gather(-1, ids_nK).double() - self.log_total_n[:, None]


def softmax_of(logits_nV: Tensor, temperature: float, *, in_place: bool = False) -> Softmax:
    """The softmax of logits [n, V] of any float dtype. With `in_place` it overwrites them."""
    wide_nV = wide(logits_nV)
    own = in_place or wide_nV is not logits_nV
    if temperature != 1:
        wide_nV = wide_nV.div_(temperature) if own else wide_nV / temperature
        own = True
    return _shifted(wide_nV, wide_nV.amax(-1, keepdim=True), own)


def _shifted(scaled_nV: Tensor, most_n1: Tensor, own: bool) -> Softmax:
    shifted_nV = scaled_nV.sub_(most_n1) if own else scaled_nV - most_n1
    exp_nV = shifted_nV.exp()
    return Softmax(shifted_nV, most_n1, exp_nV, exp_nV.sum(-1, keepdim=True).double())


def term_loss(name: str, term: RowTerm, block: Block, weight: float) -> Tensor:
    """The loss of each row of the block, [n].

    Raises ValueError when the term does not return one number per row, and when it adds no gradient
    though one is needed: the student would learn from the other terms alone, while the log shows
    this one.
    """
    before = block.num_gradients
    loss_n = term(block, weight)
    if block.needs_grad and block.num_gradients == before:
        raise ValueError(
            f"{name} has no gradient, so the student learns nothing from it; do not detach the "
            "student's logits in its function, or call block.add_gradient if it takes a block"
        )
    if loss_n.shape != (block.num_rows,):
        raise ValueError(
            f"{name} has the shape {tuple(loss_n.shape)} for {block.num_rows} rows; return one "
            "number per row from its function"
        )
    return loss_n


def block_losses(
    block: Block, terms: Mapping[str, RowTerm], weights: Mapping[str, float]
) -> Tensor:
    """The sum of each term over the block's rows, in float64. The block takes their gradient."""
    losses = [term_loss(name, term, block, weights[name]).sum() for name, term in terms.items()]
    if block.needs_grad:
        block.close()
    return torch.stack(losses)


def row_loss(term: RowTerm, student_NV: Tensor, teacher_NV: Tensor | None = None) -> Tensor:
    """The loss of a term for all rows at once, [N], in float32 (float64 stays float64).

    `student_NV` and `teacher_NV` are logits [N, V]. You can differentiate the result once, with
    respect to the student's logits. For a whole vocabulary use `head.head_loss`, which never holds
    the logits of all rows.
    """
    return _RowLoss.apply(student_NV, teacher_NV, term)  # pyright: ignore[reportReturnType]


class _RowLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_NV: Tensor, teacher_NV: Tensor | None, term: RowTerm) -> Tensor:
        needs_grad = ctx.needs_input_grad[0]
        student_own_NV = floored(wide(student_NV.detach()))
        teacher_own_NV = None
        if teacher_NV is not None:
            teacher_own_NV = floored(wide(teacher_NV.detach()))
        block = Block(
            slice(0, len(student_NV)), student_own_NV, teacher_own_NV, needs_grad=needs_grad
        )
        loss_N = term_loss("a term", term, block, 1.0)
        ctx.save_for_backward(block.close() if needs_grad else None)
        ctx.dtype = student_NV.dtype
        return loss_N.to(student_own_NV.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NV,) = ctx.saved_tensors
        scaled_NV = None if grad_NV is None else grad_NV * grad_outputs[0][:, None]
        return None if scaled_NV is None else scaled_NV.to(ctx.dtype), None, None
