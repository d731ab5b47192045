"""The fused kernel at a real vocabulary's size beside float64, on the GPU."""

# N positions, D width, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kdwatts.losses import fused_choice
from kdwatts.losses.fused_plan import plan_of
from kdwatts.losses.fused_rows import fused_losses
from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.logit_rows import Block, RowTerm, block_losses
from kdwatts.losses.products import adds_in_float32
from kdwatts.losses.response import CLOSED_FORMS, dense_term
from kdwatts.losses.sparse import cross_entropy_term, sampled_term, top_k_of, top_k_term
from tests.gpu.gpu import DEVICE, ON_GPU

pytestmark = [pytest.mark.gpu, ON_GPU]

ON_CARD = DEVICE.type == "cuda"
# A rehearsal on the CPU computes the plain form.
POSITIONS, VOCABULARY = (64, 128_256) if ON_CARD else (5, 4_000)
WEIGHTS = {"ce": 0.1, "kd": 0.9}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def terms_of(kind: str, teacher_NV: Tensor, temperature: float) -> dict[str, RowTerm]:
    target_N = torch.arange(len(teacher_NV), device=teacher_NV.device) * 37
    terms: dict[str, RowTerm] = {"ce": cross_entropy_term(target_N)}
    if kind == "top_k":
        top_k = top_k_of(teacher_NV.float(), k=64, temperature=temperature)
        terms["kd"] = top_k_term(top_k, temperature=temperature)
    elif kind == "sampled":
        ids_NK = teacher_NV.float().topk(12).indices
        share_NK = torch.full_like(ids_NK, 1, dtype=torch.float32) / 12
        terms["kd"] = sampled_term(ids_NK, share_NK, temperature=temperature)
    else:
        terms["kd"] = dense_term(kind, temperature=temperature)
    return terms


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("kind", [*CLOSED_FORMS, "top_k", "sampled"])
def test_losses_and_gradient_of_the_kernel_are_those_of_float64(
    kind: str, dtype: torch.dtype, rounding: float, temperature: float
):
    student_NV, teacher_NV = (
        (3 * draw(s, POSITIONS, VOCABULARY)).to(DEVICE, dtype) for s in (0, 1)
    )
    terms, rows = terms_of(kind, teacher_NV, temperature), slice(0, POSITIONS)
    slope_NV = student_NV.double()
    block = Block(rows, slope_NV, teacher_NV.double())
    expected = block_losses(block, terms, WEIGHTS)
    if ON_CARD:
        plan = plan_of(terms, WEIGHTS)
        assert plan
        found = fused_losses(plan, rows, student_NV, teacher_NV, needs_grad=True)
    else:
        found = block_losses(Block(rows, student_NV, teacher_NV), terms, WEIGHTS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    # The slope of a total variation turns where probabilities are equal within rounding.
    allowed = 5 * rounding if kind == "total_variation" else rounding
    assert (student_NV.double() - slope_NV).norm() < allowed * slope_NV.norm()


@pytest.mark.skipif(not ON_CARD, reason="the kernel is CUDA's alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*CLOSED_FORMS, "top_k", "sampled"])
def test_the_trial_takes_the_kernel_of_every_kind(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fused_choice, "_agreed", set())
    monkeypatch.setattr(fused_choice, "refused", {})
    student_NV, teacher_NV = (draw(s, POSITIONS, VOCABULARY).to(DEVICE, dtype) for s in (0, 1))
    terms, rows = terms_of(kind, teacher_NV, 2.0), slice(0, POSITIONS)
    args = (terms, WEIGHTS, rows, student_NV, teacher_NV)
    assert fused_choice.agreed_plan(*args, needs_grad=True) is not None


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
    hidden_ND, states_NE = draw(2, 2 * POSITIONS, width), draw(3, 2 * POSITIONS, width)
    weight_VD, weight_VE = (0.3 * draw(s, VOCABULARY, width) for s in (4, 5))
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
