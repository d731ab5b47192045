"""The gradient of one optimizer step, from all its micro-batches and all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdwatts.training.finite import TEACHER
from kdwatts.training.learner import Learner, share_of
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.parallel import clip_gradients, sum_gradients


@dataclass(frozen=True)
class StepLoss:
    """What a step computed, on the device, which is not waited for. Losses are this rank's part."""

    num_targets: int
    """Number of targets of all ranks."""
    loss: Tensor
    terms: dict[str, Tensor]
    teacher: Tensor
    """NaN where a number of the teacher's was not finite, else 0."""
    grad_norm: Tensor
    """The norm before gradients were clipped, over all ranks."""

    @property
    def numbers(self) -> dict[str, Tensor]:
        """The numbers that must be finite, by name, in the order in which they are reported."""
        terms = {f"the loss's term {name}": part for name, part in self.terms.items()}
        whole = {"the loss": self.loss, "the gradient's norm": self.grad_norm}
        return {TEACHER: self.teacher, **terms, **whole}


def forward_backward(
    learner: Learner, micro_batches: Sequence[MicroBatch], *, clip_norm: float
) -> StepLoss:
    """The losses of a step. Its clipped gradient is left in the parameters, equal on every rank."""
    size = learner.objective.step_size([one.batch for one in micro_batches]).over_ranks()
    terms: dict[str, Tensor] = {}
    loss, teacher = (torch.zeros((), device=learner.device) for _ in range(2))
    for micro_batch in micro_batches:
        share = share_of(learner, micro_batch, size)
        share.loss.backward()
        teacher += share.teacher
        loss += share.loss.detach()
        for name, part in share.terms.items():
            terms[name] = terms.get(name, 0.0) + part
    sum_gradients(learner.parameters)
    grad_norm = clip_gradients(learner.parameters, clip_norm)
    return StepLoss(size.num_targets, loss, terms, teacher, grad_norm)
