"""The objective on real Llamas: shares of a step, masks, and who receives a gradient."""

# Student: 2 blocks, width 16, 70 rows, tied head. Teacher: 3 blocks, width 24, 64 rows.

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational, Response
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.losses.relational import relational_loss
from kdwatts.models.load import recompute_blocks
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cache_record import Form
from kdwatts.teacher.signals import Signals, SparseLogits, signal_plan
from tests.teacher.whole_cache import write_cache
from tests.training.pair import (
    LENGTH,
    VOCABULARY,
    assert_close,
    gradients,
    llama,
    make_batch,
    make_objective,
    part_of,
    share,
    signals_of,
)

CE = CrossEntropy(0.3)
TOP_K = Response(0.7, temperature=2.0, k=5)
DENSE = Response(0.7, support="dense", temperature=2.0)
JSD = Response(0.7, "jsd", support="dense", temperature=2.0, beta=0.3)
RELATIONAL = Relational(0.9, group_size=4)
ATTENTION = Relational(0.9, level="attention", relation_heads=2, teacher_block=1)
PARADIGMS = {
    "sft": Paradigm("sft", ce=CE),
    "top_k": Paradigm("top_k", ce=CE, response=TOP_K),
    "dense": Paradigm("dense", ce=CE, response=DENSE),
    "reverse_kl": Paradigm("reverse_kl", response=replace(DENSE, divergence="reverse_kl")),
    "jsd": Paradigm("jsd", ce=CE, response=JSD),
    "feature": Paradigm("feature", feature=Feature(0.6)),
    "relational": Paradigm("relational", ce=CE, relational=RELATIONAL),
    "token": Paradigm("token", ce=CE, relational=Relational(0.9, level="token", tokens=4)),
    "attention": Paradigm("attention", ce=CE, relational=ATTENTION),
    "sampled": Paradigm("sampled", feature=Feature(0.6, positions=3, projector="mlp")),
    "combined": Paradigm("all", ce=CE, response=TOP_K, feature=Feature(0.6), relational=RELATIONAL),
}
EVERY_PARADIGM = pytest.mark.parametrize("name", PARADIGMS)


@pytest.fixture
def student() -> Any:
    return llama(0, vocabulary=70, width=16, num_layers=2, tied=True).train()


@pytest.fixture(scope="module")
def teacher() -> Any:
    return llama(1, vocabulary=64, width=24, num_layers=3, tied=False).eval()


@EVERY_PARADIGM
def test_shares_of_micro_batches_add_up_to_the_step_in_loss_terms_and_gradient(
    name: str, student: Any, teacher: Any
):
    paradigm, batch = PARADIGMS[name], make_batch()
    objective = make_objective(paradigm, teacher)
    whole, whole_parts = share(objective, student, teacher, batch)
    expected = gradients(whole, student, objective.projectors)
    # A group of embeddings stays in one forward pass; tokens and positions may be cut anywhere.
    pooled = paradigm.relational and paradigm.relational.level == "sequence"
    cuts = [0, 4, 8] if pooled else [0, 1, 3, 8]
    total, parts, found = (
        0.0,
        dict.fromkeys(whole_parts, 0.0),
        [torch.zeros_like(g) for g in expected],
    )
    for start, stop in itertools.pairwise(cuts):
        micro = part_of(batch, slice(start, stop))
        loss, micro_parts = share(objective, student, teacher, micro, objective.step_size([batch]))
        total += loss.item()
        for term, value in micro_parts.items():
            parts[term] += value.item()
        for one, other in zip(found, gradients(loss, student, objective.projectors), strict=True):
            one += other
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert parts == pytest.approx(
        {term: value.item() for term, value in whole_parts.items()}, rel=1e-5
    )
    assert_close(found, expected)


@EVERY_PARADIGM
def test_the_loss_is_the_sum_of_its_terms_by_their_weights(name: str, student: Any, teacher: Any):
    paradigm = PARADIGMS[name]
    loss, parts = share(make_objective(paradigm, teacher), student, teacher, make_batch())
    weights = {
        "ce_nats": paradigm.ce,
        "response_nats": paradigm.response,
        "feature": paradigm.feature,
        "attention_nats" if name == "attention" else "relational": paradigm.relational,
    }
    present = {term: group.weight for term, group in weights.items() if group}
    assert parts.keys() == present.keys()
    assert loss.item() == pytest.approx(
        sum(weight * parts[term].item() for term, weight in present.items()), rel=1e-5
    )
    assert loss.requires_grad and not any(part.requires_grad for part in parts.values())


@EVERY_PARADIGM
def test_the_student_and_its_projectors_learn_and_the_teacher_does_not(
    name: str, student: Any, teacher: Any
):
    objective = make_objective(PARADIGMS[name], teacher)
    loss, _ = share(objective, student, teacher, make_batch())
    loss.backward()
    assert student.model.layers[0].mlp.up_proj.weight.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in objective.projectors.parameters())
    assert len(objective.projectors) == (2 if PARADIGMS[name].feature else 0)
    assert all(p.grad is None for p in teacher.parameters())


@EVERY_PARADIGM
def test_gradient_checkpointing_changes_no_gradient(name: str, student: Any, teacher: Any):
    objective = make_objective(PARADIGMS[name], teacher)
    losses = []
    for enable in (False, True):
        if enable:
            recompute_blocks(student)
        loss, _ = share(objective, student, teacher, make_batch())
        losses.append(gradients(loss, student, objective.projectors))
    assert_close(losses[1], losses[0])


@EVERY_PARADIGM
def test_bfloat16_autocast_stays_close_to_float32_and_leaves_float32_gradients(
    name: str, student: Any, teacher: Any
):
    objective = make_objective(PARADIGMS[name], teacher)
    expected, _ = share(objective, student, teacher, make_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = share(objective, student, teacher, make_batch())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.03)
    for parameter in [*student.parameters(), *objective.projectors.parameters()]:
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["sft", "top_k", "dense", "jsd"])
@pytest.mark.parametrize("num_ignored", [1, 5])
def test_positions_without_targets_at_the_end_of_a_row_change_nothing(
    name: str, num_ignored: int, student: Any, teacher: Any
):
    batch, objective = make_batch(), make_objective(PARADIGMS[name], teacher)
    expected, _ = share(objective, student, teacher, batch)
    more = (0, num_ignored)
    longer = Batch(
        batch.rows, F.pad(batch.input_BT, more, value=3), F.pad(batch.target_BT, more, value=IGNORE)
    )
    found, _ = share(objective, student, teacher, longer)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_close(gradients(found, student), gradients(expected, student))


@pytest.mark.parametrize("name", ["top_k", "dense", "jsd"])
def test_what_the_teacher_says_where_no_target_is_counts_for_nothing(
    name: str, student: Any, teacher: Any
):
    batch, objective = make_batch(), make_objective(PARADIGMS[name], teacher)
    signals = signals_of(objective, teacher, batch)
    # The target of position t is the token at t + 1: the mask is that of the targets, unshifted.
    masked_N = batch.target_BT.flatten() == IGNORE
    assert masked_N.any()
    if signals.sparse:
        sparse = signals.sparse
        spoilt = Signals(
            SparseLogits(
                sparse.ids_NK,
                sparse.log_p_NK.masked_fill(masked_N[:, None], torch.nan),
                sparse.offset_NM,
                sparse.log_tail_NM,
            )
        )
    else:
        assert signals.final_ND is not None
        spoilt = Signals(final_ND=signals.final_ND.masked_fill(masked_N[:, None], torch.nan))
    expected, _ = objective.micro_batch_loss(student, batch, signals, objective.step_size([batch]))
    found, _ = objective.micro_batch_loss(student, batch, spoilt, objective.step_size([batch]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_close(gradients(found, student), gradients(expected, student), 1e-6)


@pytest.mark.parametrize("chunk_rows", [1, 1000])
@pytest.mark.parametrize("name", ["top_k", "jsd"])
def test_the_chunk_size_changes_nothing(name: str, chunk_rows: int, student: Any, teacher: Any):
    losses = [
        share(
            make_objective(PARADIGMS[name], teacher, chunk_rows=rows),
            student,
            teacher,
            make_batch(),
        )
        for rows in (5, chunk_rows)
    ]
    assert losses[0][0].item() == pytest.approx(losses[1][0].item(), rel=1e-6)
    assert_close(gradients(losses[0][0], student), gradients(losses[1][0], student))


def dense_logits(model: Any, batch: Batch) -> Tensor:
    """Logits of the positions with a target, cut to what both models have."""
    return model(batch.input_BT).logits[..., :VOCABULARY][batch.target_BT != IGNORE]


def test_cross_entropy_and_its_gradient_are_those_of_transformers_dense_logits(
    student: Any, teacher: Any
):
    batch = make_batch()
    loss, parts = share(make_objective(PARADIGMS["sft"]), student, teacher, batch)
    target_N = batch.target_BT[batch.target_BT != IGNORE]
    expected = F.cross_entropy(dense_logits(student, batch), target_N)
    assert parts["ce_nats"].item() == pytest.approx(expected.item(), rel=1e-5)
    # The head is tied: the embedding's gradient is that of both its uses.
    assert_close(gradients(loss, student), gradients(0.3 * expected, student))


def test_the_dense_response_and_its_gradient_are_t_squared_kl_on_dense_logits(
    student: Any, teacher: Any
):
    batch = make_batch()
    paradigm = Paradigm("response", response=DENSE)
    loss, _ = share(make_objective(paradigm, teacher), student, teacher, batch)
    with torch.no_grad():
        p_NV = (dense_logits(teacher, batch) / 2).softmax(-1)
    log_q_NV = (dense_logits(student, batch) / 2).log_softmax(-1)
    expected = 0.7 * 4 * F.kl_div(log_q_NV, p_NV, reduction="batchmean")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_close(gradients(loss, student), gradients(expected, student))


def test_a_top_k_response_of_all_tokens_but_one_is_the_dense_one(student: Any, teacher: Any):
    wide = Paradigm("response", response=replace(TOP_K, k=VOCABULARY - 1))
    dense = Paradigm("response", response=DENSE)
    losses = [
        share(make_objective(paradigm, teacher), student, teacher, make_batch())[0]
        for paradigm in (wide, dense)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    assert_close(gradients(losses[0], student), gradients(losses[1], student), 1e-4)


@pytest.mark.parametrize("name", ["sft", "top_k", "dense"])
def test_student_rows_beyond_the_shared_vocabulary_have_no_part(
    name: str, student: Any, teacher: Any
):
    objective = make_objective(PARADIGMS[name], teacher)
    expected, _ = share(objective, student, teacher, make_batch())
    with torch.no_grad():
        student.lm_head.weight[VOCABULARY:] = 100.0
    found, _ = share(objective, student, teacher, make_batch())
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert not student.lm_head.weight.grad[VOCABULARY:].any()


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
    batch, objective = make_batch(), make_objective(PARADIGMS["feature"], teacher)
    # floor((s + 1) 3/2 + 1/2) - 1 is 1 for s = 0 and 2 for s = 1.
    assert objective.pairs == [(0, 1), (1, 2)]
    loss, parts = share(objective, student, teacher, batch)
    mine = states_before_the_final_norm(student, batch.input_BT)
    with torch.no_grad():
        theirs = states_before_the_final_norm(teacher, batch.input_BT)
    cosines = [
        F.cosine_similarity(objective.projectors[s](mine[s][:, 1:]), theirs[t][:, 1:], dim=-1)
        for s, t in objective.pairs
    ]
    expected = 2 * (1 - torch.stack(cosines)).mean()
    assert parts["feature"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert_close(
        gradients(loss, student, objective.projectors),
        gradients(0.6 * expected, student, objective.projectors),
        1e-4,
    )


@pytest.mark.parametrize("skip_first_position", [True, False])
def test_the_teachers_first_position_counts_only_where_it_is_not_skipped(
    skip_first_position: bool, student: Any, teacher: Any
):
    paradigm = Paradigm("feature", feature=Feature(skip_first_position=skip_first_position))
    batch, objective = make_batch(), make_objective(paradigm, teacher)
    signals = signals_of(objective, teacher, batch)
    expected, _ = objective.micro_batch_loss(student, batch, signals, objective.step_size([batch]))
    assert signals.blocks
    for state_BTD in signals.blocks.values():
        state_BTD[:, 0] *= -1000
    found, _ = objective.micro_batch_loss(student, batch, signals, objective.step_size([batch]))
    assert (found.item() == pytest.approx(expected.item(), rel=1e-6)) is skip_first_position


def test_a_feature_loss_of_every_position_equal_to_the_teacher_is_zero(teacher: Any):
    paradigm = Paradigm("feature", feature=Feature(projector="none"))
    objective = make_objective(paradigm, teacher)
    objective.pairs = [(0, 0), (2, 2)]
    objective.plan = signal_plan(paradigm, objective.pairs, VOCABULARY)
    loss, _ = share(objective, teacher, teacher, make_batch())
    assert loss.item() == pytest.approx(0, abs=1e-10) and not objective.projectors


def test_the_relational_term_is_a_mean_over_groups_of_pooled_final_states(
    student: Any, teacher: Any
):
    batch = make_batch()
    _, parts = share(make_objective(PARADIGMS["relational"]), student, teacher, batch)
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


@pytest.mark.parametrize("name", ["sft", "top_k", "combined"])
def test_a_step_without_any_target_has_finite_gradients(name: str, student: Any, teacher: Any):
    batch = make_batch()
    batch.target_BT.fill_(IGNORE)
    objective = make_objective(PARADIGMS[name], teacher)
    loss, parts = share(objective, student, teacher, batch)
    assert parts["ce_nats"].item() == 0
    found = gradients(loss, student, objective.projectors)
    assert all(gradient.isfinite().all() for gradient in found)
    assert any(gradient.any() for gradient in found) is (name == "combined")


@pytest.mark.parametrize(
    "name", ["top_k", "dense", "jsd", "feature", "sampled", "relational", "token", "combined"]
)
def test_a_step_on_cached_signals_is_the_step_on_live_ones(
    name: str, student: Any, teacher: Any, tmp_path: Path
):
    batch, objective = make_batch(), make_objective(PARADIGMS[name], teacher)
    expected, _ = share(objective, student, teacher, batch)
    form = Form(objective.plan, LENGTH, width=24)
    write_cache(tmp_path, batch.rows, form, lambda rows: signals_of(objective, teacher, batch))
    signals = SignalCache(tmp_path).read(batch.rows, torch.device("cpu"))
    found, _ = objective.micro_batch_loss(student, batch, signals, objective.step_size([batch]))
    assert found.item() == pytest.approx(expected.item(), rel=2e-3)
    assert found.item() != 0


def test_projectors_are_drawn_from_the_seed_alone():
    def weights(seed: int) -> list[Tensor]:
        objective = make_objective(PARADIGMS["feature"], seed=seed)
        return [projector.weight for projector in objective.projectors.children()]  # pyright: ignore

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1]) and first[0].shape == (24, 16)
