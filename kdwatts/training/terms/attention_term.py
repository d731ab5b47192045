"""The attention term: how tokens attend to each other in the student's last block.

It is in nats per query: a mean over the text of the whole step. From the teacher it needs
`Signals.attention`, the queries, keys and values of a block.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from kdwatts.config.paradigm import Relational
from kdwatts.data.packing import Batch
from kdwatts.losses.attention import attention_loss
from kdwatts.models.layers import captured_projections
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.terms.state_term import States


@dataclass(frozen=True)
class AttentionTerm:
    """Relations of queries, of keys and of values."""

    settings: Relational
    name: ClassVar[str] = "attention_nats"

    def captured(self, student: nn.Module) -> AbstractContextManager[States]:
        """Queries, keys and values of the last block."""
        return captured_projections(student, -1)

    def count(self, batch: Batch) -> int:
        """Number of positions with text."""
        return int(batch.on_cpu.text_BT.sum())

    def loss(self, states: States, micro_batch: MicroBatch, count: int) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar in nats, before its weight."""
        batch, signals = micro_batch.batch, micro_batch.signals
        assert signals and signals.attention
        total = attention_loss(
            states,
            signals.attention,
            batch.text_BT,
            position_BT=batch.position_BT,
            relation_heads=self.settings.relation_heads,
        )
        return total / max(1, count)
