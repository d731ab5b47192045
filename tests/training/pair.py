"""A student and a teacher of a few thousand parameters, batches for them, and their objective."""

# Student: 2 blocks, width 16, 70 rows, tied head. Teacher: 3 blocks, width 24, 64 rows. Both have
# two heads of queries and one of keys and values.

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from kdwatts.config.paradigm import Paradigm
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.models.layers import layer_pairs
from kdwatts.teacher.signals import Signals, compute_signals, signal_plan
from kdwatts.training.objective import Objective, StepSize

VOCABULARY, NUM_ROWS, LENGTH = 64, 8, 6


def llama(seed: int, *, vocabulary: int, width: int, num_layers: int, tied: bool) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    nn.init.uniform_(model.model.norm.weight, 1.0, 2.0)
    return model


def make_batch(num_rows: int = NUM_ROWS, length: int = LENGTH) -> Batch:
    """Rows of which the first bear many targets and the last few, as prompts of many lengths do."""
    tokens = torch.randint(VOCABULARY, (num_rows, length + 1), generator=torch.manual_seed(7))
    target_BT = tokens[:, 1:].clone()
    for row in range(num_rows):
        target_BT[row, : row * length // num_rows] = IGNORE
    return Batch(np.arange(num_rows), tokens[:, :-1].contiguous(), target_BT)


def part_of(batch: Batch, rows: slice) -> Batch:
    parts = {name: part[rows] for name, part in vars(batch).items() if part is not None}
    return replace(batch, **parts)


def padded(batch: Batch, lengths: list[int], *, fill: int = 3) -> Batch:
    """The batch with text of the given lengths, padding to the right of it."""
    valid_BT = torch.arange(batch.input_BT.shape[1]) < torch.tensor(lengths)[:, None]
    return replace(
        batch,
        input_BT=batch.input_BT.masked_fill(~valid_BT, fill),
        target_BT=batch.target_BT.masked_fill(~valid_BT, IGNORE),
        valid_BT=valid_BT,
    )


def signals_of(objective: Objective, teacher: Any, batch: Batch) -> Signals:
    return compute_signals(
        teacher,
        batch.input_BT,
        objective.plan,
        rows=batch.rows,
        valid_BT=batch.valid_BT,
        position_BT=batch.position_BT,
    )


def make_objective(
    paradigm: Paradigm, teacher: Any = None, *, chunk_rows: int = 5, seed: int = 0
) -> Objective:
    feature = paradigm.feature
    pairs = layer_pairs(feature.layers, feature.pairs, 2, 3) if feature else []
    return Objective(
        paradigm,
        pairs,
        signal_plan(paradigm, pairs, VOCABULARY),
        vocabulary=VOCABULARY,
        student_width=16,
        teacher_width=24,
        chunk_rows=chunk_rows,
        teacher_head_VD=teacher.lm_head.weight.detach() if teacher else None,
        seed=seed,
    )


def share(
    objective: Objective, student: Any, teacher: Any, batch: Batch, size: StepSize | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    signals = signals_of(objective, teacher, batch)
    return objective.micro_batch_loss(student, batch, signals, size or objective.step_size([batch]))


def gradients(loss: Tensor, *modules: nn.Module) -> list[Tensor]:
    """The gradient of every parameter; zero where the loss does not reach."""
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
