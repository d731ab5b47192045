"""The fused kernel at a real vocabulary's size beside float64, on the GPU."""

# N positions, D and E widths, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kdwatts.doctor.numbers.cases_of_terms import drawn
from kdwatts.doctor.numbers.fused_in_float64 import (
    FUSED_KINDS,
    WEIGHTS,
    both_logits,
    compared_fused,
    refusal_of,
)
from kdwatts.losses import fused_choice
from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.products import adds_in_float32
from kdwatts.losses.response import dense_term
from kdwatts.losses.sparse import cross_entropy_term
from tests.gpu.gpu import DEVICE, ON_GPU

pytestmark = [pytest.mark.gpu, ON_GPU]

ON_CARD = DEVICE.type == "cuda"
# A rehearsal on the CPU computes the plain form.
POSITIONS, VOCABULARY = (64, 128_256) if ON_CARD else (5, 4_000)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FUSED_KINDS)
def test_losses_and_gradient_of_the_kernel_are_those_of_float64(
    kind: str, dtype: torch.dtype, temperature: float
):
    logits = both_logits(POSITIONS, VOCABULARY, dtype, DEVICE)
    agreement = compared_fused(kind, *logits, temperature=temperature)
    assert agreement.excess <= 1, agreement


@pytest.mark.skipif(not ON_CARD, reason="the kernel is CUDA's alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FUSED_KINDS)
def test_the_trial_takes_the_kernel_of_every_kind(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fused_choice, "_agreed", set())
    monkeypatch.setattr(fused_choice, "refused", {})
    assert refusal_of(kind, *both_logits(POSITIONS, VOCABULARY, dtype, DEVICE)) is None


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether the kernel was taken, for each chunk."""
    choices: list[bool] = []
    choose = fused_choice.agreed_plan

    def watched(*args, **options):
        plan = choose(*args, **options)
        choices.append(plan is not None)
        return plan

    monkeypatch.setattr("kdwatts.losses.head.agreed_plan", watched)
    yield choices


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_a_head_s_chunks_take_the_kernel_and_its_gradients_are_float64_s(
    kind: str, chosen: list[bool]
):
    width = 64
    hidden_ND, states_NE = drawn(2, 2 * POSITIONS, width), drawn(3, 2 * POSITIONS, width)
    weight_VD, weight_VE = (0.3 * drawn(s, VOCABULARY, width) for s in (4, 5))
    target_N = torch.arange(2 * POSITIONS) * 31

    def step(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        sides = [t.bfloat16().to(device, dtype).requires_grad_() for t in (hidden_ND, weight_VD)]
        others = [t.bfloat16().to(device, dtype) for t in (states_NE, weight_VE)]
        terms = {
            "ce": cross_entropy_term(target_N.to(device)),
            "kd": dense_term(kind, temperature=2.0),
        }
        total, _ = head_loss(
            sides[0], sides[1], terms, WEIGHTS, teacher=DenseTeacher(*others), chunk_rows=POSITIONS
        )
        return [total.detach(), *torch.autograd.grad(total / 3, sides)]

    expected = step(torch.float64, DEVICE)
    chosen.clear()
    found = step(torch.bfloat16, DEVICE)
    assert chosen == [ON_CARD, ON_CARD]
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-2)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert (one.double() - other).norm() < 2e-2 * other.norm()


@pytest.mark.skipif(not ON_CARD, reason="products that add to float32 are CUDA's alone")
def test_products_of_bfloat16_are_added_to_float32_unrounded():
    assert adds_in_float32(DEVICE, torch.bfloat16)
    one = torch.full((16, 16), 1.0, dtype=torch.bfloat16, device=DEVICE)
    total = torch.full((16, 16), 2.0**-12, device=DEVICE)
    torch.addmm(total, one, one, torch.float32, out=total)
    assert torch.equal(total, torch.full_like(total, 16 + 2.0**-12))
