"""Divergences as plain functions of logits, whose gradient autograd forms block by block."""

# n positions of one block, V vocabulary.

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from kdwatts.losses.logit_rows import Block


def plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A divergence of a differentiable function of student's and teacher's logits [n, V] to [n].

    Autograd forms its gradient, block by block. What a divergence is given besides the block and
    the weight (`temperature` and its options) is given to the function, which sees both logits in
    float32 (float64 stays float64) and may overwrite neither.
    """

    @wraps(function)
    def divergence(block: Block, weight: float, **options: float) -> Tensor:
        student_nV, teacher_nV = block.logits()
        no_autocast = torch.autocast(student_nV.device.type, enabled=False)
        with torch.set_grad_enabled(block.needs_grad), no_autocast:
            student_nV = student_nV.detach().requires_grad_(block.needs_grad)
            loss_n = function(student_nV, teacher_nV, **options)
            if loss_n.requires_grad:
                (grad_nV,) = torch.autograd.grad(loss_n.sum(), student_nV)
                block.add_gradient(grad_nV, weight)
        return loss_n.detach().double()

    return divergence
