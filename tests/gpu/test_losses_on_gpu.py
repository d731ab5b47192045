"""Losses and gradients of the GPU beside float64 on the CPU, in float32 and under autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdwatts.doctor.numbers.cases_of_terms import SMALL, divergence_case
from kdwatts.doctor.numbers.terms_in_float64 import PRECISIONS, compared, distance
from kdwatts.losses.response import DIVERGENCES
from kdwatts.models.load import recompute_blocks
from kdwatts.training.autocast import autocast
from tests.gpu.gpu import DEVICE, ON_GPU
from tests.training.pair import gradients, llama, make_batch, make_objective, share
from tests.training.test_objective import EVERY_PARADIGM, PARADIGMS

pytestmark = [pytest.mark.gpu, ON_GPU]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_through_the_head_is_that_of_float64(name: str, precision: str):
    agreement = compared(divergence_case(name, SMALL), PRECISIONS[precision], DEVICE)
    assert agreement.excess <= 1, agreement


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
