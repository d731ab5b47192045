"""A paradigm as one objective: the weighted sum of its terms over one micro-batch.

Each term is a file in `terms`. A term is divided by what the whole step counts. So the shares of
all micro-batches add up to the step's loss, and this loss does not depend on how the step is cut.
"""

# B sequences, T positions, D width.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kdwatts.config.paradigm import CrossEntropy, Paradigm
from kdwatts.data.packing import Batch
from kdwatts.models.layers import LayerPairs
from kdwatts.models.row_attention import final_states
from kdwatts.teacher.signals import SignalPlan
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.parallel import summed
from kdwatts.training.projectors import make_projectors
from kdwatts.training.terms.attention_term import AttentionTerm
from kdwatts.training.terms.feature_term import FeatureTerm
from kdwatts.training.terms.head_terms import HeadTerms, TeacherHead
from kdwatts.training.terms.relational_term import SequenceTerm, TokenTerm
from kdwatts.training.terms.state_term import FINAL, StateTerm, check_gradient_reaches


@dataclass(frozen=True)
class StepSize:
    """The counts of one whole optimizer step, over all its micro-batches.

    Losses are divided by them.
    """

    num_targets: int
    counts: dict[str, int]
    """Name of a term on states to what it counts."""

    def over_ranks(self) -> StepSize:
        """The counts of all ranks' parts of a step, added up. Every rank must call it."""
        num_targets, *counts = map(int, summed([self.num_targets, *self.counts.values()]))
        return StepSize(num_targets, dict(zip(self.counts, counts, strict=True)))


@dataclass(frozen=True)
class Objective:
    """The terms of a paradigm, with the projectors they train."""

    head_terms: HeadTerms
    state_terms: Sequence[StateTerm]
    projectors: nn.ModuleList
    checked: set[str] = field(default_factory=set)
    """Terms whose gradient was seen to reach the student."""

    def to(self, device: torch.device) -> Objective:
        """The objective on `device`."""
        self.projectors.to(device)
        return replace(self, head_terms=self.head_terms.to(device))

    def with_cross_entropy(self) -> Objective:
        """The same objective, with cross entropy at weight 1 where it is not one of the terms.

        This is for a reading: a paradigm may leave cross entropy out of its training.
        """
        if self.head_terms.ce:
            return self
        return replace(self, head_terms=replace(self.head_terms, ce=CrossEntropy(1.0)))

    def step_size(self, batches: Sequence[Batch]) -> StepSize:
        """The counts of a step of these micro-batches."""
        return StepSize(
            sum(batch.num_targets for batch in batches),
            {term.name: sum(map(term.count, batches)) for term in self.state_terms},
        )

    def micro_batch_loss(
        self, student: nn.Module, micro_batch: MicroBatch, size: StepSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the step's loss, and each term's share without its weight.

        All are scalars. Terms on logits and on attention are in nats. Other terms on states have no
        unit.
        """
        with ExitStack() as stack:
            captured = [stack.enter_context(term.captured(student)) for term in self.state_terms]
            batch = micro_batch.batch
            final_BTD = final_states(student, batch.input_BT, batch.position_BT)
        loss, parts = self.head_terms.loss(student, final_BTD, micro_batch, size.num_targets)
        for term, caught in zip(self.state_terms, captured, strict=True):
            states = caught or {FINAL: final_BTD}
            part = term.loss(states, micro_batch, size.counts[term.name])
            if torch.is_grad_enabled() and term.name not in self.checked:
                check_gradient_reaches(list(states.values()), part, name=term.name)
                self.checked.add(term.name)
            loss = loss + term.settings.weight * part
            parts[term.name] = part
        return loss, {name: part.detach() for name, part in parts.items()}


@dataclass(frozen=True)
class PairSizes:
    """The sizes of both models that an objective needs."""

    vocabulary: int
    """Rows of the student's head that take part."""
    student_width: int
    teacher_width: int


def objective_of(
    paradigm: Paradigm,
    pairs: LayerPairs,
    plan: SignalPlan,
    *,
    sizes: PairSizes,
    chunk_rows: int,
    teacher_head: TeacherHead | None,
    seed: int,
) -> Objective:
    """The objective of a paradigm. Its projectors are drawn from `seed`."""
    feature, relational = paradigm.feature, paradigm.relational
    projectors, terms = nn.ModuleList(), list[StateTerm]()
    if feature:
        projectors = make_projectors(
            feature.projector,
            student_width=sizes.student_width,
            teacher_width=sizes.teacher_width,
            num_pairs=len(pairs),
            shared=feature.share_projector,
            seed=seed,
        )
        terms.append(FeatureTerm(feature, pairs, projectors))
    if relational:
        levels = {"sequence": SequenceTerm, "token": TokenTerm, "attention": AttentionTerm}
        terms.append(levels[relational.level](relational))
    head_terms = HeadTerms(
        paradigm.ce, paradigm.response, plan, sizes.vocabulary, chunk_rows, teacher_head
    )
    return Objective(head_terms, terms, projectors)
