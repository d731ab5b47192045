"""The chunked head against dense logits that autograd differentiates in float64."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.head import RowTerm, head_loss
from kdwatts.losses.response import (
    cross_entropy,
    forward_kl,
    jsd,
    reverse_kl,
    top_k_forward_kl,
    top_k_of,
)

NUM_ROWS, WIDTH, VOCABULARY = 7, 5, 13
TEMPERATURE = 2.0
WEIGHTS = {"ce": 0.3, "kd": 1.7}


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


HIDDEN, WEIGHT = normal(0, NUM_ROWS, WIDTH), normal(1, VOCABULARY, WIDTH)
TEACHER = 2 * normal(2, NUM_ROWS, VOCABULARY)
TARGET = torch.tensor([0, 12, 3, 3, 7, 1, 5])


def terms(divergence: str = "forward_kl", dtype: torch.dtype = torch.float64) -> dict[str, RowTerm]:
    teacher = TEACHER.to(dtype)
    if divergence == "top_k":
        top_k = top_k_of(teacher, k=4, temperature=TEMPERATURE)
        kd: RowTerm = lambda x, rows: top_k_forward_kl(  # noqa: E731
            x, top_k.rows(rows), temperature=TEMPERATURE
        )
    else:
        dense = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jsd}[divergence]
        kd = lambda x, rows: dense(x, teacher[rows], temperature=TEMPERATURE)  # noqa: E731
    return {"ce": lambda x, rows: cross_entropy(x, TARGET[rows]), "kd": kd}


def gradients(hidden: Tensor, weight: Tensor, named: Mapping[str, RowTerm], chunk_rows: int = 3):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    total, _ = head_loss(hidden, weight, named, WEIGHTS, chunk_rows=chunk_rows)
    return total.detach(), *torch.autograd.grad(total, (hidden, weight))


def dense_reference(hidden: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy and T^2 KL by torch's own functions, on all logits at once."""
    logits = hidden @ weight.T
    log_q = (logits / TEMPERATURE).log_softmax(-1)
    p = (TEACHER / TEMPERATURE).softmax(-1)
    kd = TEMPERATURE**2 * F.kl_div(log_q, p, reduction="sum")
    return WEIGHTS["ce"] * F.cross_entropy(logits, TARGET, reduction="sum") + WEIGHTS["kd"] * kd


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_chunked_loss_and_gradients_are_those_of_dense_float64_logits(
    dtype: torch.dtype, tolerance: float
):
    hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    expected = dense_reference(hidden, weight)
    found = gradients(HIDDEN.to(dtype), WEIGHT.to(dtype), terms(dtype=dtype))
    wanted = (expected.detach(), *torch.autograd.grad(expected, (hidden, weight)))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "top_k"])
def test_the_gradient_of_the_chunked_loss_at_temperature_2_is_its_finite_difference(
    divergence: str,
):
    named = terms(divergence)
    assert torch.autograd.gradcheck(
        lambda hidden, weight: head_loss(hidden, weight, named, WEIGHTS, chunk_rows=3)[0],
        (HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()),
    )


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 100])
def test_the_chunk_size_changes_neither_loss_nor_gradient(chunk_rows: int):
    for found, expected in zip(
        gradients(HIDDEN, WEIGHT, terms(), chunk_rows),
        gradients(HIDDEN, WEIGHT, terms()),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_no_term_ever_sees_more_rows_than_a_chunk():
    seen: list[tuple[torch.Size, slice]] = []

    def spy(logits: Tensor, rows: slice) -> Tensor:
        seen.append((logits.shape, rows))
        return logits.sum(-1)

    head_loss(HIDDEN, WEIGHT, {"spy": spy}, {"spy": 1.0}, chunk_rows=3)
    assert [shape for shape, _ in seen] == [(3, 13), (3, 13), (1, 13)]
    assert [rows for _, rows in seen] == [slice(0, 3), slice(3, 6), slice(6, 7)]


def test_a_tied_embedding_receives_the_gradients_of_both_its_uses():
    tokens = torch.tensor([1, 3, 3, 0, 12, 4, 7])
    found, expected = (WEIGHT.clone().requires_grad_() for _ in range(2))
    head_loss(found[tokens].tanh(), found, terms(), WEIGHTS, chunk_rows=3)[0].backward()
    dense_reference(expected[tokens].tanh(), expected).backward()
    assert found.grad is not None and expected.grad is not None
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-12)


def test_head_rows_beyond_the_shared_vocabulary_have_no_part_in_loss_or_gradient():
    padded = torch.cat([WEIGHT, 100 * normal(3, 4, WIDTH)]).requires_grad_()
    total, _ = head_loss(HIDDEN, padded[:VOCABULARY], terms(), WEIGHTS, chunk_rows=3)
    (gradient,) = torch.autograd.grad(total, padded)
    expected = gradients(HIDDEN, WEIGHT, terms())
    torch.testing.assert_close(total.detach(), expected[0])
    torch.testing.assert_close(gradient[:VOCABULARY], expected[2])
    assert not gradient[VOCABULARY:].any()


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_leaves_the_gradient_of_the_other_as_it_is(frozen: int):
    sides = [HIDDEN.clone(), WEIGHT.clone()]
    trained = sides[1 - frozen].requires_grad_()
    total, _ = head_loss(sides[0], sides[1], terms(), WEIGHTS, chunk_rows=3)
    (gradient,) = torch.autograd.grad(total, trained)
    torch.testing.assert_close(gradient, gradients(HIDDEN, WEIGHT, terms())[2 - frozen])


def test_parts_are_sums_without_their_weights_and_without_gradient():
    hidden = HIDDEN.clone().requires_grad_()
    total, parts = head_loss(hidden, WEIGHT, terms(), WEIGHTS, chunk_rows=3)
    torch.testing.assert_close(total.detach(), 0.3 * parts["ce"] + 1.7 * parts["kd"])
    expected = F.cross_entropy(HIDDEN @ WEIGHT.T, TARGET, reduction="sum")
    torch.testing.assert_close(parts["ce"], expected)
    assert total.requires_grad and not any(part.requires_grad for part in parts.values())


def test_a_third_of_the_loss_has_a_third_of_the_gradient_and_backward_may_run_twice():
    hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    total, _ = head_loss(hidden, weight, terms(), WEIGHTS, chunk_rows=3)
    third = total / 3
    _, *expected = gradients(HIDDEN, WEIGHT, terms())
    for _ in range(2):
        found = torch.autograd.grad(third, (hidden, weight), retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(3 * one, other)


def test_a_second_derivative_is_refused_rather_than_zero():
    hidden = HIDDEN.clone().requires_grad_()
    total, _ = head_loss(hidden, WEIGHT, terms(), WEIGHTS)
    (gradient,) = torch.autograd.grad(total.square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_a_micro_batch_without_targets_has_loss_zero_and_gradient_zero():
    hidden, weight = HIDDEN[:0].clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    total, parts = head_loss(hidden, weight, terms(), WEIGHTS)
    found = torch.autograd.grad(total, (hidden, weight))
    assert total.item() == 0 and all(part.item() == 0 for part in parts.values())
    assert found[0].shape == (0, WIDTH) and not found[1].any()


def test_without_gradients_the_loss_is_the_same():
    with torch.no_grad():
        total, _ = head_loss(HIDDEN, WEIGHT, terms(), WEIGHTS, chunk_rows=3)
    torch.testing.assert_close(total, dense_reference(HIDDEN, WEIGHT))


def test_under_autocast_products_are_bfloat16_and_losses_and_gradients_float32():
    seen: list[torch.dtype] = []

    def spy(logits: Tensor, rows: slice) -> Tensor:
        seen.append(logits.dtype)
        # Rounded by the product: every logit is a bfloat16 number.
        assert torch.equal(logits, logits.bfloat16().float())
        return cross_entropy(logits, TARGET[rows])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(HIDDEN.float(), WEIGHT.float(), {**terms(dtype=torch.float32), "ce": spy})
    assert set(seen) == {torch.float32}
    for one, other in zip(found, gradients(HIDDEN, WEIGHT, terms()), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=0.05)


def test_a_bfloat16_head_adds_up_its_gradient_over_chunks_in_float32():
    # The hundredth equal addend of a bfloat16 sum is already rounded; the thousandth is lost.
    hidden = torch.full((1024, 1), 1.0, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    named: dict[str, RowTerm] = {"ce": lambda x, rows: cross_entropy(x, torch.zeros(1).long())}
    total, _ = head_loss(hidden, weight, named, {"ce": 1.0}, chunk_rows=1)
    (gradient,) = torch.autograd.grad(total, weight)
    # Each row gives q - 1 = -1/2 to the target and +1/2 to the other.
    assert gradient.dtype == torch.bfloat16 and gradient.flatten().tolist() == [-512.0, 512.0]


def test_the_teacher_receives_no_gradient_even_where_it_could():
    teacher = TEACHER.clone().requires_grad_()
    hidden = HIDDEN.clone().requires_grad_()
    named: dict[str, RowTerm] = {"kd": lambda x, rows: forward_kl(x, teacher[rows])}
    head_loss(hidden, WEIGHT, named, {"kd": 1.0}, chunk_rows=3)[0].backward()
    assert hidden.grad is not None and teacher.grad is None
