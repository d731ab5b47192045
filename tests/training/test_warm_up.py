"""What is built before training begins, so that no later window holds it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from kdwatts.config.paradigm import CrossEntropy, Paradigm
from kdwatts.data.packing import load_batch, make_schedule
from kdwatts.data.shards import TokenShards, write_shards
from kdwatts.training.heldout import HeldOut, held_out_losses
from kdwatts.training.loop import warm_up
from tests.training.pair import llama, make_objective

LENGTH, MICRO_BATCH = 12, 4


@pytest.mark.parametrize("reads", [True, False])
def test_a_reading_of_held_out_rows_compiles_nothing_after_the_warm_up(
    reads: bool, tmp_path: Path, configure: Callable[..., Any]
):
    """Evaluation mode without gradients is another code, which was built in `heldout`."""
    torch._dynamo.reset()
    tokens = np.random.default_rng(0).integers(64, size=1201).astype(np.uint32)
    write_shards(tmp_path, [tokens], shard_tokens=5000, source={})
    shards = TokenShards(tmp_path)
    schedule = make_schedule(
        shards, sequence_length=LENGTH, target_tokens=400, rows_per_step=8, seed=0
    )
    settings = configure(
        "training=smoke",
        f"training.sequence_length={LENGTH}",
        f"training.micro_batch={MICRO_BATCH}",
    ).training
    student = llama(0, vocabulary=70, width=16, num_layers=2, tied=True)
    objective = make_objective(Paradigm("sft", ce=CrossEntropy()))
    counter = CompileCounter()
    student.get_submodule("model").compile(backend=counter)
    rows = np.arange(2 * MICRO_BATCH).reshape(2, MICRO_BATCH)
    held_out = HeldOut([load_batch(shards, some, LENGTH) for some in rows], None)
    before, random = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    warm_up(
        student,
        objective,
        schedule,
        shards,
        settings,
        device=torch.device("cpu"),
        read_signals=lambda batch: None,
        live_signals=lambda batch: None,
        held_out=held_out if reads else None,
    )
    assert student.training and all(p.grad is None for p in student.parameters())
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    built = counter.frame_count
    batch = held_out.batches[1]
    objective.micro_batch_loss(student, batch, None, objective.step_size([batch]))[0].backward()
    assert counter.frame_count == built
    held_out_losses(
        student,
        objective,
        held_out,
        precision="fp32",
        device=torch.device("cpu"),
        signals_of=lambda batch: None,
    )
    assert (counter.frame_count == built) is reads
    torch._dynamo.reset()
