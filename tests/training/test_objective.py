"""The objective on real Llamas: shares of a step, masks, and who receives a gradient."""

# Student: 2 blocks, width 16, 70 rows, tied head. Teacher: 3 blocks, width 24, 64 rows.

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational, Response
from kdwatts.data.packing import IGNORE
from kdwatts.models.load import recompute_blocks
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cache_record import Form
from tests.teacher.whole_cache import write_cache
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
def test_a_step_is_counted_without_its_device(name: str):
    batch = padded(make_batch(), [6, 5, 6, 4, 6, 6, 3, 6])
    place_BT = torch.arange(LENGTH).repeat(len(batch.rows), 1) % 4
    batch = replace(batch, position_BT=place_BT)
    objective = make_objective(PARADIGMS[name])
    # Tensors of this device hold no numbers.
    on_device = batch.to(torch.device("meta"))
    assert objective.step_size([on_device]) == objective.step_size([batch])


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
    form = Form(objective.head_terms.plan, LENGTH, width=24)
    write_cache(tmp_path, batch.rows, form, lambda rows: signals_of(objective, teacher, batch))
    signals = SignalCache(tmp_path).read(batch.rows, torch.device("cpu"))
    found, _ = loss_on(objective, student, batch, signals)
    assert found.item() == pytest.approx(expected.item(), rel=2e-3)
    assert found.item() != 0
