"""Relational distillation: the student copies how the teacher's embeddings lie to each other.

Park et al. 2019, arXiv 1904.05068, section 3.2. Both losses are invariant to the scale of either
network's embeddings. They work in float32 (float64 stays float64), under autocast too.
"""

# G embeddings of one group, D width (need not be the same in both models).

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.precision import wide

TINY = 1e-12
"""Squared length below which two embeddings coincide: they have no direction and no gradient."""


def mean_pool(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the hidden states at the positions where `mask_BT` is true, [B, D], in float32."""
    kept_BTD = wide(hidden_BTD).masked_fill(~mask_BT[..., None], 0.0)
    return kept_BTD.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)


def pairwise_distances(embedding_GD: Tensor) -> Tensor:
    """Euclidean distances of the G (G - 1) / 2 pairs over their mean, no unit.

    The mean is over the pairs that do not coincide, per network (Park et al. 2019, equation 5).
    """
    first, second = torch.triu_indices(len(embedding_GD), len(embedding_GD), offset=1)
    squared = (embedding_GD[first] - embedding_GD[second]).square().sum(-1)
    distinct = squared > TINY
    distance = torch.where(distinct, squared.clamp(min=TINY).sqrt(), 0.0)
    return distance / (distance.sum() / distinct.sum().clamp(min=1)).clamp(min=TINY**0.5)


def triplet_cosines(embedding_GD: Tensor) -> Tensor:
    """cos of the angle at j between i and k, for all ordered triplets of distinct i, j, k.

    Park et al. 2019, equation 7.
    """
    # Edge from j to i at [j, i]; its own diagonal has no direction and is cut out below.
    edge_GGD = embedding_GD[None] - embedding_GD[:, None]
    squared_GG1 = edge_GGD.square().sum(-1, keepdim=True)
    inverse_GG1 = torch.where(squared_GG1 > TINY, squared_GG1.clamp(min=TINY).rsqrt(), 0.0)
    direction_GGD = edge_GGD * inverse_GG1
    # Autocast would round the cosines to bfloat16, three digits, and the loss is their difference.
    with torch.autocast(embedding_GD.device.type, enabled=False):
        cosine_GGG = direction_GGD @ direction_GGD.mT
    distinct = ~torch.eye(len(embedding_GD), dtype=torch.bool, device=embedding_GD.device)
    return cosine_GGG[distinct[:, :, None] & distinct[:, None, :] & distinct[None]]


def distance_loss(student_GD: Tensor, teacher_GD: Tensor) -> Tensor:
    """Huber loss (delta 1) between normalised distances, mean over pairs, no unit."""
    return F.smooth_l1_loss(
        pairwise_distances(wide(student_GD)), pairwise_distances(wide(teacher_GD))
    )


def angle_loss(student_GD: Tensor, teacher_GD: Tensor) -> Tensor:
    """Huber loss (delta 1) between triplet cosines, mean over triplets, no unit."""
    return F.smooth_l1_loss(triplet_cosines(wide(student_GD)), triplet_cosines(wide(teacher_GD)))


def relational_loss(
    student_BD: Tensor,
    teacher_BD: Tensor,
    *,
    group_size: int,
    distance_weight: float,
    angle_weight: float,
) -> Tensor:
    """Weighted distance and angle loss, summed over groups of `group_size` consecutive embeddings.

    Groups are explicit, so the loss of a step does not depend on how it is cut into micro-batches.
    Raises ValueError when B is no multiple of the group.
    """
    if len(student_BD) % group_size or len(student_BD) != len(teacher_BD):
        raise ValueError(
            f"relational: {len(student_BD)} student and {len(teacher_BD)} teacher embeddings do "
            f"not form groups of {group_size}; make training.micro_batch a multiple of group_size"
        )
    total = student_BD.new_zeros((), dtype=torch.float32)
    for student_GD, teacher_GD in zip(
        student_BD.split(group_size), teacher_BD.split(group_size), strict=True
    ):
        if distance_weight:
            total = total + distance_weight * distance_loss(student_GD, teacher_GD)
        if angle_weight:
            total = total + angle_weight * angle_loss(student_GD, teacher_GD)
    return total
