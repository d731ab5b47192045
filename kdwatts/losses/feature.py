"""Distances between the hidden states of paired blocks: one value per position."""

# N positions compared, D width shared by both sides (the student's after its projector).

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.rounding import wide
from kdwatts.runtime import plugins

NORM_EPSILON = 1e-6
"""Added to the mean square before its root, as the models' own norms do."""
LEAST_NORM = 1e-8
"""Rows of a smaller norm have no direction. It is torch's own default."""


def rms_normalized(hidden_ND: Tensor) -> Tensor:
    """Rows [N, D] divided each by its root mean square, in float32 (float64 stays float64)."""
    wide_ND = wide(hidden_ND)
    return wide_ND * (wide_ND.square().mean(-1, keepdim=True) + NORM_EPSILON).rsqrt()


def normalized_mse(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Mean squared difference of normalised rows [N, D]: one value per position [N], no unit.

    Each row is first divided by its root mean square. So the value equals 2 (1 - cos): it is 0 for
    parallel rows, 2 for orthogonal rows and 4 for opposite rows, whatever the norms of the two
    models are.

    Raises ValueError when the shapes differ.
    """
    return mse(rms_normalized(student_ND), rms_normalized(teacher_ND))


def mse(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Mean squared difference of rows [N, D]: one value per position [N], in the states' own scale.

    FitNets, arXiv 1412.6550, section 2.2. A few large channels, and the first token of a row, may
    dominate the value.

    Raises ValueError when the shapes differ.
    """
    _check_shapes(student_ND, teacher_ND)
    return (wide(student_ND) - wide(teacher_ND)).square().mean(-1)


def cosine(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Cosine distance 1 - cos of rows [N, D]: one value per position [N], no unit.

    A row of length 0 has no direction. Its gradient is 0.

    Raises ValueError when the shapes differ.
    """
    _check_shapes(student_ND, teacher_ND)
    student_ND = wide(student_ND)
    cos_N = F.cosine_similarity(student_ND, wide(teacher_ND), dim=-1, eps=LEAST_NORM)
    # torch divides a shorter row by this norm: its slope would be the reciprocal.
    is_long_N = student_ND.detach().norm(dim=-1) > LEAST_NORM
    return 1 - torch.where(is_long_N, cos_N, cos_N.detach())


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normalized_mse": normalized_mse,
    "mse": mse,
    "cosine": cosine,
}


def distance_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance with this name, ours or an installed package's, of two [N, D] as [N]."""
    return DISTANCES.get(name) or plugins.load(plugins.DISTANCES, name)


def _check_shapes(student_ND: Tensor, teacher_ND: Tensor) -> None:
    if student_ND.shape != teacher_ND.shape:
        raise ValueError(
            f"feature: student states are {tuple(student_ND.shape)}, but teacher states are "
            f"{tuple(teacher_ND.shape)}; project the student to the teacher's width first"
        )
