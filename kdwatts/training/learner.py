"""The student, with all that its loss on a micro-batch needs: in a step and in a reading."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdwatts.teacher.signals import worst
from kdwatts.training.autocast import autocast
from kdwatts.training.micro_batch import MicroBatch, SignalSource
from kdwatts.training.objective import Objective, StepSize


@dataclass(frozen=True)
class Learner:
    """A student, its teacher's objective, and the device and arithmetic it computes with."""

    student: nn.Module
    objective: Objective
    source: SignalSource
    device: torch.device
    precision: str

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules that are trained, by their names in a checkpoint."""
        return {"student": self.student, "projectors": self.objective.projectors}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that are trained."""
        return [p for module in self.modules.values() for p in module.parameters()]


@dataclass(frozen=True)
class Share:
    """A micro-batch's share of a step's loss."""

    loss: Tensor
    terms: dict[str, Tensor]
    """Each term's share without its weight, and without a gradient."""
    teacher: Tensor
    """NaN where a number of the teacher's is not finite, else 0."""


def share_of(learner: Learner, micro_batch: MicroBatch, size: StepSize) -> Share:
    """The share of a micro-batch on the device. A live teacher is asked now."""
    with autocast(learner.precision, learner.device):
        micro_batch = learner.source.complete(micro_batch)
        loss, terms = learner.objective.micro_batch_loss(learner.student, micro_batch, size)
    signals = micro_batch.signals
    return Share(loss, terms, worst(signals) if signals else torch.zeros(()))
