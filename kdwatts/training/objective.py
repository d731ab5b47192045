"""A paradigm as one objective: the weighted sum of its terms over one micro-batch."""

# B sequences, T positions, M sampled ones, N those that count, n a chunk of them, D width,
# V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.config.paradigm import Paradigm, Response
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.losses.attention import attention_loss
from kdwatts.losses.feature import distance_of
from kdwatts.losses.head import Buffers, DenseTeacher, head_loss
from kdwatts.losses.logit_rows import RowTerm
from kdwatts.losses.relational import group_loss, mean_pool, num_groups, relational_loss
from kdwatts.losses.response import dense_term
from kdwatts.losses.sparse import cross_entropy_term, sampled_term, top_k_term
from kdwatts.losses.universal import universal_term
from kdwatts.models.layers import LayerPairs, captured_blocks, captured_projections
from kdwatts.models.load import head_bias, head_weight
from kdwatts.teacher.signals import SignalPlan, Signals, at_positions, sampled_index
from kdwatts.training.parallel import gather_with_gradient, num_ranks
from kdwatts.training.projectors import make_projectors, project


@dataclass(frozen=True)
class StepSize:
    """What one whole optimizer step holds, over all its micro-batches: the means' denominators."""

    num_targets: int
    num_sequences: int
    num_text: int = 0
    """Positions that hold text and no padding."""
    num_states: int = 0
    """Positions whose hidden states the feature term compares."""
    num_token_groups: int = 0
    """Sequences with enough tokens for relations among them."""


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
        teacher_bias_V: Tensor | None = None,
    ) -> None:
        self.paradigm, self.pairs, self.plan = paradigm, pairs, plan
        self.vocabulary, self.chunk_rows = vocabulary, chunk_rows
        self.teacher_head_VD, self.teacher_bias_V = teacher_head_VD, teacher_bias_V
        self._buffers = Buffers()
        self._checked: set[str] = set()
        """Terms whose gradient was found to reach the student."""
        self.projectors = nn.ModuleList()
        if paradigm.feature:
            self.projectors = make_projectors(
                paradigm.feature.projector,
                student_width=student_width,
                teacher_width=teacher_width,
                num_pairs=len(pairs),
                shared=paradigm.feature.share_projector,
                seed=seed,
            )

    def to(self, device: torch.device) -> Objective:
        self.projectors.to(device)
        if self.teacher_head_VD is not None:
            self.teacher_head_VD = self.teacher_head_VD.to(device)
        if self.teacher_bias_V is not None:
            self.teacher_bias_V = self.teacher_bias_V.to(device)
        return self

    def step_size(self, batches: Sequence[Batch]) -> StepSize:
        """What a step of these micro-batches holds; over ranks, the sizes add up field by field."""
        relational = self.paradigm.relational
        num_states = num_token_groups = 0
        for batch in batches:
            if self.paradigm.feature:
                num_states += _count(self._compared_text(batch))
            if relational and relational.level == "token":
                index_BM = sampled_index(batch.rows, batch.input_BT, count=relational.tokens)
                num_token_groups += num_groups(at_positions(batch.beyond_first_BT, index_BM))
        return StepSize(
            num_targets=sum(batch.num_targets for batch in batches),
            num_sequences=sum(len(batch.rows) for batch in batches),
            num_text=sum(_count(batch.text_BT) for batch in batches),
            num_states=num_states,
            num_token_groups=num_token_groups,
        )

    def micro_batch_loss(
        self, student: nn.Module, batch: Batch, signals: Signals | None, size: StepSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the step's loss, and each term's share without its weight.

        Shares of all micro-batches add up to the step's loss: token terms are in nats per valid
        target of the whole step, feature terms a mean over positions and pairs, relational ones a
        mean over groups or, for attention, over queries. So the loss does not depend on how a step
        is cut.
        """
        feature, relational = self.paradigm.feature, self.paradigm.relational
        wanted = [block for block, _ in self.pairs] if feature else []
        last = -1 if relational and relational.level == "attention" else None
        with (
            captured_blocks(student, wanted) as blocks,
            captured_projections(student, last) as attention,
        ):
            body = student.get_submodule("model")
            final_BTD = body(**batch.model_inputs, use_cache=False).last_hidden_state
        loss, parts = self._token_terms(student, final_BTD, batch, signals, size)
        if feature:
            assert signals and signals.blocks
            parts["feature"] = self._feature_term(blocks, signals.blocks, batch, size)
            self._check_taught("feature", parts["feature"], list(blocks.values()))
            loss = loss + feature.weight * parts["feature"]
        if relational:
            assert signals
            name = "attention_nats" if relational.level == "attention" else "relational"
            parts[name] = self._relational_term(final_BTD, attention, signals, batch, size)
            self._check_taught(name, parts[name], list(attention.values()) or [final_BTD])
            loss = loss + relational.weight * parts[name]
        return loss, {name: part.detach() for name, part in parts.items()}

    def _check_taught(self, name: str, loss: Tensor, states: Sequence[Tensor]) -> None:
        """Raise ValueError, once a term, unless its gradient reaches what it compares.

        Else the student would be trained on the rest while the loss tells of this term.
        """
        if not torch.is_grad_enabled() or name in self._checked:
            return
        trained = [state for state in states if state.requires_grad]
        num_taught = _num_reached(loss, trained)
        if not trained or num_taught < len(trained):
            raise ValueError(
                f"{name} gives a gradient to {num_taught} of the {len(states)} states of the "
                "student that it compares, which would not learn what it tells; have its functions "
                "detach nothing of the student"
            )
        self._checked.add(name)

    def _token_terms(
        self,
        student: nn.Module,
        final_BTD: Tensor,
        batch: Batch,
        signals: Signals | None,
        size: StepSize,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        response = self.paradigm.response
        terms: dict[str, RowTerm] = {}
        weights: dict[str, float] = {}
        teacher = None
        keep_N = batch.target_BT.flatten() != IGNORE
        # A step of prompts alone has no target; its sums are 0 and so must its gradient be.
        num_targets = max(1, size.num_targets)
        if self.paradigm.ce:
            terms["ce_nats"] = cross_entropy_term(batch.target_BT.flatten()[keep_N])
            weights["ce_nats"] = self.paradigm.ce.weight / num_targets
        if response:
            assert signals
            terms["response_nats"], teacher = self._response_term(response, signals, keep_N)
            weights["response_nats"] = response.weight / num_targets
        if not terms:
            return final_BTD.new_zeros(()), {}
        total, sums = head_loss(
            final_BTD.flatten(0, 1)[keep_N],
            _cut(head_weight(student), self.vocabulary),
            terms,
            weights,
            bias_V=_cut(head_bias(student), self.vocabulary),
            teacher=teacher,
            chunk_rows=self.chunk_rows,
            buffers=self._buffers,
        )
        return total, {name: part / num_targets for name, part in sums.items()}

    def _response_term(
        self, response: Response, signals: Signals, keep_N: Tensor
    ) -> tuple[RowTerm, DenseTeacher | None]:
        """The term of the positions that count, and the teacher's rows where it compares all."""
        temperature = response.temperature
        if signals.sparse:
            top_k = signals.sparse.rows(keep_N).at(temperature, self.plan.temperatures)
            return top_k_term(top_k, temperature=temperature), None
        if signals.sampled:
            drawn = signals.sampled
            share_NK = drawn.counts_NK[keep_N] / drawn.num_samples
            ids_NK = drawn.ids_NK[keep_N].long()
            return sampled_term(ids_NK, share_NK, temperature=temperature), None
        assert signals.final_ND is not None and self.teacher_head_VD is not None
        teacher = DenseTeacher(
            signals.final_ND[keep_N],
            _cut(self.teacher_head_VD, self.plan.vocabulary),
            _cut(self.teacher_bias_V, self.plan.vocabulary),
        )
        if response.divergence == "universal":
            aligned_N = signals.aligned_N
            compared_N = None if aligned_N is None else aligned_N[keep_N]
            return universal_term(temperature=temperature, compared_N=compared_N), teacher
        term = dense_term(
            response.divergence, temperature=temperature, beta=response.beta, skew=response.skew
        )
        return term, teacher

    def _compared(self, batch: Batch, state: Tensor) -> Tensor:
        """What the feature term compares of a state, or of a mask, over all positions [B, T, ...].

        Sampled positions, or all but the first, which is a sink of attention.
        """
        feature = self.paradigm.feature
        assert feature
        if feature.positions:
            return at_positions(state, sampled_index(batch.rows, state, count=feature.positions))
        return state[:, 1:] if feature.skip_first_position else state

    def _compared_text(self, batch: Batch) -> Tensor:
        """Where what the feature term compares is text, and no first token unless those count."""
        feature = self.paradigm.feature
        assert feature
        skips = feature.skip_first_position
        return self._compared(batch, batch.beyond_first_BT if skips else batch.text_BT)

    def _feature_term(
        self, student: dict[int, Tensor], teacher: dict[int, Tensor], batch: Batch, size: StepSize
    ) -> Tensor:
        feature = self.paradigm.feature
        assert feature
        whole = batch.valid_BT is None and batch.position_BT is None
        text_N = None if whole else self._compared_text(batch).flatten()
        distances = []
        for place, (student_block, teacher_block) in enumerate(self.pairs):
            state_ND = self._compared(batch, student[student_block]).flatten(0, 1)
            goal = teacher[teacher_block]
            goal_ND = (goal if feature.positions else self._compared(batch, goal)).flatten(0, 1)
            state_ND = project(self.projectors, place, state_ND)
            distance_N = distance_of(feature.distance)(state_ND, goal_ND)
            if distance_N.shape != state_ND.shape[:1]:
                raise ValueError(
                    f"feature.distance={feature.distance} is {tuple(distance_N.shape)} for "
                    f"{len(state_ND)} positions; have its function return one number a position"
                )
            if text_N is not None:
                distance_N = torch.where(text_N, distance_N, 0.0)
            distances.append(distance_N.sum())
        return torch.stack(distances).sum() / (max(1, size.num_states) * len(self.pairs))

    def _relational_term(
        self,
        final_BTD: Tensor,
        attention: dict[str, Tensor],
        signals: Signals,
        batch: Batch,
        size: StepSize,
    ) -> Tensor:
        relational = self.paradigm.relational
        assert relational
        weights = {
            "distance_weight": relational.distance_weight,
            "angle_weight": relational.angle_weight,
        }
        if relational.level == "attention":
            assert signals.attention
            total = attention_loss(
                attention,
                signals.attention,
                batch.text_BT,
                position_BT=batch.position_BT,
                relation_heads=relational.relation_heads,
            )
            return total / max(1, size.num_text)
        if relational.level == "token":
            assert signals.tokens_BMD is not None
            index_BM = sampled_index(batch.rows, final_BTD, count=relational.tokens)
            tokens_BMD = at_positions(final_BTD, index_BM)
            text_BM = at_positions(batch.beyond_first_BT, index_BM)
            total = group_loss(tokens_BMD, signals.tokens_BMD, text_BM, **weights)
            return total / max(1, size.num_token_groups)
        assert signals.pooled_BD is not None
        student_BD, teacher_BD = mean_pool(final_BTD, batch.text_BT), signals.pooled_BD
        ranks = 1
        if relational.group_size > len(student_BD):
            # A group that one rank's sequences do not fill: every rank takes the loss of the
            # gathered groups, and its share of it.
            student_BD, teacher_BD = map(gather_with_gradient, (student_BD, teacher_BD))
            ranks = num_ranks()
        total = relational_loss(student_BD, teacher_BD, group_size=relational.group_size, **weights)
        return total / ranks / (size.num_sequences / relational.group_size)


def _cut(head: Any, num_rows: int) -> Any:
    """The first rows of a head's weight or bias, where it has one.

    All of them are the tensor itself: the gradient of a slice would be a copy of it.
    """
    return head if head is None or len(head) == num_rows else head[:num_rows]


def _num_reached(loss: Tensor, states: Sequence[Tensor]) -> int:
    """How many of the states a gradient of `loss` arrives at; nothing is computed for it.

    One that comes to a state through another one does not count.
    """
    goals = [state.grad_fn for state in states]
    ahead, seen = [loss.grad_fn], set[Any]()
    while ahead:
        step = ahead.pop()
        if step is not None and step not in seen:
            seen.add(step)
            if step not in goals:
                ahead.extend(before for before, _ in step.next_functions)
    return sum(goal in seen for goal in goals)


def _count(mask: Tensor) -> int:
    return int(mask.sum())
