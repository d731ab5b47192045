"""The fused kernel of the response head on a GPU beside float64, or why it is not used there."""

# N positions, V vocabulary, K tokens named.

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from kdwatts.doctor.numbers.cases_of_terms import PRODUCT, drawn
from kdwatts.doctor.numbers.terms_in_float64 import Agreement, distance
from kdwatts.doctor.numbers.verdicts_on_terms import Examined, verdict_on
from kdwatts.doctor.patient import Patient
from kdwatts.losses import fused_choice
from kdwatts.losses.fused_plan import plan_of
from kdwatts.losses.fused_rows import fused_losses
from kdwatts.losses.logit_rows import Block, RowTerm, block_losses
from kdwatts.losses.response import CLOSED_FORMS, dense_term
from kdwatts.losses.sparse import TopK, cross_entropy_term, sampled_term, top_k_of, top_k_term
from kdwatts.records.doctor_record import Verdict

FUSED_KINDS = (*CLOSED_FORMS, "top_k", "sampled")
"""What the kernel knows: the closed forms, and teachers that name tokens."""
WEIGHTS = {"ce": 0.1, "kd": 0.9}
TEMPERATURE = 2.0

VALUE_TOLERANCE = 1e-4
"""Relative. Sums of float32 over a vocabulary, which are added up in float64."""
SLOPE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-3}
"""Relative. bfloat16 keeps 8 bits: a slope that is written in it is rounded by 4e-3 at most."""
EDGE = 5
"""By how much a total variation's slopes may be farther: they turn where probabilities are equal
within rounding."""


def fused_terms(
    kind: str, teacher_NV: Tensor, temperature: float, device: torch.device
) -> dict[str, RowTerm]:
    """Cross entropy, and a term of this kind, on a device for logits [N, V] of a teacher.

    Which tokens they name is decided on the CPU: of equal logits, devices may name others.
    """
    teacher_NV = teacher_NV.float().cpu()
    target_N = torch.arange(len(teacher_NV), device=device) * 37
    terms: dict[str, RowTerm] = {"ce": cross_entropy_term(target_N)}
    if kind == "top_k":
        top = top_k_of(teacher_NV, k=64, temperature=temperature)
        on_device = TopK(*(part.to(device) for part in (top.ids_NK, top.log_p_NK, top.log_tail_N)))
        terms["kd"] = top_k_term(on_device, temperature=temperature)
    elif kind == "sampled":
        ids_NK = teacher_NV.topk(12).indices.to(device)
        share_NK = torch.full_like(ids_NK, 1, dtype=torch.float32) / 12
        terms["kd"] = sampled_term(ids_NK, share_NK, temperature=temperature)
    else:
        terms["kd"] = dense_term(kind, temperature=temperature)
    return terms


def both_logits(
    positions: int, vocabulary: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits [N, V] of a student and of a teacher, drawn."""
    student_NV, teacher_NV = (
        (3 * drawn(seed, positions, vocabulary)).to(device, dtype) for seed in (0, 1)
    )
    return student_NV, teacher_NV


def compared_fused(
    kind: str, student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = TEMPERATURE
) -> Agreement:
    """Losses and gradient of logits [N, V] by the kernel, beside float64 on the CPU.

    Where the kernel is not for the device, the plain form is compared in the logits' own dtype. The
    student's logits are overwritten.
    """
    rows, device, dtype = slice(0, len(student_NV)), student_NV.device, student_NV.dtype
    slope_NV, wide_teacher_NV = (logits.cpu().double() for logits in (student_NV, teacher_NV))
    on_cpu, terms = (
        fused_terms(kind, teacher_NV, temperature, each) for each in (torch.device("cpu"), device)
    )
    expected = block_losses(Block(rows, slope_NV, wide_teacher_NV), on_cpu, WEIGHTS)
    if fused_choice.runs_on(device):
        plan = plan_of(terms, WEIGHTS)
        assert plan, "the kernel knows each of FUSED_KINDS"
        found = fused_losses(plan, rows, student_NV, teacher_NV, needs_grad=True).cpu()
    else:
        found = block_losses(Block(rows, student_NV, teacher_NV), terms, WEIGHTS)
    return Agreement(
        named(kind, dtype),
        float(((found - expected).abs() / expected.abs()).max()),
        distance([student_NV], [slope_NV]),
        VALUE_TOLERANCE,
        SLOPE_TOLERANCE[dtype] * (EDGE if kind == "total_variation" else 1),
    )


def named(kind: str, dtype: torch.dtype) -> str:
    """A kind of loss and the type of its logits, in words."""
    return f"{kind} of {str(dtype).removeprefix('torch.')}"


@contextmanager
def untried_kernel() -> Iterator[None]:
    """As if the kernel were refused nowhere. What was known of it is known again later."""
    refused = dict(fused_choice.refused)
    fused_choice.refused.clear()
    try:
        yield
    finally:
        fused_choice.refused.clear()
        fused_choice.refused.update(refused)


def refusal_of(kind: str, student_NV: Tensor, teacher_NV: Tensor) -> str | None:
    """Why the head takes the plain form for logits [N, V] like these; None where it does not."""
    terms = fused_terms(kind, teacher_NV, TEMPERATURE, student_NV.device)
    rows = slice(0, len(student_NV))
    plan = fused_choice.agreed_plan(terms, WEIGHTS, rows, student_NV, teacher_NV, needs_grad=True)
    if plan is not None:
        return None
    return fused_choice.refused.get(student_NV.device, "it does not know these terms")


def look_at_fused_head(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """`fused_head`: whether the kernel runs, and whether it computes what it should."""
    device = torch.device(patient.device)
    if not fused_choice.runs_on(device):
        found = "not looked at: the kernel is for CUDA, and the plain form runs on a CPU"
        yield Verdict("fused_head", None, found)
        return
    try:
        with untried_kernel():
            yield examine_kernel(device, PRODUCT.positions, PRODUCT.vocabulary, seconds)
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def examine_kernel(
    device: torch.device, positions: int, vocabulary: int, seconds: float
) -> Verdict:
    """The verdict on the kernel with logits [N, V] of this size, within about so many seconds."""
    until_s = time.monotonic() + seconds
    examined, against = Examined(), "the plain form in float64"
    for dtype, kind in itertools.product(SLOPE_TOLERANCE, FUSED_KINDS):
        logits = both_logits(positions, vocabulary, dtype, device)
        name = named(kind, dtype)
        if time.monotonic() < until_s and (reason := refusal_of(kind, *logits)):
            found = (
                f"the fused kernel is not used for {name}: {reason}; the plain form runs, which "
                "is right, but slower, and needs more memory"
            )
            remedy = (
                "install the triton of this torch and a C compiler; where the two forms differ, "
                "try another version of triton or of the driver"
            )
            return Verdict("fused_head", "attention", found, against, remedy)
        examined.look(name, partial(compared_fused, kind, *logits), until_s)
    what = f"losses of the fused kernel with a vocabulary of {vocabulary:,}"
    allowed = "; slopes at most 0.01 % off in float32, 0.5 % in bfloat16"
    return verdict_on("fused_head", what, examined, against=against + allowed)
