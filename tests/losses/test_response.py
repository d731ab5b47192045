"""Divergences against values worked by hand, closed forms and a dense float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.response import (
    DIVERGENCES,
    TopK,
    cross_entropy,
    forward_kl,
    jsd,
    reverse_kl,
    top_k_forward_kl,
    top_k_of,
)

EVEN = torch.zeros(1, 2)
THREE_TO_ONE = torch.tensor([[math.log(3), 0.0]])


def logits(seed: int, num_rows: int = 5, vocabulary: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(num_rows, vocabulary, generator=generator, dtype=torch.float64)


def softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    weight_NV = ((logits_NV - logits_NV.amax(-1, keepdim=True)) / temperature).exp()
    return weight_NV / weight_NV.sum(-1, keepdim=True)


def dense_kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """Cross entropy less entropy, the second formula of KL(p || q)."""
    return -(p_NV * q_NV.log()).sum(-1) + (p_NV * p_NV.log()).sum(-1)


def dense_reference(name: str, student_NV: Tensor, teacher_NV: Tensor, temperature: float):
    q_NV, p_NV = softmax(student_NV, temperature), softmax(teacher_NV, temperature)
    if name == "forward_kl":
        return temperature**2 * dense_kl(p_NV, q_NV)
    if name == "reverse_kl":
        return temperature**2 * dense_kl(q_NV, p_NV)
    # Half the entropy gained by mixing, the second formula of the Jensen-Shannon divergence.
    m_NV = (p_NV + q_NV) / 2
    entropy = [-(x * x.log()).sum(-1) for x in (m_NV, p_NV, q_NV)]
    return temperature**2 * (entropy[0] - (entropy[1] + entropy[2]) / 2)


def test_forward_kl_of_even_odds_under_a_three_to_one_teacher_is_0_1308_nats():
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert by_hand == pytest.approx(0.1308, abs=5e-5)
    assert forward_kl(EVEN, THREE_TO_ONE).item() == pytest.approx(by_hand, rel=1e-6)


def test_reverse_kl_of_even_odds_under_a_three_to_one_teacher_is_0_1438_nats():
    by_hand = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert by_hand == pytest.approx(0.1438, abs=5e-5)
    assert reverse_kl(EVEN, THREE_TO_ONE).item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_twice_the_logits_at_temperature_2_are_four_times_the_divergence(name: str):
    student_NV, teacher_NV = logits(0), logits(1)
    at_1 = DIVERGENCES[name](student_NV, teacher_NV)
    at_2 = DIVERGENCES[name](2 * student_NV, 2 * teacher_NV, temperature=2.0)
    torch.testing.assert_close(at_2, 4 * at_1)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 4.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_in_float32_is_the_dense_float64_reference(name: str, temperature: float):
    student_NV, teacher_NV = logits(0), logits(1)
    found = DIVERGENCES[name](student_NV.float(), teacher_NV.float(), temperature=temperature)
    assert found.dtype == torch.float32
    expected = dense_reference(name, student_NV, teacher_NV, temperature)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_of_equal_logits_up_to_a_constant_is_zero_and_flat(name: str):
    student_NV = logits(0).requires_grad_()
    loss_N = DIVERGENCES[name](student_NV, student_NV.detach() + 7, temperature=2.0)
    (gradient,) = torch.autograd.grad(loss_N.sum(), student_NV)
    torch.testing.assert_close(loss_N, torch.zeros_like(loss_N), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_gradient_of_a_divergence_at_temperature_2_is_its_finite_difference(name: str):
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    assert torch.autograd.gradcheck(
        lambda x: DIVERGENCES[name](x, teacher_NV, temperature=2.0), student_NV
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gradient_of_forward_kl_is_temperature_times_q_minus_p(temperature: float):
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    loss = forward_kl(student_NV, teacher_NV, temperature=temperature).sum()
    (gradient,) = torch.autograd.grad(loss, student_NV)
    q_NV, p_NV = softmax(student_NV.detach(), temperature), softmax(teacher_NV, temperature)
    torch.testing.assert_close(gradient, temperature * (q_NV - p_NV))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_of_bfloat16_logits_is_taken_in_float32(name: str):
    student_NV, teacher_NV = logits(0).bfloat16(), logits(1).bfloat16()
    found = DIVERGENCES[name](student_NV, teacher_NV, temperature=2.0)
    expected = DIVERGENCES[name](student_NV.float(), teacher_NV.float(), temperature=2.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_of_logits_10000_apart_has_finite_value_and_gradient(name: str):
    student_NV = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = DIVERGENCES[name](student_NV, torch.tensor([[-1e4, 0.0, 1e4]])).sum()
    (gradient,) = torch.autograd.grad(loss, student_NV)
    assert loss.isfinite() and gradient.isfinite().all()


def test_a_token_that_the_teacher_rules_out_adds_nothing_to_forward_kl():
    teacher_NV = torch.cat([THREE_TO_ONE, torch.full((1, 1), -torch.inf)], dim=-1)
    student_NV = torch.zeros(1, 3, requires_grad=True)
    loss = forward_kl(student_NV, teacher_NV).sum()
    (gradient,) = torch.autograd.grad(loss, student_NV)
    assert loss.item() == pytest.approx(0.75 * math.log(0.75 * 3) + 0.25 * math.log(0.25 * 3))
    torch.testing.assert_close(gradient, torch.tensor([[1 / 3 - 0.75, 1 / 3 - 0.25, 1 / 3]]))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_names_both_shapes_when_vocabularies_differ(name: str):
    message = rf"{name}: student logits are \(2, 8\), teacher logits are \(2, 9\)"
    with pytest.raises(ValueError, match=message):
        DIVERGENCES[name](torch.zeros(2, 8), torch.zeros(2, 9))


def test_jsd_at_beta_one_half_is_symmetric():
    forwards = jsd(logits(0), logits(1), temperature=2.0)
    torch.testing.assert_close(forwards, jsd(logits(1), logits(0), temperature=2.0))


def test_jsd_of_certain_and_different_tokens_is_ln_2_and_no_jsd_is_more():
    certain = torch.tensor([[100.0, 0.0, 0.0]])
    assert jsd(certain, certain.roll(1)).item() == pytest.approx(math.log(2))
    assert (jsd(10 * logits(0, 200), 10 * logits(1, 200)) <= math.log(2) + 1e-12).all()


def test_jsd_over_a_vanishing_beta_is_forward_kl():
    found = jsd(logits(0), logits(1), beta=1e-6) / 1e-6
    torch.testing.assert_close(found, forward_kl(logits(0), logits(1)), rtol=1e-3, atol=1e-3)


def test_jsd_over_a_vanishing_one_minus_beta_is_reverse_kl():
    found = jsd(logits(0), logits(1), beta=1 - 1e-6) / 1e-6
    torch.testing.assert_close(found, reverse_kl(logits(0), logits(1)), rtol=1e-3, atol=1e-3)


def test_top_k_kl_with_one_token_kept_of_three_is_a_kl_of_two_bins():
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): the bins are (1/2, 1/2) and (1/4, 3/4).
    teacher = top_k_of(torch.tensor([[0.5, 0.25, 0.25]]).log(), k=1)
    found = top_k_forward_kl(torch.tensor([[0.25, 0.25, 0.5]]).log(), teacher)
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_top_k_kl_is_a_lower_bound_that_rises_to_the_full_kl_with_k(temperature: float):
    student_NV, teacher_NV = logits(0, 50), logits(1, 50)
    full_N = forward_kl(student_NV, teacher_NV, temperature=temperature)
    below_N = torch.zeros_like(full_N)
    for k in range(1, 11):
        teacher = top_k_of(teacher_NV, k=k, temperature=temperature)
        bound_N = top_k_forward_kl(student_NV, teacher, temperature=temperature)
        assert (bound_N >= below_N - 1e-12).all()
        assert (bound_N <= full_N + 1e-12).all()
        below_N = bound_N
    # Ten of eleven kept: the tail is one token, so its bin hides nothing.
    torch.testing.assert_close(below_N, full_N)


def test_raising_a_student_logit_off_the_support_changes_the_top_k_loss():
    teacher_NV, student_NV = logits(0), logits(0)
    least = teacher_NV.argmin(-1, keepdim=True)
    raised_NV = student_NV.scatter_add(-1, least, torch.full(least.shape, 5.0, dtype=torch.float64))
    teacher = top_k_of(teacher_NV, k=3)
    assert (top_k_forward_kl(student_NV, teacher).abs() < 1e-12).all()
    assert (top_k_forward_kl(raised_NV, teacher) > 1e-4).all()


def test_a_student_that_is_the_teacher_renormalised_on_its_support_is_not_the_minimum():
    teacher_NV = logits(0) / 3
    teacher = top_k_of(teacher_NV, k=3)
    renormalised_NV = torch.full_like(teacher_NV, -40.0).scatter(
        -1, teacher.ids_NK, teacher.log_p_NK
    )
    assert (top_k_forward_kl(renormalised_NV, teacher) > 1).all()
    assert (top_k_forward_kl(teacher_NV, teacher).abs() < 1e-12).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_of_the_top_k_loss_is_temperature_times_q_minus_p_with_the_tail_as_one(
    temperature: float,
):
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    teacher = top_k_of(teacher_NV, k=4, temperature=temperature)
    loss = top_k_forward_kl(student_NV, teacher, temperature=temperature).sum()
    (gradient,) = torch.autograd.grad(loss, student_NV)
    q_NV, p_NV = softmax(student_NV.detach(), temperature), softmax(teacher_NV, temperature)
    kept_NV = torch.zeros_like(q_NV).scatter(-1, teacher.ids_NK, 1.0).bool()
    tail_p, tail_q = ((x * ~kept_NV).sum(-1, keepdim=True) for x in (p_NV, q_NV))
    goal_NV = torch.where(kept_NV, p_NV, q_NV * tail_p / tail_q)
    torch.testing.assert_close(gradient, temperature * (q_NV - goal_NV))


def test_the_gradient_of_the_top_k_loss_at_temperature_2_is_its_finite_difference():
    teacher = top_k_of(logits(1), k=4, temperature=2.0)
    assert torch.autograd.gradcheck(
        lambda x: top_k_forward_kl(x, teacher, temperature=2.0), logits(0).requires_grad_()
    )


def test_a_tail_of_1e_10_keeps_its_digits_in_float32():
    # 1 - sum(q) would be 0 here, and its logarithm infinite.
    student_NV = torch.tensor([[0.0, -1.0, -23.0, -24.0]], dtype=torch.float64)
    teacher_NV = torch.tensor([[0.0, -1.5, -22.0, -26.0]], dtype=torch.float64)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        student = student_NV.to(dtype).requires_grad_()
        loss = top_k_forward_kl(student, top_k_of(teacher_NV.to(dtype), k=2)).sum()
        gradients.append(torch.autograd.grad(loss, student)[0].double())
    torch.testing.assert_close(gradients[0][:, 2:], gradients[1][:, 2:], rtol=1e-4, atol=0)


def test_bins_rounded_to_float16_give_no_negative_loss():
    teacher = top_k_of(logits(0, 500).float(), k=4)
    rounded = TopK(teacher.ids_NK, teacher.log_p_NK.half(), teacher.log_tail_N.half())
    loss_N = top_k_forward_kl(logits(0, 500).float(), rounded)
    assert (loss_N >= -1e-6).all() and (loss_N < 1e-4).all()


def test_top_k_of_refuses_a_support_without_a_tail():
    with pytest.raises(
        ValueError, match=r"k=11 is not below the vocabulary of 11; use support=dense"
    ):
        top_k_of(logits(0), k=11)


def test_rows_of_a_top_k_teacher_are_the_teacher_of_those_rows():
    student_NV, teacher = logits(0), top_k_of(logits(1), k=4)
    whole_N = top_k_forward_kl(student_NV, teacher)
    part_N = top_k_forward_kl(student_NV[2:4], teacher.rows(slice(2, 4)))
    torch.testing.assert_close(part_N, whole_N[2:4])


def test_cross_entropy_of_four_even_tokens_is_ln_4_nats():
    found = cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
    torch.testing.assert_close(found, torch.full((2,), math.log(4)))


def test_cross_entropy_is_torchs_own_without_the_mean():
    target_N = torch.tensor([0, 3, 10, 7, 7])
    expected = F.cross_entropy(logits(0), target_N, reduction="none")
    torch.testing.assert_close(cross_entropy(logits(0), target_N), expected)
