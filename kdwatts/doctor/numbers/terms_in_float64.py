"""A loss on a device beside float64 on the CPU: its value and its slopes.

Both compute from the same numbers. The float64 loss is the definition, where a case has one. Where
it has none, the same code runs in float64: this examines the device and its precision, not the
formula. Then differences of float64 values examine the slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdwatts.training.autocast import autocast

Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""A scalar of the student's tensors, which are trained, and the teacher's."""

FP32_TOLERANCE = 1e-3
"""Relative. float32 rounds to 6e-8. Products in TF32 keep 11 bits, 5e-4, and may pass."""
BF16_TOLERANCE = 2e-2
"""Relative. bfloat16 keeps 8 bits: a logit of 10 is off by up to 0.03, and its probability by 3 %.
Most logits are smaller, and their errors have both signs."""
DIFFERENCE_TOLERANCE = 1e-3
"""Relative, between slopes and differences of values in float64. A tenth of a mistake of 1 %."""
DIFFERENCE_STEP = 1e-6
"""Length of the step of a difference, over the length of what is moved."""


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a loss."""

    name: str
    """fp32 or bf16, as in `training.precision`."""
    words: str
    tolerance_of_products: float
    """Largest relative error of a loss on logits, whose products are computed in this precision."""

    def rounded(self, tensors: Sequence[Tensor], *, is_student: bool) -> list[Tensor]:
        """The tensors as training holds them: a student in float32, a teacher in the precision."""
        if self.name == "fp32":
            return [tensor.float() for tensor in tensors]
        narrow = [tensor.bfloat16() for tensor in tensors]
        return [tensor.float() for tensor in narrow] if is_student else narrow


PRECISIONS = {
    "fp32": Precision("fp32", "in float32", FP32_TOLERANCE),
    "bf16": Precision("bf16", "under autocast in bfloat16", BF16_TOLERANCE),
}


@dataclass(frozen=True)
class Case:
    """A loss with the numbers that it is computed from."""

    name: str
    student: Sequence[Tensor]
    teacher: Sequence[Tensor]
    loss: Loss
    definition: Loss | None = None
    """The same loss by its formula alone, where it was written down apart from the code."""
    is_of_logits: bool = False
    """Whether it has products of states and a head. All else is in float32 in both precisions."""
    slope_slack: tuple[float, float] = (1.0, 1.0)
    """By how much slopes may be farther than values, in float32 and under autocast."""


@dataclass(frozen=True)
class Agreement:
    """How far a loss of the device is from float64. Errors are relative."""

    name: str
    value_error: float
    slope_error: float
    """Length of the difference of all slopes over that of the expected ones."""
    value_allowed: float
    slope_allowed: float
    difference_error: float | None = None
    """Of float64 slopes against differences of float64 values; None where a definition did it."""

    def compared_parts(self) -> list[tuple[str, float, float]]:
        """What was compared, its relative error, and the largest one that is allowed."""
        parts = [
            ("value", self.value_error, self.value_allowed),
            ("slopes", self.slope_error, self.slope_allowed),
        ]
        if self.difference_error is not None:
            words = "slopes against differences of values in float64"
            parts.append((words, self.difference_error, DIFFERENCE_TOLERANCE))
        return parts

    @property
    def worst_part(self) -> tuple[str, float, float]:
        """Of `compared_parts`, the one whose error is the largest share of what it may be."""
        return max(self.compared_parts(), key=lambda part: _share(part[1], part[2]))

    @property
    def excess(self) -> float:
        """That share: more than 1 is too far. Infinite for a NaN."""
        _, error, allowed = self.worst_part
        return _share(error, allowed)


def _share(error: float, allowed: float) -> float:
    return math.inf if math.isnan(error) else error / allowed


def compared(case: Case, precision: Precision, device: torch.device) -> Agreement:
    """The loss of a case on a device in a precision, beside float64 on the CPU."""
    student = precision.rounded(case.student, is_student=True)
    teacher = precision.rounded(case.teacher, is_student=False)
    wide_student, wide_teacher = ([t.double() for t in side] for side in (student, teacher))
    expected, slopes = value_and_slopes(case.definition or case.loss, wide_student, wide_teacher)
    difference_error = None
    # Once is enough: the other precision has the same code.
    if case.definition is None and precision.name == "fp32":
        difference_error = _difference_error(case.loss, wide_student, wide_teacher, slopes)
    found, found_slopes = value_and_slopes(
        case.loss,
        [tensor.to(device) for tensor in student],
        [tensor.to(device) for tensor in teacher],
        precision=precision.name,
    )
    allowed = precision.tolerance_of_products if case.is_of_logits else FP32_TOLERANCE
    return Agreement(
        case.name,
        abs(found - expected) / abs(expected) if expected else abs(found),
        distance(found_slopes, slopes),
        allowed,
        allowed * case.slope_slack[precision.name == "bf16"],
        difference_error,
    )


def value_and_slopes(
    loss: Loss,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    precision: str = "fp32",
) -> tuple[float, list[Tensor]]:
    """The value of a loss, and its slope for each tensor of the student.

    As in training, autocast covers the loss and not the way back.
    """
    student = [tensor.detach().requires_grad_() for tensor in student]
    with autocast(precision, student[0].device):
        value = loss(student, teacher)
    return value.item(), list(torch.autograd.grad(value, student))


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Length of the difference of all tensors over that of the expected ones, on the CPU."""
    pairs = list(zip(found, expected, strict=True))
    apart = sum(((one.cpu().double() - other) ** 2).sum() for one, other in pairs)
    return float((apart / sum((other**2).sum() for _, other in pairs)) ** 0.5)


@torch.no_grad()
def _difference_error(
    loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor], slopes: Sequence[Tensor]
) -> float:
    """Error of a slope against a central difference of values in float64, over the steepest slope.

    The step goes along the slopes, and as far in a direction that is drawn. So a factor is seen as
    it is, and a wrong direction in part.
    """
    generator = torch.Generator().manual_seed(17)
    steep = _length(slopes)
    drawn = [torch.randn(s.shape, generator=generator, dtype=s.dtype) for s in slopes]
    far = _length(drawn)
    direction = [s / steep + d / far for s, d in zip(slopes, drawn, strict=True)]
    step = DIFFERENCE_STEP * _length(student)
    ahead, behind = (
        loss([t + sign * step * d for t, d in zip(student, direction, strict=True)], teacher).item()
        for sign in (1, -1)
    )
    slope = sum(float((s * d).sum()) for s, d in zip(slopes, direction, strict=True))
    return abs((ahead - behind) / (2 * step) - slope) / steep


def _length(tensors: Sequence[Tensor]) -> float:
    return sum(float(tensor.square().sum()) for tensor in tensors) ** 0.5
