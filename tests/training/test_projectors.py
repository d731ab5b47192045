"""Projectors: their shapes, their seed, and that a checkpoint keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdwatts.training import checkpoint
from kdwatts.training.checkpoint import Progress
from kdwatts.training.optim import make_optimizer
from kdwatts.training.projectors import make_projectors, project


def made(kind: str, *, shared: bool = False, seed: int = 0) -> nn.ModuleList:
    return make_projectors(
        kind, student_width=4, teacher_width=6, num_pairs=3, shared=shared, seed=seed
    )


@pytest.mark.parametrize(("shared", "count"), [(False, 3), (True, 1)])
@pytest.mark.parametrize(("kind", "size"), [("linear", 4 * 6), ("mlp", 4 * 6 + 6 + 6 * 6 + 6)])
def test_there_is_one_for_each_pair_or_one_for_all(kind: str, size: int, shared: bool, count: int):
    projectors = made(kind, shared=shared)
    assert len(projectors) == count
    assert sum(p.numel() for p in projectors.parameters()) == count * size
    state_ND = torch.ones(2, 4)
    outcomes = [project(projectors, place, state_ND) for place in range(3)]
    assert all(outcome.shape == (2, 6) for outcome in outcomes)
    assert torch.equal(outcomes[0], outcomes[2]) is shared


def test_without_a_projector_states_pass_as_they_are():
    state_ND = torch.ones(2, 4)
    assert project(made("none"), 2, state_ND) is state_ND


def test_an_mlp_is_two_layers_about_a_gelu():
    projector = made("mlp")[0]
    assert isinstance(projector, nn.Sequential)
    in_weight, in_bias, out_weight, out_bias = projector.parameters()
    state_ND = torch.randn(5, 4, generator=torch.manual_seed(0))
    hidden = state_ND @ in_weight.T + in_bias
    gelu = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    torch.testing.assert_close(projector(state_ND), gelu @ out_weight.T + out_bias)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_they_are_drawn_from_the_seed_alone(kind: str):
    def weights(seed: int) -> list[torch.Tensor]:
        return [parameter.detach() for parameter in made(kind, seed=seed).parameters()]

    assert all(map(torch.equal, weights(0), weights(0)))
    assert not torch.equal(weights(0)[0], weights(1)[0])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_checkpoint_brings_weights_and_optimizer_state_of_every_projector_back(
    kind: str, shared: bool, tmp_path: Path
):
    def training(seed: int) -> tuple[dict[str, nn.Module], torch.optim.Optimizer]:
        modules: dict[str, nn.Module] = {
            "student": nn.Linear(4, 4),
            "projectors": made(kind, shared=shared, seed=seed),
        }
        optimizer = make_optimizer(list(modules.values()), weight_decay=0.1, betas=(0.9, 0.95))
        optimizer.param_groups[0]["lr"] = 0.1
        return modules, optimizer

    def step(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        state = modules["student"](torch.ones(2, 4))
        projectors = modules["projectors"]
        assert isinstance(projectors, nn.ModuleList)
        sum(project(projectors, i, state).square().sum() for i in range(3)).backward()  # pyright: ignore
        optimizer.step()
        optimizer.zero_grad()

    modules, optimizer = training(seed=0)
    step(modules, optimizer)
    checkpoint.save(tmp_path, modules, optimizer, Progress(step=1))
    step(modules, optimizer)
    # A projector that is drawn anew at resume, as one made inside a loop is.
    other_modules, other_optimizer = training(seed=1)
    for group, mine in zip(other_optimizer.param_groups, optimizer.param_groups, strict=True):
        group["lr"] = mine["lr"]
    assert checkpoint.load_latest(tmp_path, other_modules, other_optimizer).step == 1
    step(other_modules, other_optimizer)
    for name, parameter in modules["projectors"].named_parameters():
        assert torch.equal(parameter, other_modules["projectors"].get_parameter(name)), name
