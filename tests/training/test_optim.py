"""The optimizer's groups, and the learning rate by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdwatts.training.optim import learning_rate_at, make_optimizer, set_learning_rate


def rate(step: int, num_steps: int = 24, warmup_ratio: float = 0.125) -> float:
    return learning_rate_at(
        step, num_steps=num_steps, peak=8.0, warmup_ratio=warmup_ratio, min_ratio=0.25
    )


def test_three_of_24_steps_climb_to_the_peak_by_thirds():
    assert [rate(step) for step in range(4)] == pytest.approx([8 / 3, 16 / 3, 8, 8])


def test_the_middle_of_the_descent_is_halfway_and_the_last_step_at_the_minimum():
    # Steps 3 to 23 descend from 8 to 2; step 13 is their middle.
    assert rate(13) == pytest.approx(5.0)
    assert rate(23) == pytest.approx(2.0)


def test_the_rate_never_rises_after_warm_up():
    rates = [rate(step) for step in range(3, 24)]
    assert rates == sorted(rates, reverse=True)


def test_seven_per_cent_of_100_steps_are_seven():
    # As floats, 100 * 0.07 is above 7.
    assert rate(6, num_steps=100, warmup_ratio=0.07) == 8
    assert rate(5, num_steps=100, warmup_ratio=0.07) == pytest.approx(8 * 6 / 7)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert rate(0, warmup_ratio=0.0) == 8


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.5, 1.0])
def test_a_run_of_a_single_step_trains_at_the_peak(warmup_ratio: float):
    assert rate(0, num_steps=1, warmup_ratio=warmup_ratio) == 8


def test_matrices_decay_and_vectors_do_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = make_optimizer([model], weight_decay=0.1, betas=(0.9, 0.95))
    decays = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert [p.shape for p in decays[0.1]] == [(4, 3)]
    assert len(decays[0.0]) == 3


def test_a_frozen_or_tied_parameter_is_not_trained_twice_or_at_all():
    embedding, head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    frozen = nn.Linear(3, 3, bias=False).requires_grad_(False)
    model = nn.ModuleList([embedding, head, frozen])
    optimizer = make_optimizer([model, nn.ModuleList()], weight_decay=0.1, betas=(0.9, 0.95))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == 1 and trained[0] is embedding.weight


def test_the_first_adamw_step_moves_by_the_rate_against_the_sign_of_the_gradient():
    parameter = nn.Parameter(torch.tensor([1.0, -1.0]))
    module = nn.ParameterList([parameter])
    optimizer = make_optimizer([module], weight_decay=0.1, betas=(0.9, 0.95))
    set_learning_rate(optimizer, 0.5)
    parameter.grad = torch.tensor([3.0, -0.01])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.5, -0.5]), rtol=0, atol=1e-5)
