"""Divergences against values worked by hand, closed forms and a dense float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdwatts.losses.response import DIVERGENCES, dense_term, divergence_loss

EVEN = torch.zeros(1, 2)
THREE_TO_ONE = torch.tensor([[math.log(3), 0.0]])
BETA, SKEW = 0.3, 0.2
EVERY_DIVERGENCE = pytest.mark.parametrize("name", DIVERGENCES)


def logits(seed: int, num_rows: int = 5, vocabulary: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(num_rows, vocabulary, generator=generator, dtype=torch.float64)


def loss(name: str, student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0) -> Tensor:
    return divergence_loss(
        name, student_NV, teacher_NV, temperature=temperature, beta=BETA, skew=SKEW
    )


def value(name: str, student_NV: Tensor, teacher_NV: Tensor, **options: float) -> float:
    return divergence_loss(name, student_NV, teacher_NV, **options).item()


def softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    weight_NV = ((logits_NV - logits_NV.amax(-1, keepdim=True)) / temperature).exp()
    return weight_NV / weight_NV.sum(-1, keepdim=True)


def dense_kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """Cross entropy less entropy, the second formula of KL(p || q)."""
    return -(p_NV * q_NV.log()).sum(-1) + (p_NV * p_NV.log()).sum(-1)


def dense_reference(
    name: str, student_NV: Tensor, teacher_NV: Tensor, temperature: float
) -> Tensor:
    """Every divergence on probabilities, for autograd to differentiate."""
    q, p = softmax(student_NV, temperature), softmax(teacher_NV, temperature)
    mixture = BETA * p + (1 - BETA) * q
    divergence = {
        "forward_kl": lambda: dense_kl(p, q),
        "reverse_kl": lambda: dense_kl(q, p),
        "jsd": lambda: BETA * dense_kl(p, mixture) + (1 - BETA) * dense_kl(q, mixture),
        "skew_kl": lambda: dense_kl(p, SKEW * p + (1 - SKEW) * q),
        "skew_reverse_kl": lambda: dense_kl(q, SKEW * q + (1 - SKEW) * p),
        # What one of them has more than the other, the second formula of half the distance.
        "total_variation": lambda: (p - q).clamp(min=0).sum(-1),
    }
    return temperature**2 * divergence[name]()


def test_forward_kl_of_even_odds_under_a_three_to_one_teacher_is_0_1308_nats():
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert by_hand == pytest.approx(0.1308, abs=5e-5)
    assert value("forward_kl", EVEN, THREE_TO_ONE) == pytest.approx(by_hand, rel=1e-6)


def test_reverse_kl_of_even_odds_under_a_three_to_one_teacher_is_0_1438_nats():
    by_hand = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert by_hand == pytest.approx(0.1438, abs=5e-5)
    assert value("reverse_kl", EVEN, THREE_TO_ONE) == pytest.approx(by_hand, rel=1e-6)


def test_skew_kl_with_a_fifth_of_the_teacher_mixed_into_the_student_is_0_0857_nats():
    # m = (0.15 + 0.4, 0.05 + 0.4).
    by_hand = 0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45)
    found = value("skew_kl", EVEN, THREE_TO_ONE, skew=0.2)
    assert by_hand == pytest.approx(0.0857, abs=5e-5)
    assert found == pytest.approx(by_hand, rel=1e-6)
    # With the weights of the mixture exchanged it would be another number.
    exchanged = 0.75 * math.log(0.75 / 0.7) + 0.25 * math.log(0.25 / 0.3)
    assert abs(found - exchanged) > 0.05


def test_skew_reverse_kl_with_a_fifth_of_the_student_mixed_into_the_teacher_is_0_0872_nats():
    # m = (0.1 + 0.6, 0.1 + 0.2).
    by_hand = 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)
    assert by_hand == pytest.approx(0.0872, abs=5e-5)
    assert value("skew_reverse_kl", EVEN, THREE_TO_ONE, skew=0.2) == pytest.approx(by_hand)


def test_total_variation_of_even_odds_and_three_to_one_is_a_quarter():
    assert value("total_variation", EVEN, THREE_TO_ONE) == pytest.approx(0.25)


@EVERY_DIVERGENCE
def test_twice_the_logits_at_temperature_2_are_four_times_the_divergence(name: str):
    student_NV, teacher_NV = logits(0), logits(1)
    at_1 = loss(name, student_NV, teacher_NV)
    at_2 = loss(name, 2 * student_NV, 2 * teacher_NV, temperature=2.0)
    torch.testing.assert_close(at_2, 4 * at_1)
    # A temperature on the loss alone, or one that is not squared, is another number.
    assert not torch.allclose(2 * at_1, at_2)
    assert not torch.allclose(4 * loss(name, 2 * student_NV, 2 * teacher_NV), at_2)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 4.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@EVERY_DIVERGENCE
def test_a_divergence_and_its_gradient_are_those_of_the_dense_float64_reference(
    name: str, dtype: torch.dtype, tolerance: float, temperature: float
):
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    expected_N = dense_reference(name, student_NV, teacher_NV, temperature)
    (expected_NV,) = torch.autograd.grad(expected_N.sum(), student_NV)
    student = student_NV.detach().to(dtype).requires_grad_()
    found_N = loss(name, student, teacher_NV.to(dtype), temperature)
    (found_NV,) = torch.autograd.grad(found_N.sum(), student)
    assert found_N.dtype == found_NV.dtype == dtype
    torch.testing.assert_close(found_N.double(), expected_N, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found_NV.double(), expected_NV, rtol=tolerance, atol=tolerance)


@EVERY_DIVERGENCE
def test_a_divergence_of_equal_logits_up_to_a_constant_is_zero_and_flat(name: str):
    student_NV = logits(0).requires_grad_()
    loss_N = loss(name, student_NV, student_NV.detach() + 7, temperature=2.0)
    (gradient,) = torch.autograd.grad(loss_N.sum(), student_NV)
    torch.testing.assert_close(loss_N, torch.zeros_like(loss_N), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("constant", [0.0, 7.3])
@EVERY_DIVERGENCE
def test_no_divergence_of_equal_logits_of_32000_tokens_has_a_slope_of_rounding(
    name: str, constant: float, temperature: float, dtype: torch.dtype
):
    student_NV = logits(0, 2, 32_000).to(dtype).requires_grad_()
    teacher_NV = student_NV.detach().float() + constant
    (gradient,) = torch.autograd.grad(
        loss(name, student_NV, teacher_NV, temperature).sum(), student_NV
    )
    # Signs of rounding noise under total variation had one of 0.06 at temperature 1.
    assert gradient.norm(dim=-1).max() < 1e-6


def test_total_variation_has_its_whole_slope_as_soon_as_logits_differ_by_a_ten_thousandth():
    teacher_NV = logits(0, 4, 32_000)
    near_NV = teacher_NV + 1e-4 * logits(1, 4, 32_000).sign()
    expected_NV = near_NV.clone().requires_grad_()
    reference_N = dense_reference("total_variation", expected_NV, teacher_NV, 1.0)
    (expected,) = torch.autograd.grad(reference_N.sum(), expected_NV)
    student_NV = near_NV.float().requires_grad_()
    total = loss("total_variation", student_NV, teacher_NV.float()).sum()
    (found,) = torch.autograd.grad(total, student_NV)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-8)


@EVERY_DIVERGENCE
def test_the_gradient_of_a_divergence_at_temperature_2_is_its_finite_difference(name: str):
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    assert torch.autograd.gradcheck(
        lambda x: loss(name, x, teacher_NV, temperature=2.0), student_NV
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gradient_of_forward_kl_is_temperature_times_q_minus_p(temperature: float):
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    total = loss("forward_kl", student_NV, teacher_NV, temperature).sum()
    (gradient,) = torch.autograd.grad(total, student_NV)
    q_NV, p_NV = softmax(student_NV.detach(), temperature), softmax(teacher_NV, temperature)
    torch.testing.assert_close(gradient, temperature * (q_NV - p_NV))


@EVERY_DIVERGENCE
def test_neither_the_students_nor_the_teachers_logits_are_changed(name: str):
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    loss(name, student_NV, teacher_NV, temperature=2.0).sum().backward()
    assert torch.equal(student_NV.detach(), logits(0)) and torch.equal(teacher_NV, logits(1))


@EVERY_DIVERGENCE
def test_a_divergence_of_bfloat16_logits_is_taken_in_float32(name: str):
    student_NV, teacher_NV = logits(0).bfloat16(), logits(1).bfloat16()
    found = loss(name, student_NV, teacher_NV, temperature=2.0)
    expected = loss(name, student_NV.float(), teacher_NV.float(), temperature=2.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@EVERY_DIVERGENCE
def test_a_divergence_of_logits_10000_apart_has_finite_value_and_gradient(name: str):
    student_NV = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    total = loss(name, student_NV, torch.tensor([[-1e4, 0.0, 1e4]])).sum()
    (gradient,) = torch.autograd.grad(total, student_NV)
    assert total.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("name", ["forward_kl", "skew_kl", "jsd", "total_variation"])
def test_a_token_that_the_teacher_rules_out_is_one_of_probability_zero(name: str):
    teacher_NV = torch.cat([THREE_TO_ONE, torch.full((1, 1), -torch.inf)], dim=-1)
    nearly_NV = torch.cat([THREE_TO_ONE, torch.full((1, 1), -80.0)], dim=-1)
    gradients = []
    for teacher in (teacher_NV, nearly_NV):
        student_NV = torch.zeros(1, 3, requires_grad=True)
        loss_N = loss(name, student_NV, teacher)
        gradients.append(torch.autograd.grad(loss_N.sum(), student_NV)[0])
        assert loss_N.isfinite().all()
    torch.testing.assert_close(*gradients)


def test_a_token_that_the_teacher_rules_out_adds_nothing_to_forward_kl():
    teacher_NV = torch.cat([THREE_TO_ONE, torch.full((1, 1), -torch.inf)], dim=-1)
    student_NV = torch.zeros(1, 3, requires_grad=True)
    total = loss("forward_kl", student_NV, teacher_NV).sum()
    (gradient,) = torch.autograd.grad(total, student_NV)
    assert total.item() == pytest.approx(0.75 * math.log(0.75 * 3) + 0.25 * math.log(0.25 * 3))
    torch.testing.assert_close(gradient, torch.tensor([[1 / 3 - 0.75, 1 / 3 - 0.25, 1 / 3]]))


@EVERY_DIVERGENCE
def test_a_divergence_names_both_shapes_when_vocabularies_differ(name: str):
    message = rf"{name}: student logits are \(2, 8\), but teacher logits are \(2, 9\)"
    with pytest.raises(ValueError, match=message):
        loss(name, torch.zeros(2, 8), torch.zeros(2, 9))


@pytest.mark.parametrize(
    ("name", "option"), [("jsd", "beta"), ("skew_kl", "skew"), ("skew_reverse_kl", "skew")]
)
def test_an_option_reaches_the_divergence_that_has_it(name: str, option: str):
    found = [value(name, EVEN, THREE_TO_ONE, **{option: share}) for share in (0.2, 0.6)]
    assert abs(found[0] - found[1]) > 0.01


def test_jsd_at_beta_one_half_is_symmetric():
    forwards = divergence_loss("jsd", logits(0), logits(1), temperature=2.0)
    backwards = divergence_loss("jsd", logits(1), logits(0), temperature=2.0)
    torch.testing.assert_close(forwards, backwards)


def test_jsd_of_certain_and_different_tokens_is_ln_2_and_no_jsd_is_more():
    certain = torch.tensor([[100.0, 0.0, 0.0]])
    assert value("jsd", certain, certain.roll(1)) == pytest.approx(math.log(2))
    found_N = divergence_loss("jsd", 10 * logits(0, 200), 10 * logits(1, 200))
    assert (found_N <= math.log(2) + 1e-12).all()


def test_jsd_over_a_vanishing_beta_is_forward_kl():
    found = divergence_loss("jsd", logits(0), logits(1), beta=1e-6) / 1e-6
    torch.testing.assert_close(
        found, divergence_loss("forward_kl", logits(0), logits(1)), rtol=1e-3, atol=1e-3
    )


def test_jsd_over_a_vanishing_one_minus_beta_is_reverse_kl():
    found = divergence_loss("jsd", logits(0), logits(1), beta=1 - 1e-6) / 1e-6
    torch.testing.assert_close(
        found, divergence_loss("reverse_kl", logits(0), logits(1)), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", ["skew_kl", "skew_reverse_kl"])
def test_a_vanishing_skew_leaves_the_kl_that_is_skewed(name: str):
    plain = {"skew_kl": "forward_kl", "skew_reverse_kl": "reverse_kl"}[name]
    found = divergence_loss(name, logits(0), logits(1), skew=1e-9)
    torch.testing.assert_close(
        found, divergence_loss(plain, logits(0), logits(1)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["skew_kl", "skew_reverse_kl"])
def test_a_skewed_kl_never_exceeds_minus_the_log_of_its_skew(name: str):
    found_N = divergence_loss(name, 30 * logits(0, 200), 30 * logits(1, 200), skew=0.1)
    assert 2.2 < found_N.max() <= -math.log(0.1) + 1e-12


@EVERY_DIVERGENCE
def test_no_loss_of_many_pairs_is_negative_in_float32(name: str):
    near_NV = logits(0, 500).float()
    found_N = loss(name, near_NV, near_NV + 1e-4 * logits(1, 500).float())
    assert (found_N >= -1e-6).all()


def test_a_term_takes_a_teacher_once():
    term = dense_term("forward_kl")
    with pytest.raises(AssertionError, match="no dense teacher was given"):
        from kdwatts.losses.logit_rows import row_loss

        row_loss(term, logits(0))
