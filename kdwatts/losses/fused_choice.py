"""Whether the fused kernel computes a head's losses: on a GPU, once it agreed with the plain form.

On a GPU that nobody tried, the kernel may be compiled wrongly, or not at all. So before the first
chunk of each kind, made-up logits go through the kernel, and in float32 through the plain form. If
the two differ, or if the kernel fails, the plain form runs on this GPU from then on. The made-up
logits are the same in every run and on every rank, and part of each row's weight lies in its last
token. So the outcome does not depend on what a model says of its first text.
"""

# n rows of a chunk, V vocabulary, W teacher vocabulary.

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from kdwatts.losses import fused_kinds
from kdwatts.losses.fused_plan import Plan, num_named, plan_of
from kdwatts.losses.fused_rows import fused_losses, scale_in_place
from kdwatts.losses.logit_rows import Block, RowTerm, block_losses

log = logging.getLogger(__name__)

NUM_ROWS = 4
"""Rows that both forms compute."""
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2.0**-7}
"""Largest relative difference. bfloat16 keeps 8 digits, the last of which may be cut off."""
NOISE = 1e-5
"""Difference in nats, and in the length of a row's gradient, that is rounding."""

_agreed: set[tuple[object, ...]] = set()
refused: dict[torch.device, str] = {}
"""Where the plain form runs, and why: the kernel failed or differed, or a benchmark wants it."""


def agreed_plan(
    terms: Mapping[str, RowTerm],
    weights: Mapping[str, float],
    rows: slice,
    student_nV: Tensor,
    teacher_nW: Tensor | None,
    *,
    needs_grad: bool,
) -> Plan | None:
    """The terms for the kernel, or None where the plain form has to run.

    The plain form runs on a CPU, in float64 and float16, with terms that the kernel does not know,
    without triton, and where the two forms differ on this device.
    """
    device = student_nV.device
    if not runs_on(device) or device in refused or not len(student_nV):
        return None
    plan = plan_of(terms, weights)
    if plan is None or student_nV.dtype not in GRADIENT_TOLERANCE or student_nV.stride(1) != 1:
        return None
    if plan.is_dense:
        if teacher_nW is None or teacher_nW.shape != student_nV.shape:
            return None  # The plain form says what is wrong.
        if teacher_nW.dtype not in GRADIENT_TOLERANCE or teacher_nW.stride(1) != 1:
            return None
    teacher_dtype = teacher_nW.dtype if plan.is_dense and teacher_nW is not None else None
    two = plan.other_temperature is not None
    dtypes, width = (student_nV.dtype, teacher_dtype), student_nV.shape[1]
    # What triton compiles a kernel of its own for.
    key = (device, plan.kind, two, num_named(plan), width, *dtypes, needs_grad)
    if key not in _agreed:
        trouble = _trouble(plan, rows, student_nV, teacher_dtype, needs_grad=needs_grad)
        if trouble:
            refused[device] = trouble
            log.warning(
                "losses: the fused kernel is not used on %s, because %s; the plain form runs, "
                "which is slower",
                device,
                trouble,
            )
            return None
        _agreed.add(key)
    return plan


def runs_on(device: torch.device) -> bool:
    """Whether the kernel is for this kind of device."""
    return device.type == "cuda"


def scaled_in_place(values: Tensor, scale: Tensor) -> None:
    """Multiply `values` by the scalar tensor in place, unseen by autograd."""
    if _agreed and values.device not in refused and values.is_contiguous():
        scale_in_place(values, scale.to(values.dtype))
    else:
        values.data.mul_(scale)


def _trouble(
    plan: Plan,
    rows: slice,
    student_nV: Tensor,
    teacher_dtype: torch.dtype | None,
    *,
    needs_grad: bool,
) -> str | None:
    """What is wrong with the kernel on logits like these, or None."""
    few = min(NUM_ROWS, len(student_nV))
    part = slice(rows.start, rows.start + few)
    # At a temperature other than 1, the softmax of these is still the one that is meant.
    student, teacher = (
        plan.temperature * made_up(few, student_nV.shape[1], student_nV.device, phase=phase)
        for phase in (0.0, 1.0)
    )
    fused_nV = student.to(student_nV.dtype)
    teacher_nV = teacher.to(teacher_dtype) if teacher_dtype else None
    # The plain form overwrites both sides.
    plain_nV = fused_nV.to(torch.float32, copy=True)
    plain_teacher_nV = None
    if teacher_nV is not None:
        plain_teacher_nV = teacher_nV.to(torch.float32, copy=True)
    block = Block(part, plain_nV, plain_teacher_nV, needs_grad=needs_grad)
    expected = block_losses(block, plan.terms, plan.weights)
    # As many as fill one program and part of another.
    doubled = torch.ones(fused_kinds.BLOCK + 16, device=student_nV.device)
    try:
        found = fused_losses(plan, part, fused_nV, teacher_nV, needs_grad=needs_grad)
        found = found.cpu()
        for scale in (2.0, 1.0):
            scale_in_place(doubled, doubled.new_full((), scale))
        doubled = doubled.cpu()
    # Whatever it is that a compiler or a driver raises.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        return f"it fails ({type(error).__name__}: {reason})"
    expected = expected.cpu()
    if not torch.allclose(found, expected, LOSS_TOLERANCE, NOISE * few, equal_nan=True):
        return "its losses differ from those of the plain form"
    if needs_grad and not _close(plan, fused_nV, plain_nV):
        return "its gradients differ from those of the plain form"
    if not bool((doubled == 2).all()):
        return "it multiplies wrongly"
    return None


def made_up(num_rows: int, width: int, device: torch.device, *, phase: float) -> Tensor:
    """Logits [n, V]: waves, whose height differs by row.

    The last token has about as much weight as all others together, so that a block that is left out
    shows. In every other row the first token has it.
    """
    place_V = torch.arange(width, device=device, dtype=torch.float32)
    row_n1 = torch.arange(num_rows, device=device, dtype=torch.float32)[:, None]
    logits_nV = (1 + 1.5 * row_n1) * torch.sin(place_V * (0.37 + 0.11 * row_n1) + phase)
    height_n = logits_nV.logsumexp(-1) - phase
    logits_nV[0::2, -1] = height_n[0::2]
    logits_nV[1::2, 0] = height_n[1::2]
    return logits_nV


def _close(plan: Plan, found_nV: Tensor, expected_nV: Tensor) -> bool:
    """Whether the gradients of each row differ by rounding alone."""
    size = sum(
        abs(plan.weights[name]) * getattr(term, "temperature", 1.0)
        for name, term in plan.terms.items()
    )
    apart_n = (found_nV.float() - expected_nV).norm(dim=-1)
    length_n = expected_nV.norm(dim=-1)
    allowed_n = GRADIENT_TOLERANCE[found_nV.dtype] * length_n + NOISE * size
    both_nan_n = apart_n.isnan() & length_n.isnan()
    return bool(((apart_n <= allowed_n) | both_nan_n).all())
