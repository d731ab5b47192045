"""Cross entropy and the response term through real Llamas, against their dense logits."""

# Student: 2 blocks, width 16, 70 rows, tied head. Teacher: 3 blocks, width 24, 64 rows.

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdwatts.config.paradigm import DIVERGENCES as NAMES
from kdwatts.config.paradigm import CrossEntropy, Paradigm, Response
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.losses.response import DIVERGENCES, divergence_loss
from kdwatts.teacher.signals import Signals, SparseLogits
from tests.training.pair import (
    VOCABULARY,
    assert_close,
    gradients,
    llama,
    loss_on,
    make_batch,
    make_objective,
    part_of,
    share,
    signals_of,
)

CE = CrossEntropy(0.3)
SAMPLED = Response(0.7, support="sampled", num_samples=8, temperature=2.0)
DENSE = Response(0.7, support="dense", temperature=2.0)
JSD = Response(0.7, "jsd", support="dense", temperature=2.0, beta=0.3)
TOP_K = Response(0.7, temperature=2.0, k=5)
PARADIGMS = {
    "sft": Paradigm("sft", ce=CE),
    "top_k": Paradigm("top_k", ce=CE, response=TOP_K),
    "dense": Paradigm("dense", ce=CE, response=DENSE),
    "jsd": Paradigm("jsd", ce=CE, response=JSD),
}


@pytest.fixture
def teacher() -> Any:
    return llama(1, vocabulary=64, width=24, num_layers=3, tied=False).eval()


def with_bias(model: Any, seed: int) -> Any:
    """The model with a bias in its output head, as some families have it."""
    head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features)
    head.weight = model.lm_head.weight
    nn.init.normal_(head.bias, generator=torch.manual_seed(seed))
    model.lm_head = head
    return model


def dense_logits(model: Any, batch: Batch) -> Tensor:
    """Logits of the positions with a target, cut to what both models have."""
    return model(batch.input_BT).logits[..., :VOCABULARY][batch.target_BT != IGNORE]


def test_the_schema_names_the_divergences_that_there_are():
    # The universal one compares ranks, not tokens, and is a term of its own.
    assert set(NAMES) == {*DIVERGENCES, "universal"}


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


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_dense_divergence_with_cross_entropy_is_that_of_transformers_dense_logits(
    name: str, biased: bool, student: Any, teacher: Any
):
    if biased:
        student, teacher = with_bias(student, 2), with_bias(teacher, 3)
    batch = make_batch()
    response = Response(0.7, name, support="dense", temperature=2.0, beta=0.3, skew=0.2)
    paradigm = Paradigm("response", ce=CrossEntropy(0.3), response=response)
    objective = make_objective(paradigm, teacher)
    loss, parts = share(objective, student, teacher, batch)
    student_NV, target_N = dense_logits(student, batch), batch.target_BT[batch.target_BT != IGNORE]
    with torch.no_grad():
        teacher_NV = dense_logits(teacher, batch)
    divergence_N = divergence_loss(
        name, student_NV, teacher_NV, temperature=2.0, beta=0.3, skew=0.2
    )
    expected = 0.7 * divergence_N.mean() + 0.3 * F.cross_entropy(student_NV, target_N)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["response_nats"].item() == pytest.approx(divergence_N.mean().item(), rel=1e-5)
    assert_close(gradients(loss, student), gradients(expected, student))


def test_a_top_k_response_of_all_tokens_but_one_is_the_dense_one(student: Any, teacher: Any):
    wide = Paradigm("response", response=Response(0.7, temperature=2.0, k=VOCABULARY - 1))
    dense = Paradigm("response", response=DENSE)
    losses = [
        share(make_objective(paradigm, teacher), student, teacher, make_batch())[0]
        for paradigm in (wide, dense)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    assert_close(gradients(losses[0], student), gradients(losses[1], student), 1e-4)


def test_the_sampled_response_is_t_squared_kl_of_the_shares_drawn(student: Any, teacher: Any):
    batch = make_batch()
    objective = make_objective(Paradigm("sampled", response=SAMPLED), teacher)
    signals = signals_of(objective, teacher, batch)
    assert signals.sampled
    loss, _ = loss_on(objective, student, batch, signals)
    keep_N = (batch.target_BT != IGNORE).flatten()
    log_q_NV = (dense_logits(student, batch) / 2).log_softmax(-1)
    total = 0.0
    for row, (ids, counts) in enumerate(
        zip(signals.sampled.ids_NK[keep_N], signals.sampled.counts_NK[keep_N], strict=True)
    ):
        assert counts.sum() == 8
        for token, count in zip(ids.tolist(), counts.tolist(), strict=True):
            if count:
                total += count / 8 * (math.log(count / 8) - log_q_NV[row, token])
    expected = 0.7 * 4 * total / keep_N.sum()
    assert isinstance(expected, Tensor)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_close(gradients(loss, student), gradients(expected, student))


@pytest.mark.parametrize("name", ["sampled", "skew_kl", "total_variation"])
def test_shares_of_micro_batches_add_up_though_they_use_the_same_memory(
    name: str, student: Any, teacher: Any
):
    response = SAMPLED if name == "sampled" else Response(0.7, name, support="dense")
    objective = make_objective(
        Paradigm("response", ce=CrossEntropy(0.3), response=response), teacher
    )
    batch = make_batch()
    size = objective.step_size([batch])
    whole, _ = share(objective, student, teacher, batch, size)
    parts = [
        share(objective, student, teacher, part_of(batch, slice(start, stop)), size)[0]
        for start, stop in ((0, 1), (1, 3), (3, 8))
    ]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-5)
    expected = gradients(whole, student)
    # Only now are they differentiated: each has kept its own gradient.
    for part in parts:
        part.backward()
    found = [p.grad for p in student.parameters() if p.grad is not None]
    assert_close(found, expected)


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
    expected, _ = loss_on(objective, student, batch, signals)
    found, _ = loss_on(objective, student, batch, spoilt)
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
