"""The relational term on real Llamas: among sequences, and among tokens of one."""

# B sequences, T positions, M sampled positions, D width.

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdwatts.config.paradigm import Paradigm, Relational
from kdwatts.data.positions import sampled_positions
from kdwatts.losses.relational import relational_loss
from tests.training.pair import LENGTH, make_batch, make_objective, share

SEQUENCE = Paradigm("r", relational=Relational(0.9, group_size=4))
TOKEN = Paradigm("r", relational=Relational(level="token", tokens=5))


def test_the_relational_term_is_a_mean_over_groups_of_pooled_final_states(
    student: Any, teacher: Any
):
    batch = make_batch()
    _, parts = share(make_objective(SEQUENCE), student, teacher, batch)
    with torch.no_grad():
        mine, theirs = (
            model.model(batch.input_BT).last_hidden_state.mean(1) for model in (student, teacher)
        )
        groups = [
            relational_loss(
                mine[rows], theirs[rows], group_size=4, distance_weight=1.0, angle_weight=2.0
            )
            for rows in (slice(0, 4), slice(4, 8))
        ]
    assert parts["relational"].item() == pytest.approx(torch.stack(groups).mean().item(), rel=1e-4)


def test_the_token_term_is_the_mean_over_sequences_of_relations_among_sampled_final_states(
    student: Any, teacher: Any
):
    batch, objective = make_batch(), make_objective(TOKEN)
    found, parts = share(objective, student, teacher, batch)
    places_BM = sampled_positions(batch.rows, sequence_length=LENGTH, count=5)
    with torch.no_grad():
        mine, theirs = (m.model(batch.input_BT).last_hidden_state for m in (student, teacher))
        losses = [
            relational_loss(
                mine[b, places],
                theirs[b, places],
                group_size=5,
                distance_weight=1.0,
                angle_weight=2.0,
            )
            for b, places in enumerate(torch.from_numpy(places_BM))
        ]
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    assert parts.keys() == {"relational"}


def test_alone_a_process_refuses_a_group_that_its_sequences_do_not_fill(student: Any, teacher: Any):
    objective = make_objective(Paradigm("r", relational=Relational(group_size=16)))
    with pytest.raises(
        ValueError, match="8 student and 8 teacher embeddings cannot be cut into groups"
    ):
        share(objective, student, teacher, make_batch())
