"""One step of distillation: the pair with random weights, on the device, and nothing downloaded."""

# B sequences, T positions.

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from kdwatts.config.experiment import Config
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.memory.budget import estimate
from kdwatts.memory.model_shape import forward_flops_per_token
from kdwatts.models.layers import LayerPairs, uniform_pairs
from kdwatts.models.load import head_bias, head_weight, load_model, recompute_blocks
from kdwatts.models.row_attention import attend_by_rows, compile_body
from kdwatts.models.sharding import place
from kdwatts.planning.demands import workload_of
from kdwatts.runtime.ranks import Launch
from kdwatts.stages.work import (
    compared_rows,
    feature_pairs,
    frozen_dtype,
    plan_signals,
    teacher_source,
)
from kdwatts.teacher.signals import Signals, compute_signals
from kdwatts.training.autocast import autocast
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.objective import PairSizes, objective_of
from kdwatts.training.optim import make_optimizer
from kdwatts.training.terms.head_terms import TeacherHead


def random_batch(sequences: int, length: int, vocabulary: int, device: torch.device) -> Batch:
    """Random tokens [B, T], each with the next as its target.

    They are made on the CPU and sent, as a run does it: what is counted there waits for no GPU.
    """
    tokens_BT = torch.randint(vocabulary, (sequences, length))
    target_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORE)
    return Batch(np.arange(sequences), tokens_BT, target_BT).to(device)


class Steps:
    """A student, its objective and optimizer, and the batches of one step.

    A live teacher stays. One whose signals are cached makes them first and goes, so that memory is
    that of a run.
    """

    def __init__(self, config: Config, device: torch.device, num_batches: int) -> None:
        self.training, self.device = config.training, device
        training, paradigm = config.training, config.paradigm
        torch.manual_seed(0)
        pairs = pairs_of(config)
        self.plan = plan_signals(config, pairs)
        shape = config.model.student.architecture
        vocabulary = self.plan.vocabulary or shape.vocab_size
        self.batches = [
            random_batch(training.micro_batch, training.sequence_length, vocabulary, device)
            for _ in range(num_batches)
        ]
        online = paradigm.needs_signals and paradigm.teacher == "online"
        self.teacher = _teacher(config, device) if paradigm.needs_signals else None
        head = None
        if self.teacher is not None and (online or self.plan.final_hidden):
            head = TeacherHead(head_weight(self.teacher).detach(), head_bias(self.teacher))
        self.cached: list[Signals] = []
        if self.teacher is not None and not online:
            self.cached = [self._signals(batch) for batch in self.batches]
            self.teacher = None
        with device:
            source = replace(config.model.student, path=None)
            self.student = load_model(source, dtype=torch.float32)
        attend_by_rows(self.student)
        if training.gradient_checkpointing:
            recompute_blocks(self.student)
        place(self.student, device)
        self.student.train()
        teacher = config.model.teacher
        widths = [one.architecture.hidden_size for one in (config.model.student, teacher) if one]
        self.objective = objective_of(
            paradigm,
            pairs,
            self.plan,
            sizes=PairSizes(compared_rows(config)[0], widths[0], widths[-1]),
            chunk_rows=training.rows_at_once,
            teacher_head=head,
            seed=0,
        ).to(device)
        self.optimizer = make_optimizer(
            [self.student, self.objective.projectors],
            weight_decay=training.weight_decay,
            betas=(0.9, 0.95),
        )

    def compile(self) -> None:
        """Let the bodies of the models that run be compiled, at their first call."""
        for model in (self.student, self.teacher):
            if model is not None:
                compile_body(model)

    def _signals(self, batch: Batch) -> Signals:
        assert self.teacher is not None
        with torch.no_grad(), autocast(self.training.precision, self.device):
            return compute_signals(self.teacher, batch.input_BT, self.plan, rows=batch.rows)

    def take(self) -> None:
        """Take one step: all batches forward and backward, and the optimizer."""
        size = self.objective.step_size(self.batches)
        for index, batch in enumerate(self.batches):
            signals: Any = None
            if self.cached:
                signals = self.cached[index]
            elif self.teacher is not None:
                signals = self._signals(batch)
            with autocast(self.training.precision, self.device):
                micro_batch = MicroBatch(batch, signals)
                loss, _ = self.objective.micro_batch_loss(self.student, micro_batch, size)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _teacher(config: Config, device: torch.device) -> nn.Module:
    with device:
        source = replace(teacher_source(config), path=None)
        teacher = load_model(source, dtype=frozen_dtype(config))
    attend_by_rows(teacher)
    return teacher.requires_grad_(False)


def pairs_of(config: Config) -> LayerPairs:
    """The block pairs of the feature term. Measured ones cost what those by depth cost."""
    feature = config.paradigm.feature
    if feature and feature.layers == "cka":
        both = (config.model.student, teacher_source(config))
        return uniform_pairs(*(source.architecture.num_layers for source in both))
    return feature_pairs(config)


def tokens_of_step(config: Config) -> int:
    """Positions that one step of the optimizer reads."""
    training = config.training
    return training.micro_batch * training.accumulation * training.sequence_length


def useful_flop(config: Config, tokens: int) -> float:
    """Operations of products and causal attention on so many tokens, without recomputation.

    The student's count three times, for its backward pass, and those of a live teacher once.
    """
    length, paradigm = config.training.sequence_length, config.paradigm
    flop = 3 * forward_flops_per_token(config.model.student.architecture, length)
    if paradigm.needs_signals and paradigm.teacher == "online":
        flop += forward_flops_per_token(teacher_source(config).architecture, length)
    return tokens * flop


def executed_flop(config: Config, tokens: int) -> float:
    """The same with what is computed again for the backward pass, as the plan counts it."""
    training = replace(config.training, target_tokens=tokens)
    budget = estimate(workload_of(replace(config, training=training)), Launch())
    live = config.paradigm.needs_signals and config.paradigm.teacher == "online"
    return 1e15 * (budget.train_pflop + (budget.teacher_pflop if live else 0.0))
