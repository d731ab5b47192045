"""Relational distillation: the student copies how the teacher's embeddings lie to each other.

Park et al. 2019, arXiv 1904.05068, section 3.2. Both losses are invariant to the scale of either
network's embeddings: bit for bit at powers of two, to rounding at any other factor. They work in
float32 (float64 stays float64), under autocast too.
"""

# R groups, G embeddings of one group (P pairs of them), D width (need not be the same in both
# models), B sequences, T positions, M tokens of a sequence.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.rounding import wide

TINY = 1e-12
"""Squared length, in units of the group's extent, below which two embeddings coincide: they have no
direction and no gradient."""

MIN_GROUP = 3
"""The fewest embeddings that have an angle; two have one distance, which is its own mean."""


def mean_pool(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the hidden states at the positions where `mask_BT` is true, [B, D], in float32."""
    kept_BTD = wide(hidden_BTD).masked_fill(~mask_BT[..., None], 0.0)
    return kept_BTD.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)


def unit_extent(embedding_RGD: Tensor, valid_RG: Tensor | None = None) -> Tensor:
    """Every group in float32, divided by a power of two that leaves it an extent of about 1.

    A fixed length below which embeddings coincide would make the loss depend on their scale. The
    division is exact, and the losses do not see it, so neither does their gradient. What is not
    valid is put where the group's first valid embedding is, so that its extent does not count.
    """
    embedding_RGD = wide(embedding_RGD)
    if valid_RG is None:
        first_RGD = embedding_RGD[..., :1, :]
    else:
        place_RGD = valid_RG.int().argmax(-1)[..., None, None].expand_as(embedding_RGD[..., :1, :])
        first_RGD = embedding_RGD.gather(-2, place_RGD)
        embedding_RGD = torch.where(valid_RG[..., None], embedding_RGD, first_RGD)
    extent_RGD = (embedding_RGD - first_RGD).detach().abs().amax((-2, -1), keepdim=True)
    power_RGD = torch.exp2(extent_RGD.log2().floor())
    return embedding_RGD / torch.where(extent_RGD > 0, power_RGD, 1.0)


def pairwise_distances(embedding_RGD: Tensor, valid_RG: Tensor | None = None) -> Tensor:
    """Euclidean distances of the P = G (G - 1) / 2 pairs over their mean, [R, P], no unit.

    The mean is over the pairs that do not coincide, per network (Park et al. 2019, equation 5). A
    pair with an embedding that is not valid has 0. Groups are expected at unit extent.
    """
    num = embedding_RGD.shape[-2]
    first, second = torch.triu_indices(num, num, offset=1, device=embedding_RGD.device)
    difference_RPD = embedding_RGD[..., first, :] - embedding_RGD[..., second, :]
    squared_RP = difference_RPD.square().sum(-1)
    distinct_RP = squared_RP > TINY
    if valid_RG is not None:
        distinct_RP = distinct_RP & valid_RG[..., first] & valid_RG[..., second]
    distance_RP = torch.where(distinct_RP, squared_RP.clamp(min=TINY).sqrt(), 0.0)
    mean_R1 = distance_RP.sum(-1, keepdim=True) / distinct_RP.sum(-1, keepdim=True).clamp(min=1)
    return distance_RP / mean_R1.clamp(min=TINY**0.5)


def triplet_cosines(embedding_RGD: Tensor, valid_RG: Tensor | None = None) -> Tensor:
    """cos of the angle at j between i and k, at [r, j, i, k] of [R, G, G, G].

    Park et al. 2019, equation 7. 0 where i, j, k are not three valid embeddings. Groups are
    expected at unit extent.
    """
    # Edge from j to i at [j, i]; one from an embedding to itself has no direction.
    edge_RGGD = embedding_RGD[..., None, :, :] - embedding_RGD[..., None, :]
    squared_RGG1 = edge_RGGD.square().sum(-1, keepdim=True)
    distinct_RGG1 = squared_RGG1 > TINY
    if valid_RG is not None:
        distinct_RGG1 = distinct_RGG1 & (valid_RG[..., None, :] & valid_RG[..., None])[..., None]
    inverse_RGG1 = torch.where(distinct_RGG1, squared_RGG1.clamp(min=TINY).rsqrt(), 0.0)
    direction_RGGD = edge_RGGD * inverse_RGG1
    # Autocast would round the cosines to bfloat16, three digits, and the loss is their difference.
    with torch.autocast(embedding_RGD.device.type, enabled=False):
        cosine_RGGG = direction_RGGD @ direction_RGGD.mT
    same_GG = torch.eye(cosine_RGGG.shape[-1], dtype=torch.bool, device=cosine_RGGG.device)
    return cosine_RGGG.masked_fill(same_GG, 0.0)


def distance_loss(
    student_RGD: Tensor, teacher_RGD: Tensor, valid_RG: Tensor | None = None
) -> Tensor:
    """Huber loss (delta 1) between normalised distances, mean over each group's pairs, [R]."""
    return _distance_loss(
        unit_extent(student_RGD, valid_RG), unit_extent(teacher_RGD, valid_RG), valid_RG
    )


def angle_loss(student_RGD: Tensor, teacher_RGD: Tensor, valid_RG: Tensor | None = None) -> Tensor:
    """Huber loss (delta 1) between cosines, mean over each group's ordered triplets, [R]."""
    return _angle_loss(
        unit_extent(student_RGD, valid_RG), unit_extent(teacher_RGD, valid_RG), valid_RG
    )


def _distance_loss(student_RGD: Tensor, teacher_RGD: Tensor, valid_RG: Tensor | None) -> Tensor:
    loss_RP = F.smooth_l1_loss(
        pairwise_distances(student_RGD, valid_RG),
        pairwise_distances(teacher_RGD, valid_RG),
        reduction="none",
    )
    num = _group_sizes(student_RGD, valid_RG)
    return loss_RP.sum(-1) / (num * (num - 1) / 2)


def _angle_loss(student_RGD: Tensor, teacher_RGD: Tensor, valid_RG: Tensor | None) -> Tensor:
    loss_RGGG = F.smooth_l1_loss(
        triplet_cosines(student_RGD, valid_RG),
        triplet_cosines(teacher_RGD, valid_RG),
        reduction="none",
    )
    num = _group_sizes(student_RGD, valid_RG)
    return loss_RGGG.sum((-3, -2, -1)) / (num * (num - 1) * (num - 2))


def _group_sizes(embedding_RGD: Tensor, valid_RG: Tensor | None) -> Tensor | int:
    """Valid embeddings of each group; at least three, so that a group of fewer, whose loss is not
    taken, divides by no zero."""
    if valid_RG is None:
        return embedding_RGD.shape[-2]
    return valid_RG.sum(-1).clamp(min=MIN_GROUP)


def group_loss(
    student_RGD: Tensor,
    teacher_RGD: Tensor,
    valid_RG: Tensor | None = None,
    *,
    distance_weight: float,
    angle_weight: float,
) -> Tensor:
    """Weighted distance and angle loss within each group, summed over groups.

    With `valid_RG` a group is its valid embeddings alone; with fewer than three of them it has no
    angle and does not count (see `num_groups`).
    """
    student_RGD, teacher_RGD = (
        unit_extent(student_RGD, valid_RG),
        unit_extent(teacher_RGD, valid_RG),
    )
    loss_R = student_RGD.new_zeros(student_RGD.shape[:-2])
    if distance_weight:
        loss_R = loss_R + distance_weight * _distance_loss(student_RGD, teacher_RGD, valid_RG)
    if angle_weight:
        loss_R = loss_R + angle_weight * _angle_loss(student_RGD, teacher_RGD, valid_RG)
    if valid_RG is not None:
        loss_R = torch.where(valid_RG.sum(-1) >= MIN_GROUP, loss_R, 0.0)
    return loss_R.sum()


def num_groups(valid_RG: Tensor) -> int:
    """Groups of enough valid embeddings to have an angle."""
    return int((valid_RG.sum(-1) >= MIN_GROUP).sum())


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
    return group_loss(
        student_BD.unflatten(0, (-1, group_size)),
        teacher_BD.unflatten(0, (-1, group_size)),
        distance_weight=distance_weight,
        angle_weight=angle_weight,
    )
