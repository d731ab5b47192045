"""Attention of plain rows and of documents on the GPU beside float64 and a mask on the CPU.

Documents go through FlexAttention there, whose kernel and gradient torch compiles.
"""

from __future__ import annotations

import copy

import pytest
import torch

from kdwatts.doctor.numbers.attention_in_float64 import states_and_slopes
from kdwatts.doctor.numbers.terms_in_float64 import distance
from kdwatts.models.row_attention import attend_by_rows
from tests.gpu.gpu import DEVICE, ON_GPU
from tests.models.test_row_attention import model_of, places

pytestmark = [pytest.mark.gpu, ON_GPU]


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
