"""Losses and gradients of the GPU beside float64 on the CPU, in float32 and under autocast."""

# N positions, D width, V vocabulary.

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.response import DIVERGENCES, dense_term
from kdwatts.models.load import recompute_blocks
from kdwatts.training.autocast import autocast
from tests.gpu.gpu import DEVICE, ON_GPU, distance
from tests.training.pair import gradients, llama, make_batch, make_objective, share
from tests.training.test_objective import EVERY_PARADIGM, PARADIGMS

pytestmark = [pytest.mark.gpu, ON_GPU]

POSITIONS, WIDTH, VOCABULARY = 300, 64, 4_000


def sides(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(POSITIONS, WIDTH, generator=generator)
    weight_VD = 0.3 * torch.randn(VOCABULARY, WIDTH, generator=generator)
    return [hidden_ND, weight_VD]


def head(divergence: str, student: list[Tensor], teacher: list[Tensor]) -> tuple[Tensor, Any]:
    for tensor in student:
        tensor.requires_grad_()
    loss, _ = head_loss(
        student[0],
        student[1],
        {"kd": dense_term(divergence, temperature=2.0)},
        {"kd": 1 / POSITIONS},
        teacher=DenseTeacher(teacher[0], teacher[1]),
        chunk_rows=128,
    )
    return loss, torch.autograd.grad(loss, student)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
def test_a_divergence_through_the_head_is_that_of_float64(
    divergence: str, dtype: torch.dtype, tolerance: float
):
    # Rounded first, so that both compute from the same numbers.
    rounded = [[tensor.to(dtype) for tensor in sides(seed)] for seed in (0, 1)]
    expected, slopes = head(divergence, *([t.double() for t in side] for side in rounded))
    found, found_slopes = head(divergence, *([t.to(DEVICE) for t in side] for side in rounded))
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)
    # The slope of a total variation turns where probabilities are equal within rounding.
    allowed = 5 * tolerance if divergence == "total_variation" else tolerance
    assert distance(list(found_slopes), list(slopes)) < allowed


def models(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    student = llama(0, vocabulary=70, width=16, num_layers=2, tied=True).train()
    teacher = llama(1, vocabulary=64, width=24, num_layers=3, tied=False).eval()
    return student.to(device, dtype), teacher.to(device, dtype)


def step(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    precision: str = "fp32",
    recompute: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    student, teacher = models(device, dtype)
    if recompute:
        recompute_blocks(student)
    # Projectors are drawn on the CPU: the same ones everywhere.
    objective = make_objective(PARADIGMS[name], teacher).to(device)
    objective.projectors.to(dtype)
    batch = make_batch().to(device)
    with autocast(precision, device):
        loss, _ = share(objective, student, teacher, batch)
    return loss, gradients(loss, student, objective.projectors)


@EVERY_PARADIGM
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.1)])
def test_a_paradigm_s_step_is_that_of_float64(
    name: str, precision: str, tolerance: float, recompute: bool
):
    expected, slopes = step(name, torch.device("cpu"), torch.float64)
    found, found_slopes = step(
        name, DEVICE, torch.float32, precision=precision, recompute=recompute
    )
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)
    assert distance(found_slopes, slopes) < tolerance
