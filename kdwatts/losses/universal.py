"""Universal logit distillation: next-token distributions over vocabularies that share nothing.

Boizard et al. 2024, arXiv 2402.12030, section 3. Each distribution is sorted, the shorter one is
filled up with zeros, and probabilities of one rank are compared. This is the Wasserstein distance
of the two distributions when moving probability costs the same between any two tokens.
"""

# N positions, n those of one block, m those of it that are compared, V student vocabulary,
# W teacher vocabulary.

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.logit_rows import Block, RowTerm, Softmax, row_loss
from kdwatts.losses.rounding import tied
from kdwatts.runtime.sending import send


def universal_term(*, temperature: float = 1.0, compared_N: Tensor | None = None) -> RowTerm:
    """A term: T^2 sum |q_(i) - p_(i)| over the ranks i, [n], between 0 and 2 T^2, no unit.

    Positions where `compared_N` [N] is false have the value 0 and the gradient 0. Nothing of them
    is sorted. Give it in the CPU's memory: it decides how many positions are sorted. Ranks whose
    probabilities are equal within rounding have the gradient 0.
    """
    places = None if compared_N is None else _places(compared_N)

    def term(block: Block, weight: float) -> Tensor:
        q, p = block.student(temperature), block.teacher(temperature)
        place_m = places and places(block.rows, q.exp_nV.device)
        q_mV, p_mW = _probabilities(q, place_m), _probabilities(p, place_m)
        sorted_mV, token_mV = q_mV.sort(-1, descending=True)
        gap = _by_rank(sorted_mV, p_mW.sort(-1, descending=True).values)
        if block.needs_grad:
            gap_mV = gap[:, : q_mV.shape[-1]]
            sign_mV = gap_mV.sign().masked_fill_(tied(gap_mV.abs(), sorted_mV), 0.0)
            slope_mV = torch.zeros_like(q_mV).scatter_(-1, token_mV, sign_mV)
            mean_m1 = (slope_mV * q_mV).sum(-1, keepdim=True)
            grad_mV = slope_mV.sub_(mean_m1).mul_(q_mV)
            block.add_gradient(_spread(grad_mV, place_m, block.num_rows), weight * temperature)
        return temperature**2 * _spread(gap.abs().sum(-1).double(), place_m, block.num_rows)

    return term


def _places(compared_N: Tensor) -> Callable[[slice, torch.device], Tensor]:
    """What gives the places [m] in some rows of those that are compared, on a device."""
    place_M = np.flatnonzero(compared_N.cpu().numpy())
    sent = cache(partial(send, torch.from_numpy(place_M)))

    def places(rows: slice, device: torch.device) -> Tensor:
        start, stop = np.searchsorted(place_M, [rows.start, rows.stop])
        return sent(device)[start:stop] - rows.start

    return places


def _probabilities(softmax: Softmax, place_m: Tensor | None) -> Tensor:
    """Probabilities [m, V] of the rows of a block that are compared: of all rows without places."""
    if place_m is None:
        return softmax.probabilities()
    return softmax.exp_nV.index_select(0, place_m) * softmax.scale_n1.index_select(0, place_m)


def _spread(part_m: Tensor, place_m: Tensor | None, num_rows: int) -> Tensor:
    """Values [n, ...] of all rows of a block: zero where `place_m` does not name the row."""
    if place_m is None:
        return part_m
    return part_m.new_zeros(num_rows, *part_m.shape[1:]).index_copy_(0, place_m, part_m)


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
