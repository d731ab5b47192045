"""The losses of a chunk of rows by one kernel, which leaves the gradient in place of the logits.

The kernel (`losses.fused_kernels`) reads and writes what is as wide as the vocabulary. The values
are formed here from its sums, in float64, and the gradient of named tokens is put in its place.
"""

# n rows of a chunk, V vocabulary, J tokens that the terms of a row name, K those of a top-k term,
# B its bins, C sums of a row.

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdwatts.losses import fused_kinds as kinds
from kdwatts.losses.fused_plan import Plan, options_of
from kdwatts.losses.logit_rows import RowTerm
from kdwatts.losses.named_tokens import NamedTokens, named_tokens
from kdwatts.losses.response import DenseTerm
from kdwatts.losses.sparse import SampledTerm, TopKTerm


def fused_losses(
    plan: Plan, rows: slice, student_nV: Tensor, teacher_nV: Tensor | None, *, needs_grad: bool
) -> Tensor:
    """The sum of each term over the rows, in float64, in the order of the plan's terms.

    `student_nV` and `teacher_nV` [n, V] are logits in float32 or bfloat16, each row without gaps.
    With `needs_grad` the student's become the gradient of the weighted sum; without it, what they
    hold afterwards is not defined. The teacher's are only read.
    """
    if not len(student_nV):
        return torch.zeros(len(plan.terms), dtype=torch.float64, device=student_nV.device)
    tokens = named_tokens(plan, rows, student_nV, teacher_nV)
    sums = _launch(plan, student_nV, teacher_nV, tokens, needs_grad=needs_grad)
    if needs_grad and tokens.ids_nJ.shape[1]:
        # Rounded once: the dense gradient and what is named were added in float32.
        exact_nJ = tokens.gradient_nJ + tokens.amount_nJ
        student_nV.scatter_(1, tokens.ids_nJ, exact_nJ.to(student_nV.dtype))
    return _values(plan, tokens, sums)


@dataclass(frozen=True, eq=False)
class _Sums:
    """What the kernel found of each row: [n, 1] in float64."""

    most_n1: Tensor
    """The student's largest logit."""
    other_total_n1: Tensor
    """Sum of exp((z - most) / T) at the other temperature."""
    total_n1: Tensor
    teacher_total_n1: Tensor
    value_n1: Tensor
    rest_n1: Tensor
    """`total_n1` without the tokens of a top-k teacher."""
    mean_n1: Tensor
    """The mean slope under the student's distribution."""


def _launch(
    plan: Plan,
    student_nV: Tensor,
    teacher_nV: Tensor | None,
    tokens: NamedTokens,
    *,
    needs_grad: bool,
) -> _Sums:
    from kdwatts.losses import fused_kernels

    kernel: Any = fused_kernels.row_kernel

    count, width = student_nV.shape
    sums_Cn = torch.empty(7, count, dtype=torch.float32, device=student_nV.device)
    nothing_n = torch.zeros(count, dtype=torch.float32, device=student_nV.device)
    other = plan.other_temperature
    set_aside_nK = tokens.student_nJ
    for name, term in plan.terms.items():
        if isinstance(term, TopKTerm):
            set_aside_nK = tokens.student_nJ[:, tokens.columns[name]].contiguous()
    is_top_k, num_at = plan.kind == kinds.TOP_K, tokens.ids_nJ.shape[1]
    factor, odds, log_share = options_of(plan)
    if teacher_nV is None or not plan.is_dense:
        teacher_nV = student_nV
    with _current(student_nV.device):
        kernel[(count,)](
            student_nV,
            teacher_nV,
            sums_Cn,
            nothing_n if other is None else tokens.drawn.get(other, nothing_n),
            tokens.drawn.get(plan.temperature, nothing_n),
            set_aside_nK,
            tokens.tail_n if is_top_k else nothing_n,
            tokens.student_nJ,
            tokens.teacher_nJ,
            tokens.set_aside_nJ,
            tokens.gradient_nJ,
            student_nV.stride(0),
            teacher_nV.stride(0),
            count,
            width,
            set_aside_nK.shape[1],
            num_at,
            1 / (other or 1.0),
            1 / plan.temperature,
            factor,
            odds,
            log_share,
            KIND=plan.kind,
            TWO=other is not None,
            GRADIENT=needs_grad,
            SET_ASIDE=_power_of_2(set_aside_nK.shape[1]) if is_top_k else 0,
            AT=_power_of_2(num_at) if needs_grad and num_at else 0,
            BLOCKS=-(-width // kinds.BLOCK),
            BLOCK=kinds.BLOCK,
            num_warps=kinds.NUM_WARPS,
        )
    return _Sums(*sums_Cn.double()[:, :, None])


def _values(plan: Plan, tokens: NamedTokens, sums: _Sums) -> Tensor:
    return torch.stack(
        [_value(plan, name, term, tokens, sums).sum() for name, term in plan.terms.items()]
    )


def _value(plan: Plan, name: str, term: RowTerm, tokens: NamedTokens, sums: _Sums) -> Tensor:
    """The term's value for each row, up to how it is summed over more columns."""
    if isinstance(term, DenseTerm):
        return term.temperature**2 * _dense_value(plan, term, sums)
    assert isinstance(term, (SampledTerm, TopKTerm)) and tokens.share_nJ is not None
    columns, temperature = tokens.columns[name], term.temperature
    is_main = temperature == plan.temperature
    log_total_n1 = (sums.total_n1 if is_main else sums.other_total_n1).log()
    shifted_nJ = tokens.student_nJ[:, columns].double() - sums.most_n1
    log_q_nJ = shifted_nJ / temperature - log_total_n1
    if isinstance(term, SampledTerm):
        share_nJ = tokens.share_nJ[:, columns]
        return temperature**2 * (torch.xlogy(share_nJ, share_nJ) - share_nJ * log_q_nJ)
    assert tokens.log_p_nB is not None
    log_q_nB = torch.cat([log_q_nJ, sums.rest_n1.log() - log_total_n1], dim=-1)
    p_nB = tokens.log_p_nB.exp()
    kl_nB = torch.where(p_nB > 0, p_nB * (tokens.log_p_nB - log_q_nB), 0.0)
    return temperature**2 * kl_nB


def _dense_value(plan: Plan, term: DenseTerm, sums: _Sums) -> Tensor:
    shift_n1 = sums.teacher_total_n1.log() - sums.total_n1.log()
    if plan.kind == kinds.FORWARD_KL:
        return sums.value_n1 / sums.teacher_total_n1 - shift_n1
    if plan.kind == kinds.REVERSE_KL:
        return sums.value_n1 / sums.total_n1 + shift_n1
    if plan.kind == kinds.JSD:
        beta = term.options["beta"]
        return beta * sums.value_n1 + (1 - beta) * sums.mean_n1
    return sums.value_n1 / (2 if plan.kind == kinds.TOTAL_VARIATION else 1)


def scale_in_place(values: Tensor, scale: Tensor) -> None:
    """Multiply `values` of any shape by the scalar tensor, which the CPU need not know.

    Where the scale is 1, nothing is read or written.
    """
    from kdwatts.losses import fused_kernels

    kernel: Any = fused_kernels.scale_kernel

    count = values.numel()
    assert values.is_contiguous()
    with _current(values.device):
        kernel[(-(-count // kinds.BLOCK),)](
            values, scale, count, BLOCK=kinds.BLOCK, num_warps=kinds.NUM_WARPS
        )


def _power_of_2(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
