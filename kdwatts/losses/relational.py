"""Relational distillation: the student learns how the teacher's embeddings lie to each other.

Park et al. 2019, arXiv 1904.05068, section 3.2. Neither loss depends on the scale of either model's
embeddings: exactly for powers of two, up to rounding for other factors. Both are computed in
float32 (float64 stays float64), also under autocast.
"""

# R groups, G embeddings of one group (P pairs of them), D width (need not be the same in both
# models), B sequences, T positions, M tokens of a sequence.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.rounding import wide

TINY = 1e-12
"""Squared length, in units of the group's extent, below which two embeddings coincide.

They then have no direction and no gradient.
"""

MIN_GROUP = 3
"""The fewest embeddings that have an angle. Two have one distance, which is its own mean."""


def mean_pool(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean [B, D] in float32 of the hidden states [B, T, D] where `mask_BT` is true."""
    kept_BTD = wide(hidden_BTD).masked_fill(~mask_BT[..., None], 0.0)
    return kept_BTD.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)


def unit_extent(embedding_RGD: Tensor, valid_RG: Tensor | None = None) -> Tensor:
    """The groups [R, G, D] in float32, each divided by a power of two to an extent of about 1.

    Embeddings count as one point below a fixed distance. Without this step the loss would depend on
    the embeddings' scale. The division is exact and changes neither loss nor gradient. Embeddings
    that are not valid are moved to the group's first valid one, so that they do not count.
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
    """Euclidean distances of all pairs in a group over their mean, [R, P] with P = G (G - 1) / 2.

    `embedding_RGD` [R, G, D] are groups at unit extent. The values have no unit. The mean is over
    the pairs that do not coincide, for each model by itself (Park et al. 2019, equation 5). A pair
    with an embedding that is not valid has the value 0.
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
    """Cosines [R, G, G, G] of the angles at j between i and k, at the index [r, j, i, k].

    `embedding_RGD` [R, G, D] are groups at unit extent. Park et al. 2019, equation 7. The value is
    0 where i, j and k are not three different valid embeddings.
    """
    # The edge from j to i is at [j, i]. An edge from an embedding to itself has no direction.
    edge_RGGD = embedding_RGD[..., None, :, :] - embedding_RGD[..., None, :]
    squared_RGG1 = edge_RGGD.square().sum(-1, keepdim=True)
    distinct_RGG1 = squared_RGG1 > TINY
    if valid_RG is not None:
        distinct_RGG1 = distinct_RGG1 & (valid_RG[..., None, :] & valid_RG[..., None])[..., None]
    inverse_RGG1 = torch.where(distinct_RGG1, squared_RGG1.clamp(min=TINY).rsqrt(), 0.0)
    direction_RGGD = edge_RGGD * inverse_RGG1
    # The loss is a difference of cosines, which autocast would round to three digits (bfloat16).
    with torch.autocast(embedding_RGD.device.type, enabled=False):
        cosine_RGGG = direction_RGGD @ direction_RGGD.mT
    same_GG = torch.eye(cosine_RGGG.shape[-1], dtype=torch.bool, device=cosine_RGGG.device)
    return cosine_RGGG.masked_fill(same_GG, 0.0)


def distance_loss(
    student_RGD: Tensor, teacher_RGD: Tensor, valid_RG: Tensor | None = None
) -> Tensor:
    """Huber loss (delta 1) between normalised distances of [R, G, D]: a mean over pairs, [R]."""
    return _distance_loss(
        unit_extent(student_RGD, valid_RG), unit_extent(teacher_RGD, valid_RG), valid_RG
    )


def angle_loss(student_RGD: Tensor, teacher_RGD: Tensor, valid_RG: Tensor | None = None) -> Tensor:
    """Huber loss (delta 1) between cosines of [R, G, D]: a mean over ordered triplets, [R]."""
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
    """Weighted distance and angle loss of groups [R, G, D], summed over the groups. It has no unit.

    With `valid_RG` [R, G], only the valid embeddings of a group count. A group of fewer than three
    has no angle and does not count at all (see `num_groups`).
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
    """Number of groups that have an angle: those with at least three valid embeddings."""
    return int((valid_RG.sum(-1) >= MIN_GROUP).sum())


def relational_loss(
    student_BD: Tensor,
    teacher_BD: Tensor,
    *,
    group_size: int,
    distance_weight: float,
    angle_weight: float,
) -> Tensor:
    """Weighted distance and angle loss of embeddings [B, D], summed over groups. It has no unit.

    A group is `group_size` consecutive embeddings. Groups are fixed, so the loss of a step does not
    depend on how the step is cut into micro-batches.

    Raises ValueError when B is no multiple of `group_size`, or differs between student and teacher.
    """
    if len(student_BD) % group_size or len(student_BD) != len(teacher_BD):
        raise ValueError(
            f"relational: {len(student_BD)} student and {len(teacher_BD)} teacher embeddings "
            f"cannot be cut into groups of {group_size}; make training.micro_batch a multiple of "
            "group_size"
        )
    return group_loss(
        student_BD.unflatten(0, (-1, group_size)),
        teacher_BD.unflatten(0, (-1, group_size)),
        distance_weight=distance_weight,
        angle_weight=angle_weight,
    )
