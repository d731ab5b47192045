"""Attention of plain rows and of documents on the GPU beside float64 and a mask on the CPU.

Documents go through FlexAttention there, whose kernel and gradient torch compiles.
"""

# B rows, T positions.

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kdwatts.models.row_attention import attend_by_rows, final_states
from kdwatts.training.autocast import autocast
from tests.gpu.gpu import DEVICE, ON_GPU, distance
from tests.models.test_row_attention import model_of, places

pytestmark = [pytest.mark.gpu, ON_GPU]


def states_and_slopes(
    model: nn.Module, device: torch.device, precision: str, position_BT: Tensor | None, length: int
) -> list[Tensor]:
    token_BT = torch.randint(61, (2, length), generator=torch.manual_seed(5)).to(device)
    if position_BT is not None:
        position_BT = position_BT.expand(2, -1).to(device)
    with autocast(precision, device):
        states_BTD = final_states(model, token_BT, position_BT)
    parameters = [p for p in model.get_submodule("model").parameters() if p.requires_grad]
    weight_BTD = torch.randn(states_BTD.shape, generator=torch.manual_seed(6)).to(device)
    return [states_BTD.detach(), *torch.autograd.grad((states_BTD * weight_BTD).sum(), parameters)]


@pytest.mark.parametrize("length", [40, 300])
@pytest.mark.parametrize("hidden_size", [64, 48], ids=["heads of 16", "heads of 12"])
@pytest.mark.parametrize("documents", [False, True], ids=["plain", "documents"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.2)])
def test_states_and_slopes_of_rows_are_those_of_float64(
    precision: str, tolerance: float, documents: bool, hidden_size: int, length: int
):
    stock = model_of(hidden_size=hidden_size).train()
    ours = copy.deepcopy(stock).to(DEVICE)
    attend_by_rows(ours)
    position_BT = places(11, length - 31, 20) if documents else None
    cpu = torch.device("cpu")
    expected = states_and_slopes(stock.double(), cpu, "fp32", position_BT, length)
    found = states_and_slopes(ours, DEVICE, precision, position_BT, length)
    assert distance(found[:1], expected[:1]) < tolerance
    assert distance(found[1:], expected[1:]) < tolerance
