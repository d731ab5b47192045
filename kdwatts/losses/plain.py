"""Divergences as plain functions of logits, which autograd differentiates.

You need no closed form of the gradient. Autograd forms the gradient one block of rows at a time, so
its memory is that of one block.
"""

# n positions of one block, V vocabulary.

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from kdwatts.losses.logit_rows import Block

OPTIONS = ("temperature", "beta", "skew")
"""Parameters that a divergence may have besides the logits. It is given those it has."""


def plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A divergence made from a plain function of two logits [n, V] to one value per row [n].

    `function(student_nV, teacher_nV)` must be differentiable. It gets both logits in float32
    (float64 stays float64) and must overwrite neither. Its logits are already divided by the
    temperature, and its value is multiplied by the temperature squared. A function with a parameter
    `temperature` gets the temperature and the logits as they are. A function with a parameter
    `beta` or `skew` gets that option.

    Raises ValueError when the function needs any other argument, and when its value or its gradient
    is not finite though the logits are.
    """
    name = getattr(function, "__name__", str(function))
    takes_temperature = "temperature" in named_options(function)

    @wraps(function)
    def divergence(
        block: Block, weight: float, *, temperature: float = 1.0, **options: float
    ) -> Tensor:
        student_nV, teacher_nV = block.logits()
        no_autocast = torch.autocast(student_nV.device.type, enabled=False)
        with torch.set_grad_enabled(block.needs_grad), no_autocast:
            student_nV = student_nV.detach().requires_grad_(block.needs_grad)
            if takes_temperature:
                loss_n = function(student_nV, teacher_nV, temperature=temperature, **options)
            else:
                scaled = (student_nV / temperature, teacher_nV / temperature)
                loss_n = function(*scaled, **options) * temperature**2
            if not isinstance(loss_n, Tensor):
                raise ValueError(
                    f"the divergence {name} returns a {type(loss_n).__name__}; return a tensor "
                    "with one number per row"
                )
            gradients = []
            if loss_n.requires_grad:
                reached = torch.autograd.grad(loss_n.sum(), student_nV, allow_unused=True)
                gradients = [grad_nV for grad_nV in reached if grad_nV is not None]
        if not _is_finite(loss_n, *gradients) and _is_finite(student_nV, teacher_nV):
            raise ValueError(
                f"the divergence {name} has a value or a gradient that is not finite (NaN or "
                "infinite), though the logits are finite; use log_softmax in it, which stays "
                "finite where a probability is 0"
            )
        for grad_nV in gradients:
            block.add_gradient(grad_nV, weight)
        return loss_n.detach().double()

    return divergence


def named_options(divergence: Callable[..., object]) -> list[str]:
    """Those of `OPTIONS` that the divergence has as parameters.

    Raises ValueError when it needs any other argument.
    """
    parameters = list(inspect.signature(divergence).parameters.values())
    needed = [
        each.name
        for each in parameters[2:]
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if unknown := [name for name in needed if name not in OPTIONS]:
        raise ValueError(
            f"the divergence {getattr(divergence, '__name__', divergence)} needs "
            f"{', '.join(unknown)}, but it is only given the logits of student and teacher, and "
            f"{', '.join(OPTIONS)} if it has such parameters; give the other parameters defaults"
        )
    return [each.name for each in parameters if each.name in OPTIONS]


def _is_finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
