"""Teachers that name a few tokens: hand values, the dense loss as limit, unbiasedness, traps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.response import divergence_loss
from kdwatts.losses.sparse import (
    TopK,
    cross_entropy,
    sampled_forward_kl,
    top_k_forward_kl,
    top_k_of,
)


def logits(seed: int, num_rows: int = 5, vocabulary: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(num_rows, vocabulary, generator=generator, dtype=torch.float64)


def softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    return (logits_NV / temperature).softmax(-1)


def test_top_k_kl_with_one_token_kept_of_three_is_a_kl_of_two_bins():
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): the bins are (1/2, 1/2) and (1/4, 3/4).
    teacher = top_k_of(torch.tensor([[0.5, 0.25, 0.25]]).log(), k=1)
    found = top_k_forward_kl(torch.tensor([[0.25, 0.25, 0.5]]).log(), teacher)
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_top_k_kl_is_a_lower_bound_that_rises_to_the_full_kl_with_k(temperature: float):
    student_NV, teacher_NV = logits(0, 50), logits(1, 50)
    full_N = divergence_loss("forward_kl", student_NV, teacher_NV, temperature=temperature)
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
        ValueError, match=r"k=11 is not smaller than the vocabulary of 11; use support=dense"
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


def gradient_of(loss_N: Tensor, logits_NV: Tensor) -> Tensor:
    return torch.autograd.grad(loss_N.sum(), logits_NV)[0]


@pytest.mark.parametrize("wrong", ["renormalised", "cut"])
def test_a_loss_that_is_blind_to_the_tail_has_its_minimum_elsewhere(wrong: str):
    teacher_NV = logits(0) / 3
    teacher = top_k_of(teacher_NV, k=3)
    student_NV = teacher_NV.clone().requires_grad_()
    log_q_NK = student_NV.log_softmax(-1).gather(-1, teacher.ids_NK)
    if wrong == "renormalised":
        log_p_NK = teacher.log_p_NK.log_softmax(-1)
        blind_N = (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(-1)
    else:
        blind_N = (teacher.log_p_NK.exp() * (teacher.log_p_NK - log_q_NK)).sum(-1)
    # The student is the teacher, and they would still move it; ours would not.
    assert gradient_of(blind_N, student_NV).abs().max() > 0.01
    ours_NV = gradient_of(top_k_forward_kl(student_NV, teacher), student_NV)
    torch.testing.assert_close(ours_NV, torch.zeros_like(ours_NV), rtol=0, atol=1e-12)


def test_student_mass_off_the_support_is_not_free_as_it_is_with_both_sides_renormalised():
    teacher = top_k_of(logits(0), k=3)
    student_NV = logits(0).scatter(-1, logits(0).argmin(-1, keepdim=True), 9.0).requires_grad_()
    blind_q_NK = student_NV.gather(-1, teacher.ids_NK).log_softmax(-1)
    blind_p_NK = teacher.log_p_NK.log_softmax(-1)
    blind_N = (blind_p_NK.exp() * (blind_p_NK - blind_q_NK)).sum(-1)
    assert (blind_N.abs() < 1e-12).all()
    assert (top_k_forward_kl(student_NV, teacher) > 0.1).all()


def test_the_students_softmax_is_whole_again_after_the_top_k_loss_has_used_it():
    # Cross entropy shares it: at temperature 1 it must not find the support emptied.
    from kdwatts.losses.logit_rows import Block
    from kdwatts.losses.sparse import cross_entropy_term, top_k_term

    target_N = top_k_of(logits(1), k=4).ids_NK[:, 0]
    block = Block(slice(0, 5), logits(0))
    top_k_term(top_k_of(logits(1), k=4), temperature=1.0)(block, 1.0)
    found_N = cross_entropy_term(target_N)(block, 1.0)
    torch.testing.assert_close(found_N, F.cross_entropy(logits(0), target_N, reduction="none"))


def test_a_tail_that_underflows_leaves_loss_and_gradient_finite():
    student_NV = torch.tensor([[200.0, 199.0, 0.0, 0.0]], requires_grad=True)
    teacher = top_k_of(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), k=2)
    loss_N = top_k_forward_kl(student_NV, teacher)
    gradient = gradient_of(loss_N, student_NV)
    assert loss_N.isfinite().all() and gradient.isfinite().all()
    # The support is pushed down, which lets the tail rise.
    assert gradient[0, :2].sum() > 0.1


# Sampled support: three tokens drawn eight times, (6, 2, 0), and padding.
IDS = torch.tensor([[4, 7, 0]])
SHARE = torch.tensor([[6.0, 2.0, 0.0]], dtype=torch.float64) / 8


def test_sampled_kl_of_six_and_two_draws_against_even_odds_is_1_5171_nats():
    student_NV = torch.zeros(1, 8, dtype=torch.float64)
    by_hand = 0.75 * math.log(0.75 * 8) + 0.25 * math.log(0.25 * 8)
    assert by_hand == pytest.approx(1.5171, abs=5e-5)
    assert sampled_forward_kl(student_NV, IDS, SHARE).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_of_the_sampled_loss_is_temperature_times_q_minus_the_share(
    temperature: float,
):
    student_NV = logits(0, 1).requires_grad_()
    loss_N = sampled_forward_kl(student_NV, IDS, SHARE, temperature=temperature)
    q_NV = softmax(student_NV.detach(), temperature)
    share_NV = torch.zeros_like(q_NV).scatter_add(-1, IDS, SHARE)
    expected = temperature * (q_NV - share_NV)
    torch.testing.assert_close(gradient_of(loss_N, student_NV), expected)
    assert torch.autograd.gradcheck(
        lambda x: sampled_forward_kl(x, IDS, SHARE, temperature=temperature), student_NV
    )


def test_padding_of_the_support_may_repeat_a_drawn_id():
    padded = torch.tensor([[4, 7, 4]]), SHARE
    plain = torch.tensor([[4, 7]]), SHARE[:, :2]
    gradients = []
    for ids, share in (padded, plain):
        student_NV = logits(0, 1).requires_grad_()
        gradients.append(gradient_of(sampled_forward_kl(student_NV, ids, share), student_NV))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_sampled_gradient_is_on_average_that_of_the_full_kl_and_that_of_top_k_is_not(
    temperature: float,
):
    teacher_NV, num_samples, num_draws = logits(1, 1) / 2, 12, 20_000
    p_NV = softmax(teacher_NV, temperature)
    drawn = torch.multinomial(
        p_NV.expand(num_draws, -1), num_samples, True, generator=torch.Generator().manual_seed(0)
    )
    student_NV = (logits(0, 1) / 2).expand(num_draws, -1).clone().requires_grad_()
    share = torch.full(drawn.shape, 1 / num_samples, dtype=torch.float64)
    loss_N = sampled_forward_kl(student_NV, drawn, share, temperature=temperature)
    found_NV = gradient_of(loss_N, student_NV)
    one = student_NV[:1].detach().requires_grad_()
    full_NV = gradient_of(
        divergence_loss("forward_kl", one, teacher_NV, temperature=temperature), one
    )
    error_V = (found_NV.mean(0) - full_NV[0]).abs()
    deviation_V = found_NV.std(0) / math.sqrt(num_draws)
    assert (error_V < 5 * deviation_V + 1e-12).all()
    # Top-k without its tail, renormalised, is off by far more.
    top_k = top_k_of(teacher_NV, k=3, temperature=temperature)
    share_K = top_k.log_p_NK.softmax(-1)
    biased_N = sampled_forward_kl(one, top_k.ids_NK, share_K, temperature=temperature)
    biased_V = (gradient_of(biased_N, one)[0] - full_NV[0]).abs()
    assert biased_V.max() > 20 * deviation_V.max()


def test_a_draw_of_every_token_in_proportion_makes_the_sampled_loss_the_full_kl():
    student_NV, p_NV = logits(0), softmax(logits(1), 2.0)
    ids_NV = torch.arange(11).expand(5, -1)
    found = sampled_forward_kl(student_NV, ids_NV, p_NV, temperature=2.0)
    expected = divergence_loss("forward_kl", student_NV, logits(1), temperature=2.0)
    torch.testing.assert_close(found, expected)


def test_the_gradient_of_cross_entropy_is_torchs_own():
    target_N = torch.tensor([0, 3, 10, 7, 7])
    gradients = []
    for function in (cross_entropy, F.cross_entropy):
        student_NV = logits(0).requires_grad_()
        gradients.append(gradient_of(function(student_NV, target_N), student_NV))
    torch.testing.assert_close(gradients[0], 5 * gradients[1])
