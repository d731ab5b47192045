"""A paradigm as one objective: the weighted sum of its terms over one micro-batch."""

# B sequences, T positions, N valid target positions, n a chunk of them, D width, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdwatts.data.packing import IGNORE, Batch
from kdwatts.losses.feature import DISTANCES
from kdwatts.losses.head import RowTerm, head_loss
from kdwatts.losses.relational import mean_pool, relational_loss
from kdwatts.losses.response import DIVERGENCES, cross_entropy, top_k_forward_kl
from kdwatts.models.layers import LayerPairs, captured_blocks
from kdwatts.models.load import head_weight
from kdwatts.schema import Paradigm
from kdwatts.teacher.signals import SignalPlan, Signals


@dataclass(frozen=True)
class StepSize:
    """What one whole optimizer step holds, over all its micro-batches: the means' denominators."""

    num_targets: int
    num_sequences: int
    sequence_length: int


class Objective:
    """The terms of a paradigm, with the projectors they train."""

    def __init__(
        self,
        paradigm: Paradigm,
        pairs: LayerPairs,
        plan: SignalPlan,
        *,
        vocabulary: int,
        student_width: int,
        teacher_width: int,
        chunk_rows: int,
        teacher_head_VD: Tensor | None,
        seed: int,
    ) -> None:
        self.paradigm, self.pairs, self.plan = paradigm, pairs, plan
        self.vocabulary, self.chunk_rows = vocabulary, chunk_rows
        self.teacher_head_VD = teacher_head_VD
        self.projectors = nn.ModuleList()
        if paradigm.feature and paradigm.feature.projector == "linear":
            torch.manual_seed(seed)
            self.projectors.extend(
                nn.Linear(student_width, teacher_width, bias=False) for _ in pairs
            )

    def to(self, device: torch.device) -> Objective:
        self.projectors.to(device)
        if self.teacher_head_VD is not None:
            self.teacher_head_VD = self.teacher_head_VD.to(device)
        return self

    def micro_batch_loss(
        self, student: nn.Module, batch: Batch, signals: Signals | None, size: StepSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the step's loss, and each term's share without its weight.

        Shares of all micro-batches add up to the step's loss: token terms are in nats per valid
        target of the whole step, feature terms a mean over positions and pairs, relational ones a
        mean over groups. So the loss does not depend on how a step is cut.
        """
        feature = self.paradigm.feature
        wanted = [block for block, _ in self.pairs] if feature else []
        with captured_blocks(student, wanted) as blocks:
            body = student.get_submodule("model")
            final_BTD = body(input_ids=batch.input_BT, use_cache=False).last_hidden_state
        loss, parts = self._token_terms(student, final_BTD, batch, signals, size)
        if feature:
            assert signals and signals.blocks
            parts["feature"] = self._feature_term(blocks, signals.blocks, size)
            loss = loss + feature.weight * parts["feature"]
        relational = self.paradigm.relational
        if relational:
            assert signals and signals.pooled_BD is not None
            every_position = torch.ones_like(batch.input_BT, dtype=torch.bool)
            groups = size.num_sequences / relational.group_size
            parts["relational"] = (
                relational_loss(
                    mean_pool(final_BTD, every_position),
                    signals.pooled_BD,
                    group_size=relational.group_size,
                    distance_weight=relational.distance_weight,
                    angle_weight=relational.angle_weight,
                )
                / groups
            )
            loss = loss + relational.weight * parts["relational"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def _token_terms(
        self,
        student: nn.Module,
        final_BTD: Tensor,
        batch: Batch,
        signals: Signals | None,
        size: StepSize,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms: dict[str, RowTerm] = {}
        weights: dict[str, float] = {}
        keep_N = batch.target_BT.flatten() != IGNORE
        if self.paradigm.ce:
            target_N = batch.target_BT.flatten()[keep_N]
            terms["ce_nats"] = lambda logits_nV, rows: cross_entropy(logits_nV, target_N[rows])
            weights["ce_nats"] = self.paradigm.ce.weight
        if self.paradigm.response:
            assert signals
            terms["response_nats"] = self._response_term(signals, keep_N)
            weights["response_nats"] = self.paradigm.response.weight
        if not terms:
            return final_BTD.new_zeros(()), {}
        total, sums = head_loss(
            final_BTD.flatten(0, 1)[keep_N],
            head_weight(student)[: self.vocabulary],
            terms,
            weights,
            chunk_rows=self.chunk_rows,
        )
        # A step of prompts alone has no target; its sums are 0 and so must its gradient be.
        num_targets = max(1, size.num_targets)
        return total / num_targets, {name: part / num_targets for name, part in sums.items()}

    def _response_term(self, signals: Signals, keep_N: Tensor) -> RowTerm:
        response = self.paradigm.response
        assert response
        if signals.sparse:
            top_k = signals.sparse.rows(keep_N).at(response.temperature, self.plan.temperatures)
            return lambda logits_nV, rows: top_k_forward_kl(
                logits_nV, top_k.rows(rows), temperature=response.temperature
            )
        assert signals.final_ND is not None and self.teacher_head_VD is not None
        teacher_ND, head_VD = signals.final_ND[keep_N], self.teacher_head_VD[: self.vocabulary]
        divergence = DIVERGENCES[response.divergence]
        extra = {"beta": response.beta} if response.divergence == "jsd" else {}
        return lambda logits_nV, rows: divergence(
            logits_nV,
            teacher_ND[rows].to(head_VD.dtype) @ head_VD.T,
            temperature=response.temperature,
            **extra,
        )

    def _feature_term(
        self, student: dict[int, Tensor], teacher: dict[int, Tensor], size: StepSize
    ) -> Tensor:
        feature = self.paradigm.feature
        assert feature
        first = 1 if feature.skip_first_position else 0
        positions = size.num_sequences * (size.sequence_length - first)
        distances = []
        for place, (student_block, teacher_block) in enumerate(self.pairs):
            state_ND = student[student_block][:, first:].flatten(0, 1)
            if self.projectors:
                state_ND = self.projectors[place](state_ND)
            goal_ND = teacher[teacher_block][:, first:].flatten(0, 1)
            distances.append(DISTANCES[feature.distance](state_ND, goal_ND).sum())
        return torch.stack(distances).sum() / (positions * len(self.pairs))
