"""Which blocks of two models say alike things: linear centred kernel alignment (CKA).

Kornblith et al. 2019, arXiv 1905.00414, section 3: CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),
with K = X Xᵀ and L = Y Yᵀ over the same positions, centred. With the plain estimate of HSIC, CKA is
‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖). This estimate is near 1 for any two wide blocks when there are fewer
positions than widths: independent noise of width 4,096 at 2,048 positions has 0.67. Here HSIC is
the unbiased estimate (Song et al. 2012, Journal of Machine Learning Research 13, equation 4). Noise
then has 0, and the two estimates agree when there are many positions.
"""

# N positions, D width of a block, S student blocks, T teacher blocks.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdwatts.models.layers import LayerPairs

MIN_POSITIONS = 4
"""The unbiased estimate divides by N - 3."""


def unbiased_gram(state_ND: Tensor) -> Tensor:
    """Inner products [N, N] of the states [N, D] at all positions, centred, float64.

    The diagonal is 0.

    The inner product of two such matrices over N (N - 3) is the unbiased estimate of HSIC (Szekely
    and Rizzo 2014, Annals of Statistics 42, section 3: U-centring).

    Raises ValueError for fewer than four positions.
    """
    num = len(state_ND)
    if num < MIN_POSITIONS:
        raise ValueError(
            f"cka: {num} positions are too few to compare blocks, which takes at least "
            f"{MIN_POSITIONS}; raise training.sequence_length, or add text"
        )
    # The mean drops out below; without it, large common offsets would cost digits.
    centred_ND = state_ND.double() - state_ND.double().mean(0)
    gram_NN = (centred_ND @ centred_ND.T).fill_diagonal_(0.0)
    row_N = gram_NN.sum(1) / (num - 2)
    total = gram_NN.sum() / ((num - 1) * (num - 2))
    return (gram_NN - row_N[:, None] - row_N[None] + total).fill_diagonal_(0.0)


def cka_table(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Linear CKA [S, T] of each student block with each teacher block, from their unbiased grams.

    A value is at most 1 and has no unit. Independent blocks scatter around 0, some below it.
    """
    table_ST = [[(mine * theirs).sum() for theirs in teacher] for mine in student]
    norms_S, norms_T = (
        torch.stack([gram.norm() for gram in grams]) for grams in (student, teacher)
    )
    scale_ST = (norms_S[:, None] * norms_T).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.stack([torch.stack(row) for row in table_ST]) / scale_ST


def best_pairs(table_ST: Tensor, num_pairs: int) -> LayerPairs:
    """The `num_pairs` pairs (student block, teacher block) of highest total CKA, ascending.

    `table_ST` [S, T] is that of `cka_table`. No block is used twice, and a later student block has
    a later teacher block. The best match of each block alone could name one teacher block for all,
    or go against the depth. With `num_pairs` 0 there are as many pairs as the shallower model
    allows.

    Raises ValueError for more pairs than that.
    """
    num_student, num_teacher = table_ST.shape
    most = min(num_student, num_teacher)
    if num_pairs > most:
        raise ValueError(
            f"paradigm.feature.num_pairs={num_pairs} is too many for models of {num_student} and "
            f"{num_teacher} blocks; give at most {most}"
        )
    num_pairs = num_pairs or most
    value = table_ST.tolist()
    none = float("-inf")
    # best[k][s][t]: the highest total of k pairs among the first s and the first t blocks.
    best = [[[0.0] * (num_teacher + 1) for _ in range(num_student + 1)]]
    for k in range(1, num_pairs + 1):
        before, now = best[-1], [[none] * (num_teacher + 1) for _ in range(num_student + 1)]
        for s in range(k, num_student + 1):
            for t in range(k, num_teacher + 1):
                paired = before[s - 1][t - 1] + value[s - 1][t - 1]
                now[s][t] = max(now[s - 1][t], now[s][t - 1], paired)
        best.append(now)
    pairs: LayerPairs = []
    k, s, t = num_pairs, num_student, num_teacher
    while k:
        if best[k][s][t] == best[k][s - 1][t]:
            s -= 1
        elif best[k][s][t] == best[k][s][t - 1]:
            t -= 1
        else:
            k, s, t = k - 1, s - 1, t - 1
            pairs.append((s, t))
    return pairs[::-1]
