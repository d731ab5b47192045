"""The feature term: outputs of paired blocks. The student's go through its projector.

It is a mean over pairs and over the compared positions of the whole step. From the teacher it needs
`Signals.blocks`.
"""

# B sequences, T positions, N positions compared, D the teacher's width.

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdwatts.config.paradigm import Feature
from kdwatts.data.packing import Batch
from kdwatts.losses.feature import distance_of
from kdwatts.models.layers import LayerPairs, captured_blocks
from kdwatts.teacher.signals import at_positions, sampled_index
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.projectors import project
from kdwatts.training.terms.state_term import States


@dataclass(frozen=True)
class FeatureTerm:
    """How blocks are compared, and which."""

    settings: Feature
    pairs: LayerPairs
    projectors: nn.ModuleList
    name: ClassVar[str] = "feature"

    def captured(self, student: nn.Module) -> AbstractContextManager[States]:
        """Block to its output."""
        return captured_blocks(student, [block for block, _ in self.pairs])

    def count(self, batch: Batch) -> int:
        """Number of positions whose states are compared."""
        batch = batch.on_cpu
        return int(self._is_text(batch, self._index(batch)).sum())

    def loss(self, states: States, micro_batch: MicroBatch, count: int) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar without a unit, before its weight.

        Raises ValueError for a distance that does not give one number per position [N].
        """
        batch, signals = micro_batch.batch, micro_batch.signals
        assert signals and signals.blocks
        whole = batch.valid_BT is None and batch.position_BT is None
        index_BM = self._index(batch)
        text_N = None if whole else self._is_text(batch, index_BM).flatten()
        distances = []
        for place, (student_block, teacher_block) in enumerate(self.pairs):
            state_ND = self._compared(states[student_block], index_BM).flatten(0, 1)
            goal = signals.blocks[teacher_block]
            # The teacher gives its blocks at the sampled positions only.
            goal = goal if self.settings.positions else self._compared(goal, None)
            state_ND = project(self.projectors, place, state_ND)
            distance_N = distance_of(self.settings.distance)(state_ND, goal.flatten(0, 1))
            self._check_is_one_a_position(distance_N, len(state_ND))
            if text_N is not None:
                distance_N = torch.where(text_N, distance_N, 0.0)
            distances.append(distance_N.sum())
        return torch.stack(distances).sum() / (max(1, count) * len(self.pairs))

    def _check_is_one_a_position(self, distance_N: object, num_positions: int) -> None:
        """Raise ValueError for what is not: the function may be a package's."""
        is_tensor = isinstance(distance_N, Tensor)
        if not is_tensor or distance_N.shape != (num_positions,):
            found = tuple(distance_N.shape) if is_tensor else f"a {type(distance_N).__name__}"
            raise ValueError(
                f"feature.distance={self.settings.distance} returns {found} for {num_positions} "
                "positions; return one number per position from its function"
            )

    def _index(self, batch: Batch) -> Tensor | None:
        """The sampled positions [B, M], on the batch's device. None where none are sampled."""
        count = self.settings.positions
        return sampled_index(batch.rows, batch.input_BT, count=count) if count else None

    def _compared(self, state: Tensor, index_BM: Tensor | None) -> Tensor:
        """What is compared of a state, or of a mask, over all positions [B, T, ...].

        Sampled positions, or all but the first, which is a sink of attention.
        """
        if index_BM is not None:
            return at_positions(state, index_BM)
        return state[:, 1:] if self.settings.skip_first_position else state

    def _is_text(self, batch: Batch, index_BM: Tensor | None) -> Tensor:
        """Where what is compared is text, and no first token unless those count."""
        skips = self.settings.skip_first_position
        return self._compared(batch.beyond_first_BT if skips else batch.text_BT, index_BM)
