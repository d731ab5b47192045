"""The universal loss: hand values, a reference on sorted probabilities, and what it cannot see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.sparse import cross_entropy_term
from kdwatts.losses.universal import universal, universal_term


def logits(seed: int, num_rows: int = 5, vocabulary: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(num_rows, vocabulary, generator=generator, dtype=torch.float64)


def reference(student_NV: Tensor, teacher_NW: Tensor, temperature: float) -> Tensor:
    q, p = (student_NV / temperature).softmax(-1), (teacher_NW / temperature).softmax(-1)
    width = max(q.shape[-1], p.shape[-1])
    q, p = (F.pad(x, (0, width - x.shape[-1])).sort(-1).values for x in (q, p))
    return temperature**2 * (q - p).abs().sum(-1)


def test_a_half_and_two_quarters_are_by_hand_one_half_from_two_thirds_and_a_third():
    student = torch.tensor([[0.25, 0.5, 0.25]]).log()
    teacher = torch.tensor([[1 / 3, 2 / 3]]).log()
    # Sorted: (1/2, 1/4, 1/4) and (2/3, 1/3, 0), so 1/6 + 1/12 + 1/4.
    assert universal(student, teacher).item() == pytest.approx(0.5)


@pytest.mark.parametrize("widths", [(11, 11), (11, 17), (17, 11)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_loss_and_gradient_are_those_of_sorted_padded_probabilities(
    temperature: float, widths: tuple[int, int]
):
    student, teacher = logits(0, vocabulary=widths[0]), logits(1, vocabulary=widths[1])
    student.requires_grad_()
    found, expected = (
        universal(student, teacher, temperature=temperature),
        reference(student, teacher, temperature),
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), student), torch.autograd.grad(expected.sum(), student)
    )


def test_renumbering_either_vocabulary_changes_nothing_which_no_other_divergence_can_say():
    order, other = torch.randperm(11), torch.randperm(11)
    found = universal(logits(0)[:, order], logits(1)[:, other])
    torch.testing.assert_close(found, universal(logits(0), logits(1)))
    torch.testing.assert_close(universal(logits(0)[:, order], logits(0)), torch.zeros(5).double())


def test_probabilities_cut_to_the_smaller_vocabulary_would_be_another_loss():
    student, teacher = logits(0), logits(1, vocabulary=17)
    cut = reference(student, teacher[:, :11], 1.0)
    assert not torch.allclose(universal(student, teacher), cut)


def test_positions_that_are_not_compared_add_neither_loss_nor_gradient():
    compared = torch.tensor([True, False, True, False, False])
    student = logits(0).requires_grad_()
    found = universal(student, logits(1), compared_N=compared)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    expected = reference(logits(0), logits(1), 1.0)
    torch.testing.assert_close(found.detach(), torch.where(compared, expected, 0.0))
    assert not gradient[~compared].any() and gradient[compared].any(-1).all()


def test_positions_that_are_not_compared_are_not_sorted(monkeypatch: pytest.MonkeyPatch):
    compared = torch.tensor([True, False, True, False, False])
    shapes = []
    sort = Tensor.sort
    monkeypatch.setattr(
        Tensor, "sort", lambda x, *a, **k: shapes.append(x.shape) or sort(x, *a, **k)
    )
    universal(logits(0), logits(1, vocabulary=17), compared_N=compared)
    assert shapes == [(2, 11), (2, 17)]


def test_where_no_position_is_compared_there_is_neither_loss_nor_gradient():
    student = logits(0).requires_grad_()
    found = universal(student, logits(1), compared_N=torch.zeros(5, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert not found.any() and not gradient.any()


@pytest.mark.parametrize("chunk_rows", [2, 5])
def test_in_the_head_two_vocabularies_and_cross_entropy_go_together(chunk_rows: int):
    hidden, weight = logits(2, 5, 4).requires_grad_(), logits(3, 11, 4).requires_grad_()
    teacher = DenseTeacher(logits(4, 5, 6), logits(5, 17, 6))
    target, compared = torch.tensor([0, 3, 10, 7, 7]), torch.tensor([1, 1, 0, 1, 0]).bool()
    terms = {
        "kd": universal_term(temperature=2.0, compared_N=compared),
        "ce": cross_entropy_term(target),
    }
    found, _ = head_loss(
        hidden, weight, terms, {"kd": 0.7, "ce": 0.3}, teacher=teacher, chunk_rows=chunk_rows
    )
    teacher_NW = teacher.hidden_NE @ teacher.weight_WE.T
    kd = reference((hidden @ weight.T)[compared], teacher_NW[compared], 2.0).sum()
    expected = 0.7 * kd + 0.3 * F.cross_entropy(hidden @ weight.T, target, reduction="sum")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
    )


@pytest.mark.parametrize("constant", [0.0, 7.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_of_32000_tokens_up_to_a_constant_have_no_slope_of_rounding(
    dtype: torch.dtype, constant: float
):
    student = logits(0, 2, 32_000).to(dtype).requires_grad_()
    loss_N = universal(student, student.detach().float() + constant)
    (gradient,) = torch.autograd.grad(loss_N.sum(), student)
    # Signs of rounding noise had one of 0.16.
    assert gradient.norm(dim=-1).max() < 1e-6
