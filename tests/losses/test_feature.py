"""Distances between hidden states."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdwatts.losses.feature import DISTANCES, cosine, mse, normalized_mse

RIGHT = torch.tensor([[3.0, 0.0]])


def states(seed: int, num_rows: int = 4, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("other", "expected"), [([0.5, 0.0], 0.0), ([0.0, 7.0], 2.0), ([-2.0, 0.0], 4.0)]
)
def test_normalized_mse_is_0_for_parallel_2_for_orthogonal_4_for_opposite_rows(
    other: list[float], expected: float
):
    assert normalized_mse(RIGHT, torch.tensor([other])).item() == pytest.approx(expected, abs=1e-5)


def test_normalized_mse_is_twice_one_minus_the_cosine():
    student_ND, teacher_ND = 50 * states(0), 0.5 * states(1)
    norms = student_ND.norm(dim=-1) * teacher_ND.norm(dim=-1)
    expected = 2 * (1 - (student_ND * teacher_ND).sum(-1) / norms)
    torch.testing.assert_close(normalized_mse(student_ND, teacher_ND), expected, rtol=0, atol=1e-4)


def test_normalized_mse_ignores_the_scale_of_either_model():
    expected = normalized_mse(states(0), states(1))
    found = normalized_mse(1000 * states(0), 30 * states(1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_mse_of_1_2_and_3_2_is_2():
    assert mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])).tolist() == [2.0]


def test_cosine_distance_of_rows_45_degrees_apart_is_1_less_the_root_of_a_half():
    found = cosine(RIGHT, torch.tensor([[5.0, 5.0]])).item()
    assert found == pytest.approx(1 - math.sqrt(0.5), abs=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_has_one_value_per_row_and_is_zero_at_equality(name: str):
    found = DISTANCES[name](states(0), states(0))
    torch.testing.assert_close(found, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_gradient_of_a_distance_is_its_finite_difference(name: str):
    teacher_ND = states(1)
    assert torch.autograd.gradcheck(
        lambda x: DISTANCES[name](x, teacher_ND), states(0).requires_grad_()
    )


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_of_bfloat16_states_is_taken_in_float32(name: str):
    student_ND, teacher_ND = states(0).bfloat16(), states(1).bfloat16()
    found = DISTANCES[name](student_ND, teacher_ND)
    assert found.dtype == torch.float32
    expected = DISTANCES[name](student_ND.double(), teacher_ND.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_keeps_the_digits_of_a_float64_teacher(name: str):
    found = DISTANCES[name](states(0).float(), states(1))
    expected = DISTANCES[name](states(0).float().double(), states(1))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_names_both_shapes_when_widths_differ(name: str):
    message = r"student states are \(4, 6\), but teacher states are \(4, 8\); project the student"
    with pytest.raises(ValueError, match=message):
        DISTANCES[name](states(0), states(1, width=8))


@pytest.mark.parametrize("length", [0.0, 1e-9])
def test_the_cosine_of_a_row_without_a_length_has_no_slope_and_spoils_no_other(length: float):
    student_ND = states(0).float()
    student_ND[1] *= length
    student_ND.requires_grad_()
    distance_N = cosine(student_ND, states(1).float())
    (gradient_ND,) = torch.autograd.grad(distance_N.sum(), student_ND)
    # It had one of a hundred million, the reciprocal of torch's least norm.
    assert not gradient_ND[1].any() and gradient_ND.isfinite().all()
    assert gradient_ND[[0, 2, 3]].any(-1).all()
    assert distance_N[1].item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_has_no_slope_at_equality(name: str):
    student_ND = states(0).float().requires_grad_()
    total = DISTANCES[name](student_ND, student_ND.detach()).sum()
    (gradient_ND,) = torch.autograd.grad(total, student_ND)
    assert gradient_ND.abs().max() < 1e-6
