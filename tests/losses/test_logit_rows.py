"""What a term of the head owes: a gradient, and one number a row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.logit_rows import Block, RowTerm, row_loss
from kdwatts.losses.response import dense_term
from kdwatts.losses.sparse import cross_entropy_term
from tests.losses.test_response import logits

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
    with pytest.raises(ValueError, match=r"^own has no gradient, so the student learns nothing"):
        of_head(both_orders(without_gradient)[order])


def test_a_term_that_gives_no_gradient_is_refused_alone_and_of_logits():
    with pytest.raises(ValueError, match="own has no gradient"):
        of_head({"own": without_gradient})
    with pytest.raises(ValueError, match="a term has no gradient"):
        row_loss(without_gradient, logits(0).requires_grad_(), logits(1))


def test_no_gradient_is_missed_where_none_is_asked_for():
    with torch.no_grad():
        total, _ = head_loss(HIDDEN, WEIGHT, {"own": without_gradient}, WEIGHTS, teacher=TEACHER)
    expected, _ = head_loss(
        HIDDEN, WEIGHT, {"own": dense_term("forward_kl")}, WEIGHTS, teacher=TEACHER
    )
    torch.testing.assert_close(total, expected)


def test_a_term_that_is_not_one_number_a_row_is_refused():
    def total(block: Block, weight: float) -> Tensor:
        return dense_term("forward_kl")(block, weight).sum()

    with pytest.raises(ValueError, match=r"^own has the shape \(\) for 2 rows; return one num"):
        of_head({"own": total})
