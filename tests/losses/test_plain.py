"""Divergences as plain functions of logits, whose gradient autograd forms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdwatts.losses.chunks import LOGIT_ELEMENTS
from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.logit_rows import Block, row_loss
from kdwatts.losses.plain import plain
from kdwatts.losses.response import CLOSED_FORMS, DEFINITIONS, DIVERGENCES, dense_term
from kdwatts.runtime.plugins import DIVERGENCES as GROUP
from tests.losses.test_logit_rows import HIDDEN, TARGET, TEACHER, WEIGHT, both_orders, of_head
from tests.losses.test_response import BETA, SKEW, dense_reference, logits
from tests.plugin_package import install


def squared_gap(student_nV: Tensor, teacher_nV: Tensor, *, temperature: float) -> Tensor:
    """Of the logits themselves: a constant added to a row changes it."""
    return ((student_nV - teacher_nV) / temperature).square().mean(-1)


def plain_term(function: Callable[..., Tensor], **options: float) -> Callable[..., Tensor]:
    return lambda block, weight: plain(function)(block, weight, **options)


def of_rows(function: Callable[..., Tensor], **options: float) -> tuple[Tensor, Tensor]:
    """Loss and gradient of logits."""
    student_NV = logits(0).requires_grad_()
    loss_N = row_loss(plain_term(function, **options), student_NV, logits(1))
    return loss_N.detach(), torch.autograd.grad(loss_N.sum(), student_NV)[0]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_is_the_second_formula(name: str, temperature: float):
    options = {"jsd": {"beta": BETA}, "skew_kl": {"skew": SKEW}, "skew_reverse_kl": {"skew": SKEW}}
    found = of_rows(DEFINITIONS[name], temperature=temperature, **options.get(name, {}))
    student_NV = logits(0).requires_grad_()
    loss_N = dense_reference(name, student_NV, logits(1), temperature)
    expected = loss_N.detach(), torch.autograd.grad(loss_N.sum(), student_NV)[0]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_closed_form_is_what_autograd_makes_of_the_definition(
    name: str, temperature: float, order: int, monkeypatch: pytest.MonkeyPatch
):
    settings = {"temperature": temperature, "beta": BETA, "skew": SKEW}
    closed = dense_term(name, **settings)
    monkeypatch.setitem(DIVERGENCES, name, plain(DEFINITIONS[name]))
    found, expected = (
        of_head(both_orders(own)[order]) for own in (dense_term(name, **settings), closed)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_every_shipped_divergence_has_a_definition():
    assert set(CLOSED_FORMS) <= set(DEFINITIONS) == set(DIVERGENCES)


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


def test_a_function_is_given_a_block_of_rows_at_a_time(monkeypatch: pytest.MonkeyPatch):
    expected = of_head({"own": plain_term(squared_gap, temperature=1.0)})
    seen: list[int] = []

    def spy(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        seen.append(len(student_nV))
        return squared_gap(student_nV, teacher_nV, temperature=1.0)

    monkeypatch.setitem(LOGIT_ELEMENTS, "cpu", 2 * WEIGHT.shape[0])
    found = of_head({"own": plain_term(spy)})
    assert max(seen) == 2 and sum(seen) == len(HIDDEN)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_function_that_names_no_temperature_is_of_logits_over_it_times_its_square():
    def total_gap(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        return (student_nV - teacher_nV).abs().sum(-1)

    found = of_rows(total_gap, temperature=2.5)
    # Of the logits' first power: 1 / T of them, T^2 of the value.
    for one, other in zip(found, of_rows(total_gap), strict=True):
        torch.testing.assert_close(one, 2.5 * other)


def test_a_function_is_given_what_it_names_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    def named(student_nV: Tensor, teacher_nV: Tensor, *, skew: float, power: int = 2) -> Tensor:
        return skew * (student_nV - teacher_nV).pow(power).mean(-1)

    monkeypatch.setitem(DIVERGENCES, "own", plain(named))
    found = row_loss(dense_term("own", skew=0.5, beta=0.9), logits(0), logits(1))
    torch.testing.assert_close(found, 0.5 * (logits(0) - logits(1)).square().mean(-1))


def test_a_function_that_needs_what_nobody_gives_is_refused():
    def needy(student_nV: Tensor, teacher_nV: Tensor, margin: float) -> Tensor:
        return (student_nV - teacher_nV - margin).mean(-1)

    with pytest.raises(
        ValueError, match=r"^the divergence needy needs margin, but it is only given the"
    ):
        plain(needy)


def test_a_plain_function_is_a_divergence_like_any_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(DIVERGENCES, "own", plain(squared_gap))
    student_NV, teacher_NV = logits(0).requires_grad_(), logits(1)
    total = row_loss(dense_term("own", temperature=2.0), student_NV, teacher_NV).sum()
    (gradient,) = torch.autograd.grad(total, student_NV)
    torch.testing.assert_close(gradient, (student_NV.detach() - teacher_NV) / 4 * 2 / 11)


def test_a_divergence_of_an_installed_package_is_one_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = (
        "def gap(student_nV, teacher_nV):\n    return (student_nV - teacher_nV).abs().sum(-1)\n"
    )
    install(tmp_path, "row-gaps", {GROUP: {"gap": "row_gaps:gap"}}, {"row_gaps": source})
    monkeypatch.syspath_prepend(tmp_path)
    found = row_loss(dense_term("gap", temperature=2.0), logits(0), logits(1))
    torch.testing.assert_close(found, 2 * (logits(0) - logits(1)).abs().sum(-1))


def test_a_plain_function_that_loses_the_student_is_refused():
    def detached(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        return squared_gap(student_nV.detach(), teacher_nV, temperature=1.0)

    with pytest.raises(ValueError, match="own has no gradient"):
        of_head({"own": plain(detached)})


def test_a_plain_function_whose_gradient_starts_behind_the_student_is_refused():
    def restarted(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        return squared_gap(student_nV.detach(), teacher_nV, temperature=1.0).requires_grad_()

    with pytest.raises(ValueError, match="own has no gradient"):
        of_head({"own": plain(restarted)})


@pytest.mark.parametrize("reduce", [torch.sum, torch.mean])
def test_a_term_that_is_not_one_number_a_row_is_refused(reduce: Callable[[Tensor], Tensor]):
    def total(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        return reduce((student_nV - teacher_nV).square())

    with pytest.raises(ValueError, match=re.escape("own has the shape () for 2 rows; return one")):
        of_head({"own": plain(total)})


def test_a_function_that_returns_no_tensor_is_refused():
    with pytest.raises(ValueError, match=r"^the divergence number returns a float; return a"):

        def number(student_nV: Tensor, teacher_nV: Tensor) -> float:
            return (student_nV - teacher_nV).sum().item()

        of_head({"own": plain(number)})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_slope_that_is_not_finite_is_refused_where_the_logits_are_finite(temperature: float):
    def root(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        return (student_nV - student_nV.detach()).abs().sum(-1).sqrt() + teacher_nV.sum(-1)

    with pytest.raises(ValueError, match=r"^the divergence root has a value or a gradient that is"):
        of_rows(root, temperature=temperature)


def test_logits_that_are_not_finite_are_not_blamed_on_the_function():
    student_NV = logits(0).fill_(torch.nan).requires_grad_()
    loss_N = row_loss(plain_term(squared_gap, temperature=1.0), student_NV, logits(1))
    assert loss_N.isnan().all()


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
