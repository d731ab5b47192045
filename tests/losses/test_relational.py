"""Relations between embeddings, against figures of plane geometry and loops in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.relational import (
    MIN_GROUP,
    angle_loss,
    distance_loss,
    group_loss,
    mean_pool,
    num_groups,
    pairwise_distances,
    relational_loss,
    triplet_cosines,
    unit_extent,
)

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: list[Loss] = [distance_loss, angle_loss]


def embeddings(seed: int, num: int = 5, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


def huber(difference: float) -> float:
    size = abs(difference)
    return size**2 / 2 if size < 1 else size - 0.5


def distances_by_loop(embedding_GD: Tensor) -> dict[tuple[int, int], float]:
    pairs = itertools.combinations(range(len(embedding_GD)), 2)
    length = {(i, j): math.dist(embedding_GD[i], embedding_GD[j]) for i, j in pairs}
    mean = sum(length.values()) / len(length)
    return {pair: value / mean for pair, value in length.items()}


def cosines_by_loop(embedding_GD: Tensor) -> list[float]:
    cosines = []
    for i, j, k in itertools.permutations(range(len(embedding_GD)), 3):
        to_i, to_k = embedding_GD[i] - embedding_GD[j], embedding_GD[k] - embedding_GD[j]
        cosines.append((to_i @ to_k / to_i.norm() / to_k.norm()).item())
    return cosines


def test_points_at_0_1_and_3_lie_a_half_three_halves_and_1_mean_distance_apart():
    found = pairwise_distances(torch.tensor([[0.0], [1.0], [3.0]]))
    torch.testing.assert_close(found, torch.tensor([0.5, 1.5, 1.0]))


def test_points_that_coincide_do_not_count_in_the_mean_distance():
    found = pairwise_distances(torch.tensor([[0.0], [0.0], [4.0]]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 1.0]))


def test_a_right_triangle_with_two_equal_sides_has_cosines_0_and_root_of_a_half():
    found = triplet_cosines(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    # At the right angle [0, 1, 2] and [0, 2, 1], at the others four times; the other 21 are none.
    expected = torch.tensor([0.0] * 23 + [math.sqrt(0.5)] * 4)
    torch.testing.assert_close(found.flatten().sort().values, expected)
    assert found[0, 1, 2] == 0 < found[1, 0, 2]


def test_distance_loss_is_the_mean_huber_loss_over_pairs():
    student, teacher = (distances_by_loop(embeddings(seed)) for seed in (0, 1))
    expected = sum(huber(student[pair] - teacher[pair]) for pair in student) / 10
    found = distance_loss(embeddings(0), embeddings(1)).item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_angle_loss_is_the_mean_huber_loss_over_ordered_triplets():
    student, teacher = (cosines_by_loop(embeddings(seed)) for seed in (0, 1))
    assert len(student) == 60
    expected = sum(huber(s - t) for s, t in zip(student, teacher, strict=True)) / 60
    assert angle_loss(embeddings(0), embeddings(1)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 2.0, 1000.0])
def test_a_student_at_a_multiple_of_the_teachers_embedding_has_no_relational_loss(
    loss: Loss, scale: float
):
    assert loss(scale * embeddings(0), embeddings(0)).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_narrow_student_that_lies_as_the_wide_teacher_does_has_no_relational_loss(loss: Loss):
    wider = F.pad(embeddings(0), (0, 3))
    moved = wider + torch.arange(7.0)
    assert loss(embeddings(0), moved).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_a_relational_loss_is_its_finite_difference(loss: Loss):
    teacher_GD = embeddings(1)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher_GD), embeddings(0).requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_coincident", [2, 5])
def test_embeddings_that_coincide_leave_a_gradient_of_ordinary_size(
    loss: Loss, num_coincident: int
):
    student_GD = embeddings(0)
    student_GD[:num_coincident] = student_GD[0]
    student_GD = student_GD.float().requires_grad_()
    value = loss(student_GD, embeddings(1).float())
    (gradient,) = torch.autograd.grad(value, student_GD)
    assert value.isfinite() and gradient.isfinite().all()
    assert gradient.abs().max() < 10


@pytest.mark.parametrize("loss", LOSSES)
def test_a_relational_loss_under_autocast_is_the_one_without(loss: Loss):
    student_GD, teacher_GD = embeddings(0).float(), embeddings(1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student_GD, teacher_GD)
    torch.testing.assert_close(found, loss(student_GD, teacher_GD), rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_relational_loss_of_bfloat16_embeddings_is_taken_in_float32(loss: Loss):
    student_GD, teacher_GD = embeddings(0).bfloat16(), embeddings(1).bfloat16()
    found, expected = loss(student_GD, teacher_GD), loss(student_GD.float(), teacher_GD.float())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_loss_of_two_groups_is_the_sum_of_theirs_by_their_weights():
    student_BD, teacher_BD = embeddings(0, 8), embeddings(1, 8)
    found = relational_loss(
        student_BD, teacher_BD, group_size=4, distance_weight=3.0, angle_weight=5.0
    )
    groups = [slice(0, 4), slice(4, 8)]
    distance = sum(distance_loss(student_BD[g], teacher_BD[g]) for g in groups)
    angle = sum(angle_loss(student_BD[g], teacher_BD[g]) for g in groups)
    torch.testing.assert_close(found, 3 * distance + 5 * angle)


def test_an_embedding_has_no_relation_to_another_group():
    student_BD = embeddings(0, 8).requires_grad_()
    moved_BD = torch.cat(
        [student_BD[:4], student_BD[4:].detach() * torch.arange(1.0, 5.0)[:, None]]
    )
    gradients = [
        torch.autograd.grad(
            relational_loss(
                x, embeddings(1, 8), group_size=4, distance_weight=1.0, angle_weight=2.0
            ),
            student_BD,
        )[0][:4]
        for x in (student_BD, moved_BD)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_embeddings_that_form_no_whole_groups_are_refused_with_their_numbers():
    message = r"6 student and 6 teacher embeddings cannot be cut into groups of 4"
    with pytest.raises(ValueError, match=message):
        relational_loss(
            embeddings(0, 6), embeddings(1, 6), group_size=4, distance_weight=1.0, angle_weight=2.0
        )


def test_the_mean_pool_is_over_the_positions_of_the_mask_alone():
    hidden_BTD = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [torch.nan, torch.inf]]])
    mask_BT = torch.tensor([[True, True, False]])
    assert mean_pool(hidden_BTD, mask_BT).tolist() == [[2.0, 4.0]]


def test_the_mean_pool_keeps_float64_and_widens_bfloat16():
    hidden_BTD, mask_BT = embeddings(0)[None], torch.ones(1, 5, dtype=torch.bool)
    torch.testing.assert_close(mean_pool(hidden_BTD, mask_BT), hidden_BTD.mean(1))
    narrow_BTD = hidden_BTD.bfloat16()
    torch.testing.assert_close(mean_pool(narrow_BTD, mask_BT), narrow_BTD.float().mean(1))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 2.0, 1e4, 1e12])
def test_the_scale_of_either_network_changes_neither_loss_nor_direction_of_its_gradient(
    loss: Loss, scale: float
):
    student_GD, teacher_GD = embeddings(0).float(), embeddings(1).float()

    def loss_and_gradient(factor: float, teacher_factor: float) -> tuple[Tensor, Tensor]:
        scaled_GD = (factor * student_GD).requires_grad_()
        value = loss(scaled_GD, teacher_factor * teacher_GD)
        return value, factor * torch.autograd.grad(value, scaled_GD)[0]

    expected, gradient = loss_and_gradient(1.0, 1.0)
    for factors in ((scale, 1.0), (1.0, scale), (scale, scale)):
        found, found_gradient = loss_and_gradient(*factors)
        # Factors of two change no digit; others round the embeddings themselves.
        tolerance = 0.0 if scale == 2 else 1e-5
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
        torch.testing.assert_close(found_gradient, gradient, rtol=tolerance, atol=tolerance / 10)


def test_a_fixed_threshold_of_coincidence_and_distances_without_a_mean_both_see_the_scale():
    small_GD = 1e-7 * embeddings(0)
    # Without the unit extent, every pair of the small group counts as one point.
    assert not pairwise_distances(small_GD).any() and not triplet_cosines(small_GD).any()
    torch.testing.assert_close(
        pairwise_distances(unit_extent(small_GD)), pairwise_distances(unit_extent(embeddings(0)))
    )
    plain = [
        F.smooth_l1_loss(torch.pdist(s * embeddings(0)), torch.pdist(embeddings(0))) for s in (1, 2)
    ]
    assert plain[0] == 0 < 0.1 < plain[1]
    assert distance_loss(2 * embeddings(0), embeddings(0)) == 0


def test_two_embeddings_have_no_relation_that_could_teach():
    # Their one distance is its own mean, 1 in every network: too few to say anything.
    for seed in (0, 1):
        found = pairwise_distances(unit_extent(embeddings(seed, 2)))
        torch.testing.assert_close(found, torch.ones(1, dtype=torch.float64))
    assert MIN_GROUP == 3


WEIGHTS = {"distance_weight": 3.0, "angle_weight": 5.0}


def token_states(seed: int, width: int = 4) -> Tensor:
    return embeddings(seed, 18, width).reshape(3, 6, width)


def test_the_token_loss_is_the_sum_over_sequences_of_relations_among_their_own_text():
    student_BMD, teacher_BMD = token_states(0), token_states(1, width=7)
    valid_BM = torch.ones(3, 6, dtype=torch.bool)
    valid_BM[1, 4:] = False
    found = group_loss(student_BMD, teacher_BMD, valid_BM, **WEIGHTS)
    expected = 0.0
    for b, text in enumerate((slice(6), slice(4), slice(6))):
        mine, theirs = student_BMD[b, text], teacher_BMD[b, text]
        expected += 3 * distance_loss(mine, theirs) + 5 * angle_loss(mine, theirs)
    torch.testing.assert_close(found, expected)
    # The group is the sequence: one group of all tokens is another loss.
    pooled = relational_loss(
        student_BMD.flatten(0, 1), teacher_BMD.flatten(0, 1), group_size=18, **WEIGHTS
    )
    assert abs(pooled - found) > 0.1


def test_padding_among_the_tokens_changes_neither_loss_nor_gradient():
    valid_BM = torch.ones(3, 6, dtype=torch.bool)
    valid_BM[0, 3:] = False

    def loss_and_gradient(fill: float) -> tuple[Tensor, Tensor]:
        student_BMD = token_states(0).masked_fill(~valid_BM[..., None], fill).requires_grad_()
        value = group_loss(student_BMD, token_states(1), valid_BM, **WEIGHTS)
        return value, torch.autograd.grad(value, student_BMD)[0]

    first, second = loss_and_gradient(0.0), loss_and_gradient(50.0)
    torch.testing.assert_close(first, second)
    assert not first[1][~valid_BM].any() and first[1][valid_BM].any()


def test_a_sequence_of_fewer_than_three_text_tokens_is_no_group():
    valid_BM = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [False] * 6])
    assert num_groups(valid_BM) == 1
    found = group_loss(token_states(0), token_states(1), valid_BM, **WEIGHTS)
    alone = group_loss(token_states(0)[:1], token_states(1)[:1], valid_BM[:1], **WEIGHTS)
    torch.testing.assert_close(found, alone)
