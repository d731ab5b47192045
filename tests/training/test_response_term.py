"""The response term of the objective, through real Llamas, against their dense logits."""

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
from tests.training.pair import (
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

SAMPLED = Response(0.7, support="sampled", num_samples=8, temperature=2.0)


@pytest.fixture
def student() -> Any:
    return llama(0, vocabulary=70, width=16, num_layers=2, tied=True).train()


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
    if biased:
        objective.teacher_bias_V = teacher.lm_head.bias.detach()
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


def test_the_sampled_response_is_t_squared_kl_of_the_shares_drawn(student: Any, teacher: Any):
    batch = make_batch()
    objective = make_objective(Paradigm("sampled", response=SAMPLED), teacher)
    signals = signals_of(objective, teacher, batch)
    assert signals.sampled
    loss, _ = objective.micro_batch_loss(student, batch, signals, objective.step_size([batch]))
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
