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
from kdwatts.models.layers import LayerPairs, layer_pairs
from kdwatts.teacher.signals import Signals, compute_signals, signal_plan
from kdwatts.training.learner import Learner
from kdwatts.training.micro_batch import MicroBatch, SignalSource
from kdwatts.training.objective import Objective, PairSizes, StepSize, objective_of
from kdwatts.training.terms.head_terms import TeacherHead

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
        objective.head_terms.plan,
        rows=batch.rows,
        valid_BT=batch.valid_BT,
        position_BT=batch.position_BT,
    )


def make_objective(
    paradigm: Paradigm,
    teacher: Any = None,
    *,
    pairs: LayerPairs | None = None,
    chunk_rows: int = 5,
    seed: int = 0,
) -> Objective:
    feature = paradigm.feature
    if pairs is None:
        pairs = layer_pairs(feature.layers, feature.pairs, 2, 3) if feature else []
    head = None
    if teacher:
        weight_VD, bias_V = teacher.lm_head.weight, teacher.lm_head.bias
        head = TeacherHead(weight_VD.detach(), None if bias_V is None else bias_V.detach())
    return objective_of(
        paradigm,
        pairs,
        signal_plan(paradigm, pairs, VOCABULARY),
        sizes=PairSizes(VOCABULARY, student_width=16, teacher_width=24),
        chunk_rows=chunk_rows,
        teacher_head=head,
        seed=seed,
    )


def make_learner(
    objective: Objective, student: Any, teacher: Any = None, *, precision: str = "fp32"
) -> Learner:
    """The student with an objective, and a teacher that runs beside it where one is given."""
    live = SignalSource(live=lambda batch: signals_of(objective, teacher, batch))
    source = SignalSource() if teacher is None else live
    return Learner(student, objective, source, torch.device("cpu"), precision)


def share(
    objective: Objective, student: Any, teacher: Any, batch: Batch, size: StepSize | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """A micro-batch's share of a step, which is itself unless a size is given."""
    return loss_on(objective, student, batch, signals_of(objective, teacher, batch), size)


def loss_on(
    objective: Objective,
    student: Any,
    batch: Batch,
    signals: Signals | None = None,
    size: StepSize | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same on signals that are given."""
    size = size or objective.step_size([batch])
    return objective.micro_batch_loss(student, MicroBatch(batch, signals), size)


def gradients(loss: Tensor, *modules: nn.Module) -> list[Tensor]:
    """The gradient of every parameter; zero where the loss does not reach."""
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
