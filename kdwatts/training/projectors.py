"""From the student's width to the teacher's: trained beside the student, never part of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def linear(student_width: int, teacher_width: int) -> nn.Module:
    """One matrix, without a bias."""
    return nn.Linear(student_width, teacher_width, bias=False)


def mlp(student_width: int, teacher_width: int) -> nn.Module:
    """Two layers with a GELU between them, as wide as the teacher."""
    return nn.Sequential(
        nn.Linear(student_width, teacher_width), nn.GELU(), nn.Linear(teacher_width, teacher_width)
    )


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {"linear": linear, "mlp": mlp}


def make_projectors(
    kind: str,
    *,
    student_width: int,
    teacher_width: int,
    num_pairs: int,
    shared: bool,
    seed: int,
) -> nn.ModuleList:
    """One projector for each pair, or one for all when `shared`, or none.

    They are drawn from `seed`.

    They are made before optimizer and wrapping, and are kept in checkpoints beside the student.
    """
    if kind == "none":
        return nn.ModuleList()
    torch.manual_seed(seed)
    count = 1 if shared else num_pairs
    return nn.ModuleList(PROJECTORS[kind](student_width, teacher_width) for _ in range(count))


def project(projectors: nn.ModuleList, pair_index: int, state: Tensor) -> Tensor:
    """The student's states [..., D] of one pair at the teacher's width, [..., E]."""
    if not len(projectors):
        return state
    return projectors[pair_index if len(projectors) > 1 else 0](state)
