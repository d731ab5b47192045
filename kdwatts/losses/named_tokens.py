"""The tokens that the terms of a row name: targets, and those of a teacher that names a few.

The fused kernel goes over whole rows. What terms say of single tokens is gathered before it, and
added to the gradient after it.
"""

# n rows of a chunk, V vocabulary, J tokens that the terms of a row name, K those of a top-k term,
# B its bins.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdwatts.losses.fused_plan import Plan
from kdwatts.losses.sparse import SampledTerm, TopKTerm


@dataclass(frozen=True, eq=False)
class NamedTokens:
    """What the terms name, side by side in the order of the terms."""

    ids_nJ: Tensor
    columns: Mapping[str, slice]
    """Those of each term."""
    student_nJ: Tensor
    """The student's logits there, in float32."""
    teacher_nJ: Tensor
    amount_nJ: Tensor
    """What terms add to the dense gradient there, equal for equal ids."""
    set_aside_nJ: Tensor
    """1 where the student's logit was set aside for a top-k teacher, else 0."""
    gradient_nJ: Tensor
    """The dense gradient there, which the kernel fills in."""
    drawn: Mapping[float, Tensor]
    """Weight [n] of the softmax of a temperature in the gradient of terms that sample."""
    log_p_nB: Tensor | None = None
    """Of a top-k teacher's bins, the last one for all other tokens, in float64."""
    share_nJ: Tensor | None = None
    """Of terms that sample: how often each token was drawn, in float64."""

    @property
    def tail_n(self) -> Tensor:
        """The probability of all tokens that a top-k teacher does not name, in float32."""
        assert self.log_p_nB is not None
        return self.log_p_nB[:, -1].exp().float()


def named_tokens(
    plan: Plan, rows: slice, student_nV: Tensor, teacher_nV: Tensor | None
) -> NamedTokens:
    """Gather what the terms need of the tokens they name, and set a top-k teacher's aside."""
    count, device = len(student_nV), student_nV.device
    ids, amounts, shares, aside = [], [], [], []
    columns: dict[str, slice] = {}
    drawn: dict[float, Tensor] = {}
    log_p_nB, top_ids_nK = None, None
    for name, term in plan.terms.items():
        start = sum(each.shape[1] for each in ids)
        if isinstance(term, SampledTerm):
            ids_nJ, share_nJ = term.ids_NK[rows], term.share_NK[rows].double()
            factor = plan.weights[name] * term.temperature
            weight_n = (factor * share_nJ.sum(-1)).float()
            known_n = drawn.get(term.temperature)
            drawn[term.temperature] = weight_n if known_n is None else known_n + weight_n
        elif isinstance(term, TopKTerm):
            bins = term.teacher.rows(rows)
            ids_nJ = top_ids_nK = bins.ids_NK
            log_p_nB = torch.cat([bins.log_p_NK, bins.log_tail_N[:, None]], dim=-1).double()
            # Rounding in a cache leaves the bins' sum at 1 +- 1e-4: divide by it again.
            log_p_nB = log_p_nB.log_softmax(-1)
            share_nJ = log_p_nB[:, :-1].exp()
            factor = plan.weights[name] * term.temperature
        else:
            continue
        ids.append(ids_nJ)
        shares.append(share_nJ)
        amounts.append(-factor * share_nJ)
        aside.append(torch.full_like(share_nJ, float(isinstance(term, TopKTerm))))
        columns[name] = slice(start, start + ids_nJ.shape[1])
    if not ids:
        ids.append(torch.empty(count, 0, dtype=torch.long, device=device))
        shares.append(torch.empty(count, 0, dtype=torch.float64, device=device))
        amounts, aside = shares, shares
    ids_nJ = torch.cat(ids, 1)
    student_nJ = student_nV.gather(1, ids_nJ)
    teacher_nJ = teacher_nV.gather(1, ids_nJ) if plan.is_dense and teacher_nV is not None else None
    if top_ids_nK is not None:
        student_nV.scatter_(1, top_ids_nK, -torch.inf)
    amount_nJ, aside_nJ = torch.cat(amounts, 1), torch.cat(aside, 1)
    if len(columns) > 1 or ids_nJ.shape[1] > 1:
        amount_nJ, aside_nJ = _by_token(ids_nJ, amount_nJ, aside_nJ)
    student_nJ = student_nJ.float()
    return NamedTokens(
        ids_nJ=ids_nJ,
        columns=columns,
        student_nJ=student_nJ,
        teacher_nJ=student_nJ if teacher_nJ is None else teacher_nJ.float(),
        amount_nJ=amount_nJ.float(),
        set_aside_nJ=aside_nJ.float(),
        gradient_nJ=torch.empty_like(student_nJ),
        drawn=drawn,
        log_p_nB=log_p_nB,
        share_nJ=torch.cat(shares, 1),
    )


def _by_token(ids_nJ: Tensor, *amounts_nJ: Tensor) -> list[Tensor]:
    """Each amount summed over all places of its row that name the same token."""
    sorted_nJ = ids_nJ.sort(-1).values
    first_nJ = torch.searchsorted(sorted_nJ, ids_nJ.contiguous())
    return [
        torch.zeros_like(amount_nJ).scatter_add_(-1, first_nJ, amount_nJ).gather(-1, first_nJ)
        for amount_nJ in amounts_nJ
    ]
