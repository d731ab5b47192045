"""What a term of the head owes, and divergences whose gradient autograd forms."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.logit_rows import Block, RowTerm, row_loss
from kdwatts.losses.plain import plain
from kdwatts.losses.response import DIVERGENCES, dense_term
from kdwatts.losses.sparse import cross_entropy_term
from tests.losses.test_response import BETA, SKEW, dense_reference, logits

NUM_ROWS, WIDTH, VOCABULARY = 7, 5, 13
TARGET = torch.tensor([0, 12, 3, 3, 7, 1, 5])
WEIGHTS = {"ce_nats": 0.3, "own": 1.7}
HIDDEN, WEIGHT = logits(0, NUM_ROWS, WIDTH), logits(1, VOCABULARY, WIDTH)
TEACHER = DenseTeacher(logits(2, NUM_ROWS, 6), logits(3, VOCABULARY, 6))


def without_gradient(block: Block, weight: float) -> Tensor:
    return dense_term("forward_kl")(_mute(block), weight)


def _mute(block: Block) -> Block:
    """The same logits for a term that thinks nobody asks for a gradient."""
    return Block(block.rows, *block.logits(), needs_grad=False)


def squared_gap(student_nV: Tensor, teacher_nV: Tensor, *, temperature: float) -> Tensor:
    """Of the logits themselves: a constant added to a row changes it."""
    return ((student_nV - teacher_nV) / temperature).square().mean(-1)


def both_orders(own: RowTerm) -> list[dict[str, RowTerm]]:
    terms = {"ce_nats": cross_entropy_term(TARGET), "own": own}
    return [terms, dict(reversed(terms.items()))]


def of_head(terms: dict[str, RowTerm]) -> tuple[Tensor, Tensor]:
    """The loss and the gradient of the hidden states."""
    hidden = HIDDEN.clone().requires_grad_()
    total, _ = head_loss(hidden, WEIGHT, terms, WEIGHTS, teacher=TEACHER, chunk_rows=3)
    (gradient,) = torch.autograd.grad(total, hidden)
    return total.detach(), gradient


@pytest.mark.parametrize("order", [0, 1])
def test_a_term_that_gives_no_gradient_is_refused_by_name_though_another_gives_one(order: int):
    with pytest.raises(ValueError, match=r"^own gives no gradient, so the student learns nothing"):
        of_head(both_orders(without_gradient)[order])


def test_a_term_that_gives_no_gradient_is_refused_alone_and_of_logits():
    with pytest.raises(ValueError, match="own gives no gradient"):
        of_head({"own": without_gradient})
    with pytest.raises(ValueError, match="a term gives no gradient"):
        row_loss(without_gradient, logits(0).requires_grad_(), logits(1))


def test_no_gradient_is_missed_where_none_is_asked_for():
    with torch.no_grad():
        total, _ = head_loss(HIDDEN, WEIGHT, {"own": without_gradient}, WEIGHTS, teacher=TEACHER)
    expected, _ = head_loss(
        HIDDEN, WEIGHT, {"own": dense_term("forward_kl")}, WEIGHTS, teacher=TEACHER
    )
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("reduce", [torch.sum, torch.mean])
def test_a_term_that_is_not_one_number_a_row_is_refused(reduce: Callable[[Tensor], Tensor]):
    def total(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        return reduce((student_nV - teacher_nV).square())

    with pytest.raises(ValueError, match=re.escape("own is () for 2 rows; have its function")):
        of_head({"own": plain(total)})


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_closed_form_is_what_autograd_makes_of_the_second_formula(
    name: str, temperature: float, order: int
):
    def second(student_nV: Tensor, teacher_nV: Tensor, *, temperature: float) -> Tensor:
        return dense_reference(name, student_nV, teacher_nV, temperature)

    def formed(block: Block, weight: float) -> Tensor:
        return plain(second)(block, weight, temperature=temperature)

    closed = dense_term(name, temperature=temperature, beta=BETA, skew=SKEW)
    found, expected = (of_head(both_orders(own)[order]) for own in (formed, closed))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [0, 1])
def test_a_plain_function_sees_the_logits_even_where_a_gradient_lies_in_their_place(order: int):
    hidden = HIDDEN.clone().requires_grad_()
    student_NV = hidden @ WEIGHT.T
    gap_N = squared_gap(student_NV, TEACHER.hidden_NE @ TEACHER.weight_WE.T, temperature=2.0)
    ce_N = torch.nn.functional.cross_entropy(student_NV, TARGET, reduction="none")
    expected = (0.3 * ce_N + 1.7 * gap_N).sum()

    def own(block: Block, weight: float) -> Tensor:
        return plain(squared_gap)(block, weight, temperature=2.0)

    total, gradient = of_head(both_orders(own)[order])
    torch.testing.assert_close(total, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, hidden)[0])


def test_a_plain_function_is_a_divergence_like_any_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(DIVERGENCES, "own", plain(squared_gap))
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    total = row_loss(dense_term("own", temperature=2.0), student_NV, teacher_NV).sum()
    (gradient,) = torch.autograd.grad(total, student_NV)
    torch.testing.assert_close(gradient, (student_NV.detach() - teacher_NV) / 4 * 2 / 11)


def test_a_plain_function_that_loses_the_student_is_refused():
    def detached(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        return squared_gap(student_nV.detach(), teacher_nV, temperature=1.0)

    with pytest.raises(ValueError, match="own gives no gradient"):
        of_head({"own": plain(detached)})


def test_a_plain_function_works_in_float32_on_bfloat16_logits_and_under_autocast():
    seen: list[torch.dtype] = []

    def products(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        seen.extend((student_nV.dtype, teacher_nV.dtype, (student_nV @ teacher_nV.T).dtype))
        return (student_nV - teacher_nV).square().mean(-1)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        head_loss(
            HIDDEN.float().requires_grad_(),
            WEIGHT.float(),
            {"own": plain(products)},
            {"own": 1.0},
            teacher=DenseTeacher(TEACHER.hidden_NE.float(), TEACHER.weight_WE.float()),
        )
    assert set(seen) == {torch.float32}
