"""The feature term on real Llamas: which states it compares, and where."""

# B sequences, T positions, M sampled positions, D width.

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdwatts.config.paradigm import Feature, Paradigm
from kdwatts.data.packing import Batch
from kdwatts.data.positions import sampled_positions
from kdwatts.losses.feature import DISTANCES
from tests.training.pair import (
    LENGTH,
    assert_close,
    gradients,
    loss_on,
    make_batch,
    make_objective,
    share,
    signals_of,
)

PAIRS = [(0, 1), (1, 2)]
"""floor((s + 1) 3/2 + 1/2) - 1 is 1 for s = 0 and 2 for s = 1."""


def paradigm_of(feature: Feature) -> Paradigm:
    return Paradigm("feature", feature=feature)


def states_before_the_final_norm(model: Any, input_BT: Tensor) -> list[Tensor]:
    """The output of every block, from what comes into the next block and into the final norm."""
    states: list[Tensor] = []
    following = [*model.model.layers[1:], model.model.norm]
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        for module in following
    ]
    model(input_BT)
    for handle in handles:
        handle.remove()
    return states


def test_the_feature_term_pairs_the_outputs_of_blocks_without_the_first_position(
    student: Any, teacher: Any
):
    batch, objective = make_batch(), make_objective(paradigm_of(Feature(0.6)))
    loss, parts = share(objective, student, teacher, batch)
    mine = states_before_the_final_norm(student, batch.input_BT)
    with torch.no_grad():
        theirs = states_before_the_final_norm(teacher, batch.input_BT)
    cosines = [
        F.cosine_similarity(objective.projectors[s](mine[s][:, 1:]), theirs[t][:, 1:], dim=-1)
        for s, t in PAIRS
    ]
    expected = 2 * (1 - torch.stack(cosines)).mean()
    assert parts["feature"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert_close(
        gradients(loss, student, objective.projectors),
        gradients(0.6 * expected, student, objective.projectors),
        1e-4,
    )


def test_a_feature_loss_of_every_position_equal_to_the_teacher_is_zero(teacher: Any):
    objective = make_objective(paradigm_of(Feature(projector="none")), pairs=[(0, 0), (2, 2)])
    loss, _ = share(objective, teacher, teacher, make_batch())
    assert loss.item() == pytest.approx(0, abs=1e-10) and not objective.projectors


def test_a_distance_that_returns_nothing_is_refused(
    student: Any, teacher: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(DISTANCES, "mse", lambda student_ND, teacher_ND: None)
    objective, batch = make_objective(paradigm_of(Feature(distance="mse"))), make_batch()
    with pytest.raises(
        ValueError, match=r"^feature\.distance=mse returns a NoneType for \d+ positions;"
    ):
        share(objective, student, teacher, batch)


@pytest.mark.parametrize("distance", ["mse", "normalized_mse"])
def test_a_sink_at_the_first_position_is_all_of_raw_mse_unless_it_is_dropped(
    distance: str, student: Any, teacher: Any
):
    def losses(skip: bool) -> list[float]:
        paradigm = Paradigm("f", feature=Feature(distance=distance, skip_first_position=skip))
        objective, batch = make_objective(paradigm), make_batch()
        signals = signals_of(objective, teacher, batch)
        found = []
        for factor in (1.0, 1000.0):
            assert signals.blocks
            for state_BTD in signals.blocks.values():
                state_BTD[:, 0] *= factor
            loss, _ = loss_on(objective, student, batch, signals)
            found.append(loss.item())
        return found

    plain, sink = losses(skip=True)
    assert sink == pytest.approx(plain, rel=1e-6)
    plain, sink = losses(skip=False)
    assert (sink > 100 * plain) is (distance == "mse")


def hidden_states(model: Any, batch: Batch) -> tuple[Tensor, ...]:
    """Embedding, then the output of every block, the last of them after the final norm."""
    return model(batch.input_BT, output_hidden_states=True).hidden_states


def test_sampled_positions_are_those_of_the_row_in_both_models(student: Any, teacher: Any):
    paradigm = Paradigm("f", feature=Feature(layers="explicit", pairs=[[0, 1]], positions=3))
    batch, objective = make_batch(), make_objective(paradigm)
    places_BM = sampled_positions(batch.rows, sequence_length=LENGTH, count=3)
    found, _ = share(objective, student, teacher, batch)
    with torch.no_grad():
        mine, theirs = hidden_states(student, batch)[1], hidden_states(teacher, batch)[2]
        cosines = [
            F.cosine_similarity(objective.projectors[0](mine[b, t]), theirs[b, t], dim=-1)
            for b, places in enumerate(places_BM.tolist())
            for t in places
        ]
    assert len(cosines) == 24
    expected = 2 * (1 - torch.stack(cosines)).mean().item()
    assert found.item() == pytest.approx(expected, rel=1e-4)
    turned = Batch(batch.rows[::-1].copy(), batch.input_BT.flip(0), batch.target_BT.flip(0))
    assert share(objective, student, teacher, turned)[0].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_shared_projector_learns_from_every_pair(kind: str, student: Any, teacher: Any):
    paradigm = paradigm_of(Feature(projector=kind, share_projector=True))

    def gradient_of(pairs: list[tuple[int, int]]) -> list[Tensor]:
        objective = make_objective(paradigm, pairs=pairs)
        assert len(objective.projectors) == 1
        loss, _ = share(objective, student, teacher, make_batch())
        return gradients(loss, objective.projectors)

    parts = zip(*(gradient_of([pair]) for pair in PAIRS), strict=True)
    assert_close(gradient_of(PAIRS), [torch.stack(part).mean(0) for part in parts])


def test_no_projector_is_part_of_the_student(student: Any, teacher: Any):
    names = set(student.state_dict())
    objective = make_objective(paradigm_of(Feature(projector="mlp")))
    share(objective, student, teacher, make_batch())[0].backward()
    assert set(student.state_dict()) == names
    assert isinstance(objective.projectors, nn.ModuleList) and len(objective.projectors) == 2
