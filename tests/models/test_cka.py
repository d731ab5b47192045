"""Linear CKA against its plain formula, and pairs that do not cross."""

# N positions, D width of a block.

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from kdwatts.models.cka import best_pairs, cka_table, unbiased_gram


def states(seed: int, num: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


def cka(x_ND: Tensor, y_ND: Tensor) -> float:
    return cka_table([unbiased_gram(x_ND)], [unbiased_gram(y_ND)]).item()


def plain_cka(x_ND: Tensor, y_ND: Tensor, *, centred: bool = True) -> float:
    """‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred columns (Kornblith et al. 2019, section 3)."""
    if centred:
        x_ND, y_ND = x_ND - x_ND.mean(0), y_ND - y_ND.mean(0)
    return ((y_ND.T @ x_ND).norm() ** 2 / ((x_ND.T @ x_ND).norm() * (y_ND.T @ y_ND).norm())).item()


def unbiased_hsic_by_loop(x_ND: Tensor, y_ND: Tensor) -> float:
    """The mean of K_ij L_ij - 2 K_ij L_iq + K_ij L_qr over distinct i, j, q, r (Song et al.)."""
    gram_x, gram_y = (x_ND @ x_ND.T).tolist(), (y_ND @ y_ND.T).tolist()
    terms = [
        gram_x[i][j] * (gram_y[i][j] - 2 * gram_y[i][q] + gram_y[q][r])
        for i, j, q, r in itertools.permutations(range(len(gram_x)), 4)
    ]
    return sum(terms) / len(terms)


def test_the_product_of_two_grams_is_the_unbiased_estimate_over_all_distinct_quadruples():
    x_ND, y_ND = states(0, 7, 3) + 5, states(1, 7, 4)
    found = (unbiased_gram(x_ND) * unbiased_gram(y_ND)).sum().item() / (7 * 4)
    assert found == pytest.approx(unbiased_hsic_by_loop(x_ND, y_ND), rel=1e-9)


def test_with_many_positions_cka_is_the_plain_formula():
    x_ND = states(0, 4000, 6)
    y_ND = x_ND @ states(1, 6, 5) + 2 * states(2, 4000, 5) + 3
    assert cka(x_ND, y_ND) == pytest.approx(plain_cka(x_ND, y_ND), abs=2e-3)
    # Offsets that all positions share are not similarity: uncentred, they are most of it.
    assert plain_cka(x_ND, y_ND, centred=False) < plain_cka(x_ND, y_ND) - 0.1


def test_noise_wider_than_its_positions_are_many_has_no_cka_where_the_plain_formula_sees_much():
    x_ND, y_ND = states(0, 64, 128), states(1, 64, 128)
    # Expected of the plain one: D / (N + D).
    assert plain_cka(x_ND, y_ND) == pytest.approx(128 / 192, abs=0.02)
    assert abs(cka(x_ND, y_ND)) < 0.05


def test_a_block_is_wholly_like_itself_rotated_scaled_and_moved():
    x_ND = states(0, 40, 6)
    rotation_DD = torch.linalg.qr(states(1, 6, 6))[0]
    assert cka(x_ND, -7 * x_ND @ rotation_DD + 3) == pytest.approx(1, abs=1e-12)
    # Any invertible map would do for canonical correlation; CKA keeps the weight of directions.
    assert cka(x_ND, x_ND @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 1]).double())) < 0.9


def test_bfloat16_states_far_from_zero_lose_no_digit_of_their_own():
    x_ND, y_ND = states(0, 50, 4).bfloat16() + 64, states(1, 50, 4).bfloat16()
    assert cka(x_ND, y_ND) == pytest.approx(cka(x_ND.double(), y_ND.double()), abs=1e-9)


def test_three_positions_are_refused():
    with pytest.raises(
        ValueError, match="3 positions are too few to compare blocks, which takes at least 4"
    ):
        unbiased_gram(states(0, 3, 2))


def pairs_by_search(table_ST: Tensor, num_pairs: int) -> list[tuple[int, int]]:
    num_student, num_teacher = table_ST.shape
    candidates = [
        list(zip(mine, theirs, strict=True))
        for mine in itertools.combinations(range(num_student), num_pairs)
        for theirs in itertools.combinations(range(num_teacher), num_pairs)
    ]
    return max(candidates, key=lambda pairs: sum(table_ST[s, t].item() for s, t in pairs))


@pytest.mark.parametrize("num_pairs", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_the_pairs_are_those_of_highest_total_among_all_that_cross_nowhere(
    num_pairs: int, shape: tuple[int, int]
):
    for seed in range(5):
        table_ST = states(seed, *shape)
        assert best_pairs(table_ST, num_pairs) == pairs_by_search(table_ST, num_pairs)


def test_each_block_s_own_best_match_may_be_one_teacher_block_for_all_and_is_not_taken():
    table_ST = torch.tensor([[0.9, 0.3, 0.2], [0.8, 0.5, 0.6]], dtype=torch.float64)
    assert table_ST.argmax(1).tolist() == [0, 0]
    assert best_pairs(table_ST, 0) == [(0, 0), (1, 2)]
    assert best_pairs(table_ST, 1) == [(0, 0)]


def test_more_pairs_than_the_shallower_model_has_blocks_are_refused():
    with pytest.raises(
        ValueError, match="num_pairs=3 is too many for models of 2 and 5 blocks; give at"
    ):
        best_pairs(torch.zeros(2, 5, dtype=torch.float64), 3)
