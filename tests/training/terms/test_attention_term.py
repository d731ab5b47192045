"""The attention term on real Llamas, against projections from their own weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from kdwatts.config.paradigm import Paradigm, Relational
from kdwatts.data.packing import Batch
from kdwatts.losses.attention import attention_loss
from tests.training.pair import (
    assert_close,
    gradients,
    make_batch,
    make_objective,
    padded,
    share,
)

LENGTHS = [6, 5, 6, 4, 6, 6, 3, 6]
"""Text of each row, the rest padding."""


def projected(model: Any, batch: Batch, block: int) -> dict[str, Tensor]:
    """Queries, keys and values of a block from its own weights."""
    layer = model.model.layers[block]
    states = model(batch.input_BT, output_hidden_states=True).hidden_states
    normed = layer.input_layernorm(states[block])
    return {name: getattr(layer.self_attn, f"{name}_proj")(normed) for name in "qkv"}


def test_the_attention_term_is_nats_a_query_between_last_block_and_chosen_block(
    student: Any, teacher: Any
):
    batch = padded(make_batch(), LENGTHS)
    relational = Relational(level="attention", relation_heads=2, teacher_block=0)
    values = []
    for chosen in (0, 2):
        objective = make_objective(
            Paradigm("r", relational=replace(relational, teacher_block=chosen))
        )
        loss, parts = share(objective, student, teacher, batch)
        assert parts.keys() == {"attention_nats"}
        assert batch.valid_BT is not None
        expected = attention_loss(
            projected(student, batch, 1),
            {n: p.detach() for n, p in projected(teacher, batch, chosen).items()},
            batch.valid_BT,
            relation_heads=2,
        ) / sum(LENGTHS)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert_close(gradients(loss, student), gradients(expected, student))
        values.append(loss.item())
    last = make_objective(Paradigm("r", relational=replace(relational, teacher_block=-1)))
    assert share(last, student, teacher, batch)[0].item() == pytest.approx(values[1], rel=1e-6)
    assert abs(values[0] / values[1] - 1) > 0.01
