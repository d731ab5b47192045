"""Universal logit distillation: next-token distributions over vocabularies that share nothing.

Boizard et al. 2024, arXiv 2402.12030, section 3. Each distribution is sorted, the shorter one is
filled up with zeros, and probabilities of one rank are compared. This is the Wasserstein distance
of the two distributions when moving probability costs the same between any two tokens.
"""

# N positions, n those of one block, m those of it that are compared, V student vocabulary,
# W teacher vocabulary.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.logit_rows import Block, RowTerm, row_loss
from kdwatts.losses.rounding import tied


def universal_term(*, temperature: float = 1.0, compared_N: Tensor | None = None) -> RowTerm:
    """A term: T^2 sum |q_(i) - p_(i)| over the ranks i, [n], between 0 and 2 T^2, no unit.

    Positions where `compared_N` [N] is false have the value 0 and the gradient 0. Ranks whose
    probabilities are equal within rounding have the gradient 0.
    """

    def term(block: Block, weight: float) -> Tensor:
        q, p = block.student(temperature), block.teacher(temperature)
        q_nV, p_nW = q.probabilities(), p.probabilities()
        loss_n = q_nV.new_zeros(len(q_nV), dtype=torch.float64)
        grad_nV = torch.zeros_like(q_nV)
        kept = slice(None) if compared_N is None else compared_N[block.rows]
        q_mV = q_nV[kept]
        sorted_mV, token_mV = q_mV.sort(-1, descending=True)
        gap = _by_rank(sorted_mV, p_nW[kept].sort(-1, descending=True).values)
        loss_n[kept] = gap.abs().sum(-1).double()
        if block.needs_grad:
            gap_mV = gap[:, : q_mV.shape[-1]]
            sign_mV = gap_mV.sign().masked_fill_(tied(gap_mV.abs(), sorted_mV), 0.0)
            slope_mV = torch.zeros_like(q_mV).scatter_(-1, token_mV, sign_mV)
            mean_m1 = (slope_mV * q_mV).sum(-1, keepdim=True)
            grad_nV[kept] = slope_mV.sub_(mean_m1).mul_(q_mV)
            block.add_gradient(grad_nV, weight * temperature)
        return temperature**2 * loss_n

    return term


def _by_rank(one_mV: Tensor, other_mW: Tensor) -> Tensor:
    """one - other, the shorter followed by zeros."""
    width = max(one_mV.shape[-1], other_mW.shape[-1])
    one, other = (F.pad(x, (0, width - x.shape[-1])) for x in (one_mV, other_mW))
    return one - other


def universal(
    student_NV: Tensor,
    teacher_NW: Tensor,
    *,
    temperature: float = 1.0,
    compared_N: Tensor | None = None,
) -> Tensor:
    """The loss of `universal_term` for logits [N, V] and [N, W], per position [N], no unit.

    The two vocabularies V and W may differ. You can differentiate it with respect to the student's
    logits.
    """
    term = universal_term(temperature=temperature, compared_N=compared_N)
    return row_loss(term, student_NV, teacher_NW)
