"""Feature and relational terms on real Llamas: which states they see, and that padding is none."""

# B sequences, T positions, M sampled positions, D width.

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdwatts.config.paradigm import Feature, Paradigm, Relational
from kdwatts.data.packing import Batch
from kdwatts.data.positions import sampled_positions
from kdwatts.losses.attention import attention_loss
from kdwatts.losses.relational import relational_loss
from kdwatts.training.objective import Objective
from tests.training.pair import (
    LENGTH,
    assert_close,
    gradients,
    llama,
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


@pytest.fixture
def student() -> Any:
    return llama(0, vocabulary=70, width=16, num_layers=2, tied=True).train()


@pytest.fixture(scope="module")
def teacher() -> Any:
    return llama(1, vocabulary=64, width=24, num_layers=3, tied=False).eval()


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


def hidden_states(model: Any, batch: Batch) -> tuple[Tensor, ...]:
    """Embedding, then the output of every block, the last of them after the final norm."""
    return model(batch.input_BT, output_hidden_states=True).hidden_states


def feature_by_hand(
    objective: Objective, mine: Any, theirs: Any, *, offset: int, first: int = 1
) -> float:
    """Mean of 2 (1 - cos) where block i is `hidden_states[i + offset]`."""
    cosines = [
        F.cosine_similarity(
            objective.projectors[place](mine[s + offset][:, first:]),
            theirs[t + offset][:, first:],
            dim=-1,
        )
        for place, (s, t) in enumerate(objective.pairs)
    ]
    return 2 * (1 - torch.stack(cosines)).mean().item()


@torch.no_grad()
def test_a_block_is_one_further_on_in_hidden_states_and_its_index_would_be_another_loss(
    student: Any, teacher: Any
):
    paradigm = Paradigm("f", feature=Feature(layers="explicit", pairs=[[0, 0], [0, 1]]))
    batch, objective = make_batch(), make_objective(paradigm)
    found = share(objective, student, teacher, batch)[0].item()
    mine, theirs = hidden_states(student, batch), hidden_states(teacher, batch)
    right = feature_by_hand(objective, mine, theirs, offset=1)
    assert found == pytest.approx(right, rel=1e-4)
    off_by_one = feature_by_hand(objective, mine, theirs, offset=0)
    assert abs(off_by_one / right - 1) > 1e-3


@torch.no_grad()
def test_the_last_pair_is_before_the_final_norms_and_after_them_would_be_another_loss(
    student: Any, teacher: Any
):
    paradigm = Paradigm("f", feature=Feature(layers="last", distance="mse"))
    batch, objective = make_batch(), make_objective(paradigm)
    found = share(objective, student, teacher, batch)[0].item()
    after = objective.projectors[0](hidden_states(student, batch)[-1][:, 1:])
    wrong = (after - hidden_states(teacher, batch)[-1][:, 1:]).square().mean().item()
    assert abs(wrong / found - 1) > 0.01


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
            loss, _ = objective.micro_batch_loss(
                student, batch, signals, objective.step_size([batch])
            )
            found.append(loss.item())
        return found

    plain, sink = losses(skip=True)
    assert sink == pytest.approx(plain, rel=1e-6)
    plain, sink = losses(skip=False)
    assert (sink > 100 * plain) is (distance == "mse")


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
    paradigm = Paradigm("f", feature=Feature(projector=kind, share_projector=True))
    batch, objective = make_batch(), make_objective(paradigm)
    assert len(objective.pairs) == 2 and len(objective.projectors) == 1
    whole = gradients(share(objective, student, teacher, batch)[0], objective.projectors)
    pairs, total = objective.pairs, [torch.zeros_like(part) for part in whole]
    for pair in pairs:
        objective.pairs = [pair]
        for sum_, part in zip(
            total,
            gradients(share(objective, student, teacher, batch)[0], objective.projectors),
            strict=True,
        ):
            sum_ += part / len(pairs)
    assert_close(whole, total)


def test_the_token_term_is_the_mean_over_sequences_of_relations_among_sampled_final_states(
    student: Any, teacher: Any
):
    batch, objective = make_batch(), make_objective(TERMS["token"])
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


def projected(model: Any, batch: Batch, block: int) -> dict[str, Tensor]:
    """Queries, keys and values of a block from its own weights."""
    layer = model.model.layers[block]
    normed = layer.input_layernorm(hidden_states(model, batch)[block])
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


def test_alone_a_process_refuses_a_group_that_its_sequences_do_not_fill(student: Any, teacher: Any):
    objective = make_objective(Paradigm("r", relational=Relational(group_size=16)))
    with pytest.raises(ValueError, match="8 student and 8 teacher embeddings do not form groups"):
        share(objective, student, teacher, make_batch())


def test_no_projector_is_part_of_the_student(student: Any, teacher: Any):
    names = set(student.state_dict())
    objective = make_objective(TERMS["cosine"])
    share(objective, student, teacher, make_batch())[0].backward()
    assert set(student.state_dict()) == names
    assert isinstance(objective.projectors, nn.ModuleList) and len(objective.projectors) == 2


@pytest.mark.parametrize("name", ["feature", "mse", "cosine", "attention"])
def test_two_documents_of_one_row_give_the_loss_of_two_rows(name: str, student: Any, teacher: Any):
    apart, objective = make_batch(num_rows=8, length=4), make_objective(TERMS[name])
    expected, _ = share(objective, student, teacher, apart)
    together = Batch(
        np.arange(4),
        apart.input_BT.reshape(4, 8),
        apart.target_BT.reshape(4, 8),
        position_BT=torch.arange(4).repeat(4, 2),
    )
    found, _ = share(objective, student, teacher, together)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    ignorant, _ = share(objective, student, teacher, replace(together, position_BT=None))
    assert abs(ignorant.item() / found.item() - 1) > 1e-3


@pytest.mark.parametrize("name", ["sampled", "token"])
def test_the_first_token_of_a_document_is_not_compared_even_where_it_is_sampled(
    name: str, student: Any, teacher: Any
):
    batch, objective = make_batch(), make_objective(TERMS[name])
    batch = replace(batch, position_BT=torch.arange(3).repeat(8, 2))
    signals = signals_of(objective, teacher, batch)
    size = objective.step_size([batch])
    expected, _ = objective.micro_batch_loss(student, batch, signals, size)
    count = 3 if name == "sampled" else 5
    is_first_BM = torch.from_numpy(
        sampled_positions(batch.rows, sequence_length=LENGTH, count=count) == 3
    )
    assert is_first_BM.any()
    states = [signals.tokens_BMD] if name == "token" else list((signals.blocks or {}).values())
    for state_BMD in states:
        assert state_BMD is not None
        state_BMD[is_first_BM] = 1e3
    found, _ = objective.micro_batch_loss(student, batch, signals, size)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    if name == "sampled":
        assert size.num_states == (~is_first_BM).sum().item()
