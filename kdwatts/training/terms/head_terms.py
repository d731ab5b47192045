"""Cross entropy and the response term, which share one pass over the output head's logits.

Both are in nats per target of the whole step. From the teacher, the response term needs its
likeliest tokens (`Signals.sparse`), tokens drawn from it (`sampled`), or its final states
(`final_ND`).
"""

# B sequences, T positions, N those of all B T that count, K tokens of the teacher; D width and V
# vocabulary of the student, E and W those of the teacher.

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.config.paradigm import CrossEntropy, Response
from kdwatts.data.packing import Batch
from kdwatts.losses.head import Buffers, DenseTeacher, head_loss
from kdwatts.losses.logit_rows import RowTerm
from kdwatts.losses.response import dense_term
from kdwatts.losses.sparse import cross_entropy_term, sampled_term, top_k_term
from kdwatts.losses.universal import universal_term
from kdwatts.models.load import head_bias, head_weight
from kdwatts.teacher.signals import SignalPlan, Signals
from kdwatts.training.micro_batch import MicroBatch


@dataclass(frozen=True)
class TeacherHead:
    """The output head that turns the teacher's final states into dense logits."""

    weight_WE: Tensor
    bias_W: Tensor | None = None

    def to(self, device: torch.device) -> TeacherHead:
        """The head on `device`."""
        bias_W = None if self.bias_W is None else self.bias_W.to(device)
        return TeacherHead(self.weight_WE.to(device), bias_W)


@dataclass(frozen=True)
class HeadTerms:
    """The terms on logits. Either may be absent, or both."""

    ce: CrossEntropy | None
    response: Response | None
    plan: SignalPlan
    vocabulary: int
    """Rows of the student's head that take part."""
    chunk_rows: int
    """Rows of logits held at once."""
    teacher_head: TeacherHead | None = None
    """For dense support."""
    buffers: Buffers = field(default_factory=Buffers)

    def to(self, device: torch.device) -> HeadTerms:
        """The terms on `device`."""
        return replace(self, teacher_head=self.teacher_head and self.teacher_head.to(device))

    def loss(
        self, student: nn.Module, final_BTD: Tensor, micro_batch: MicroBatch, num_targets: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the step's loss, and each term's share without its weight.

        They are scalars in nats. `final_BTD` [B, T, D] are the student's final states.
        `num_targets` is the number of targets of the whole step.
        """
        batch = micro_batch.batch
        place_N = batch.target_places
        # A step of prompts alone has no target; its sums are 0 and so must its gradient be.
        num_targets = max(1, num_targets)
        terms: dict[str, RowTerm] = {}
        weights: dict[str, float] = {}
        teacher = None
        if self.ce:
            target_N = batch.target_BT.flatten().index_select(0, place_N)
            terms["ce_nats"] = cross_entropy_term(target_N)
            weights["ce_nats"] = self.ce.weight / num_targets
        if self.response:
            assert micro_batch.signals
            terms["response_nats"], teacher = self._response(
                self.response, micro_batch.signals, batch, place_N
            )
            weights["response_nats"] = self.response.weight / num_targets
        if not terms:
            return final_BTD.new_zeros(()), {}
        total, sums = head_loss(
            final_BTD.flatten(0, 1).index_select(0, place_N),
            _cut(head_weight(student), self.vocabulary),
            terms,
            weights,
            bias_V=_cut(head_bias(student), self.vocabulary),
            teacher=teacher,
            chunk_rows=self.chunk_rows,
            buffers=self.buffers,
        )
        return total, {name: part / num_targets for name, part in sums.items()}

    def _response(
        self, response: Response, signals: Signals, batch: Batch, place_N: Tensor
    ) -> tuple[RowTerm, DenseTeacher | None]:
        """The term of the positions that count, and the teacher's rows where it compares all.

        These positions are `place_N` of the batch.
        """
        temperature = response.temperature
        if signals.sparse:
            top_k = signals.sparse.at_places(place_N).at(temperature, self.plan.temperatures)
            return top_k_term(top_k, temperature=temperature), None
        if signals.sampled:
            drawn = signals.sampled
            share_NK = drawn.counts_NK.index_select(0, place_N) / drawn.num_samples
            ids_NK = drawn.ids_NK.index_select(0, place_N).long()
            return sampled_term(ids_NK, share_NK, temperature=temperature), None
        assert signals.final_ND is not None and self.teacher_head
        teacher = DenseTeacher(
            signals.final_ND.index_select(0, place_N),
            _cut(self.teacher_head.weight_WE, self.plan.vocabulary),
            _cut(self.teacher_head.bias_W, self.plan.vocabulary),
        )
        if response.divergence == "universal":
            compared_N = signals.aligned_N
            if compared_N is not None:
                compared_N = compared_N.index_select(0, batch.on_cpu.target_places)
            return universal_term(temperature=temperature, compared_N=compared_N), teacher
        term = dense_term(
            response.divergence, temperature=temperature, beta=response.beta, skew=response.skew
        )
        return term, teacher


def _cut(head: Any, num_rows: int) -> Any:
    """The first rows of a head's weight or bias, where it has one.

    All of them are the tensor itself: the gradient of a slice would be a copy of it.
    """
    return head if head is None or len(head) == num_rows else head[:num_rows]
