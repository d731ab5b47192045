"""The relational term: how embeddings lie to each other, by distances of pairs and angles.

It compares sequences, or the tokens of one sequence, and is a mean over the groups of the whole
step. From the teacher it needs `Signals.pooled_BD` or `tokens_BMD`.
"""

# B sequences, T positions, M sampled ones, D width.

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kdwatts.config.paradigm import Relational
from kdwatts.data.packing import Batch
from kdwatts.losses.relational import group_loss, mean_pool, num_groups, relational_loss
from kdwatts.teacher.signals import at_positions, sampled_index
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.parallel import gather_with_gradient, num_ranks
from kdwatts.training.terms.state_term import FINAL, States, captures_nothing


@dataclass(frozen=True)
class SequenceTerm:
    """Relations between sequences. Each is the mean of its final states."""

    settings: Relational
    name: ClassVar[str] = "relational"
    captured = staticmethod(captures_nothing)

    def count(self, batch: Batch) -> int:
        """Number of sequences."""
        return len(batch.rows)

    def loss(self, states: States, micro_batch: MicroBatch, count: int) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar without unit, before its weight."""
        signals, group_size = micro_batch.signals, self.settings.group_size
        assert signals and signals.pooled_BD is not None
        student_BD, teacher_BD = (
            mean_pool(states[FINAL], micro_batch.batch.text_BT),
            signals.pooled_BD,
        )
        ranks = 1
        if group_size > len(student_BD):
            # A group that one rank's sequences do not fill: every rank takes the loss of the
            # gathered groups, and its share of it.
            student_BD, teacher_BD = map(gather_with_gradient, (student_BD, teacher_BD))
            ranks = num_ranks()
        total = relational_loss(
            student_BD, teacher_BD, group_size=group_size, **_weights(self.settings)
        )
        return total / ranks / (count / group_size)


@dataclass(frozen=True)
class TokenTerm:
    """Relations between sampled tokens of a sequence, by their final states."""

    settings: Relational
    name: ClassVar[str] = "relational"
    captured = staticmethod(captures_nothing)

    def count(self, batch: Batch) -> int:
        """Number of sequences with enough tokens for relations."""
        mask_BT = batch.on_cpu.beyond_first_BT
        return num_groups(at_positions(mask_BT, self._index(batch, mask_BT)))

    def loss(self, states: States, micro_batch: MicroBatch, count: int) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar without unit, before its weight."""
        batch, signals = micro_batch.batch, micro_batch.signals
        assert signals and signals.tokens_BMD is not None
        index_BM = self._index(batch, states[FINAL])
        total = group_loss(
            at_positions(states[FINAL], index_BM),
            signals.tokens_BMD,
            at_positions(batch.beyond_first_BT, index_BM),
            **_weights(self.settings),
        )
        return total / max(1, count)

    def _index(self, batch: Batch, like: Tensor) -> Tensor:
        """The sampled positions [B, M], on the device of `like` [B, T, ...]."""
        return sampled_index(batch.rows, like, count=self.settings.tokens)


def _weights(relational: Relational) -> dict[str, float]:
    return {
        "distance_weight": relational.distance_weight,
        "angle_weight": relational.angle_weight,
    }
