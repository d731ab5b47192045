"""Terms on states see text alone: no padding, no other document, no first token of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kdwatts.config.paradigm import Feature, Paradigm, Relational
from kdwatts.data.packing import Batch
from kdwatts.data.positions import sampled_positions
from tests.training.pair import (
    LENGTH,
    assert_close,
    gradients,
    loss_on,
    make_batch,
    make_objective,
    padded,
    part_of,
    share,
    signals_of,
)

LENGTHS = [6, 5, 6, 4, 6, 6, 3, 6]
"""Text of each row, the rest padding."""
TERMS = {
    "feature": Paradigm("f", feature=Feature()),
    "mse": Paradigm("f", feature=Feature(distance="mse", skip_first_position=False)),
    "cosine": Paradigm("f", feature=Feature(distance="cosine", projector="mlp")),
    "sampled": Paradigm("f", feature=Feature(positions=3, share_projector=True)),
    "sequence": Paradigm("r", relational=Relational(group_size=4)),
    "token": Paradigm("r", relational=Relational(level="token", tokens=5)),
    "attention": Paradigm("r", relational=Relational(level="attention", relation_heads=2)),
}
EVERY_TERM = pytest.mark.parametrize("name", TERMS)


@EVERY_TERM
def test_what_the_padding_holds_changes_neither_loss_nor_gradient(
    name: str, student: Any, teacher: Any
):
    objective = make_objective(TERMS[name])
    losses = [
        share(objective, student, teacher, padded(make_batch(), LENGTHS, fill=fill))[0]
        for fill in (3, 61)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6) and losses[0].item() > 0
    modules = (student, objective.projectors)
    assert_close(gradients(losses[0], *modules), gradients(losses[1], *modules))
    # Taken for text, the padding would count.
    batches = [replace(padded(make_batch(), LENGTHS, fill=f), valid_BT=None) for f in (3, 61)]
    ignorant = [share(objective, student, teacher, batch) for batch in batches]
    assert abs(ignorant[0][0].item() / ignorant[1][0].item() - 1) > 1e-3


# Which positions are sampled depends on the length of a row, so those terms are not among these.
@pytest.mark.parametrize("name", ["feature", "mse", "cosine", "sequence", "attention"])
def test_padding_to_the_right_of_a_whole_batch_adds_nothing(name: str, student: Any, teacher: Any):
    batch, objective = make_batch(), make_objective(TERMS[name])
    expected, _ = share(objective, student, teacher, batch)
    more = (0, 3)
    longer = padded(
        Batch(batch.rows, F.pad(batch.input_BT, more), F.pad(batch.target_BT, more)), [LENGTH] * 8
    )
    found, _ = share(objective, student, teacher, longer)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@EVERY_TERM
def test_micro_batches_of_unequal_text_add_up_to_the_step_and_their_means_do_not(
    name: str, student: Any, teacher: Any
):
    batch, objective = padded(make_batch(), [2, 6, 3, 5, 6, 6, 6, 6]), make_objective(TERMS[name])
    whole, _ = share(objective, student, teacher, batch)
    halves = [part_of(batch, slice(0, 4)), part_of(batch, slice(4, 8))]
    size = objective.step_size(halves)
    assert size == objective.step_size([batch])
    total = sum(share(objective, student, teacher, half, size)[0].item() for half in halves)
    assert total == pytest.approx(whole.item(), rel=1e-5)
    if name != "sequence":  # Its groups are whole, so every half has as many.
        means = [share(objective, student, teacher, half)[0].item() for half in halves]
        assert abs(sum(means) / 2 / whole.item() - 1) > 1e-4


@pytest.mark.parametrize("name", ["sampled", "token"])
def test_the_first_token_of_a_document_is_not_compared_even_where_it_is_sampled(
    name: str, student: Any, teacher: Any
):
    batch, objective = make_batch(), make_objective(TERMS[name])
    batch = replace(batch, position_BT=torch.arange(3).repeat(8, 2))
    signals = signals_of(objective, teacher, batch)
    size = objective.step_size([batch])
    expected, _ = loss_on(objective, student, batch, signals, size)
    count = 3 if name == "sampled" else 5
    is_first_BM = torch.from_numpy(
        sampled_positions(batch.rows, sequence_length=LENGTH, count=count) == 3
    )
    assert is_first_BM.any()
    states = [signals.tokens_BMD] if name == "token" else list((signals.blocks or {}).values())
    for state_BMD in states:
        assert state_BMD is not None
        state_BMD[is_first_BM] = 1e3
    found, _ = loss_on(objective, student, batch, signals, size)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    if name == "sampled":
        assert size.counts["feature"] == (~is_first_BM).sum().item()
