"""What is built before training begins, so that no later window holds it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Response
from kdwatts.data.packing import load_batch
from kdwatts.data.shards import TokenShards, write_shards
from kdwatts.models.row_attention import attend_by_rows
from kdwatts.training.held_out_loss import HeldOut, held_out_losses
from kdwatts.training.learner import share_of
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.warm_up import warm_up
from tests.training.pair import llama, loss_on, make_learner, make_objective

LENGTH, MICRO_BATCH = 12, 4


@pytest.mark.parametrize("documents", [False, True], ids=["plain", "documents"])
def test_after_the_warm_up_neither_student_nor_live_teacher_compiles_anything(
    documents: bool, tmp_path: Path
):
    torch._dynamo.reset()
    tokens = np.random.default_rng(0).integers(64, size=1201).astype(np.uint32)
    write_shards(tmp_path, np.split(tokens, 30 * np.arange(1, 40)), shard_tokens=5000, source={})
    shards = TokenShards(tmp_path)
    student = llama(0, vocabulary=70, width=16, num_layers=2, tied=True)
    teacher = llama(1, vocabulary=64, width=24, num_layers=3, tied=False).requires_grad_(False)
    feature = Feature(projector="linear", layers="uniform")
    paradigm = Paradigm("both", response=Response(k=4), feature=feature)
    objective = make_objective(paradigm, teacher)
    learner = make_learner(objective, student, teacher, precision="bf16")
    counter = CompileCounter()
    for model in (student, teacher.eval()):
        attend_by_rows(model)
        model.get_submodule("model").compile(backend=counter)
    batches = [
        load_batch(shards, rows, LENGTH, respect_documents=documents)
        for rows in np.arange(6 * MICRO_BATCH).reshape(6, MICRO_BATCH)
    ]
    warm_up(learner, batches[0], HeldOut(batches[3:], None))
    # The student's two forms, and the teacher's.
    assert counter.frame_count == 3
    for batch in batches[1:3]:
        share = share_of(learner, MicroBatch(batch), objective.step_size([batch]))
        share.loss.backward()
    held_out_losses(learner, HeldOut(batches[3:], None))
    assert counter.frame_count == 3
    torch._dynamo.reset()


@pytest.mark.parametrize("reads", [True, False])
def test_a_reading_of_held_out_rows_compiles_nothing_after_the_warm_up(reads: bool, tmp_path: Path):
    """Evaluation mode without gradients is another code, which was built in `heldout`."""
    torch._dynamo.reset()
    tokens = np.random.default_rng(0).integers(64, size=1201).astype(np.uint32)
    write_shards(tmp_path, [tokens], shard_tokens=5000, source={})
    shards = TokenShards(tmp_path)
    student = llama(0, vocabulary=70, width=16, num_layers=2, tied=True)
    objective = make_objective(Paradigm("sft", ce=CrossEntropy()))
    learner = make_learner(objective, student)
    counter = CompileCounter()
    student.get_submodule("model").compile(backend=counter)
    rows = np.arange(2 * MICRO_BATCH).reshape(2, MICRO_BATCH)
    held_out = HeldOut([load_batch(shards, some, LENGTH) for some in rows], None)
    before, random = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    warm_up(
        learner, load_batch(shards, np.arange(MICRO_BATCH), LENGTH), held_out if reads else None
    )
    assert student.training and all(p.grad is None for p in student.parameters())
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    built = counter.frame_count
    batch = held_out.batches[1]
    loss_on(objective, student, batch)[0].backward()
    assert counter.frame_count == built
    held_out_losses(learner, held_out)
    assert (counter.frame_count == built) is reads
    torch._dynamo.reset()
