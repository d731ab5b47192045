"""The objective on rows of several documents is that of the documents in rows of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational, Response
from kdwatts.data.packing import IGNORE, Batch
from tests.training.pair import assert_close, gradients, make_objective, share

PARADIGMS = {
    "sft": Paradigm("sft", ce=CrossEntropy(0.3)),
    "top_k": Paradigm("top_k", ce=CrossEntropy(0.3), response=Response(0.7, k=8)),
    "feature": Paradigm("feature", feature=Feature(0.6)),
    "mse": Paradigm("feature", feature=Feature(distance="mse", skip_first_position=False)),
    "attention": Paradigm(
        "attention", relational=Relational(0.5, level="attention", relation_heads=4)
    ),
}
EVERY_PARADIGM = pytest.mark.parametrize("name", PARADIGMS)


def packed_and_alone() -> tuple[Batch, Batch]:
    """Two rows of a document of 4 and one of 6 tokens, and the four with padding to the right."""
    input_BT = torch.randint(64, (2, 10), generator=torch.Generator().manual_seed(3))
    target_BT = torch.cat([input_BT[:, 1:], torch.full((2, 1), 5)], dim=1)
    target_BT[:, 3] = IGNORE
    position_BT = torch.tensor([[*range(4), *range(6)]] * 2)
    packed = Batch(np.arange(2), input_BT, target_BT, position_BT=position_BT)
    parts = [(row, place) for row in range(2) for place in (slice(0, 4), slice(4, 10))]

    def padded(tensor_BT: torch.Tensor, value: int) -> torch.Tensor:
        cut = [tensor_BT[row, place] for row, place in parts]
        return torch.stack([F.pad(part, (0, 6 - len(part)), value=value) for part in cut])

    valid_BT = padded(torch.ones_like(input_BT), 0).bool()
    return packed, Batch(np.arange(4), padded(input_BT, 3), padded(target_BT, IGNORE), valid_BT)


@EVERY_PARADIGM
def test_loss_terms_and_gradient_are_those_of_the_documents_alone(
    name: str, student: Any, teacher: Any
):
    packed, alone = packed_and_alone()
    objective = make_objective(PARADIGMS[name], teacher)
    expected, expected_parts = share(objective, student, teacher, alone)
    found, parts = share(objective, student, teacher, packed)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {n: p.item() for n, p in parts.items()} == pytest.approx(
        {n: p.item() for n, p in expected_parts.items()}, rel=1e-5
    )
    modules = student, objective.projectors
    assert_close(gradients(found, *modules), gradients(expected, *modules), 1e-4)
    # Rows taken as one text say something else.
    as_one, _ = share(objective, student, teacher, replace(packed, position_BT=None))
    assert abs(as_one.item() / expected.item() - 1) > 1e-3


def test_first_tokens_of_documents_are_compared_only_where_sinks_count(student: Any, teacher: Any):
    packed, _ = packed_and_alone()
    for skip, num_states in ((True, 16), (False, 20)):
        paradigm = Paradigm("feature", feature=Feature(skip_first_position=skip))
        assert make_objective(paradigm, teacher).step_size([packed]).counts["feature"] == num_states
