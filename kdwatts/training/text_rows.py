"""The text that a student is taught on, cut into rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.packing import Batch, Schedule, load_batch
from kdwatts.data.shards import TokenShards


@dataclass(frozen=True)
class TextRows:
    """The tokens, how they are cut, and which rows a step takes."""

    shards: TokenShards
    schedule: Schedule
    sequence_length: int
    micro_batch: int
    """Rows of one forward pass."""
    respect_documents: bool = False

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The given rows as one batch on the CPU."""
        return load_batch(
            self.shards, rows, self.sequence_length, respect_documents=self.respect_documents
        )

    def micro_batches(self, step: int) -> NDArray[np.int64]:
        """Row numbers [M, B] of all micro-batches of a step, for all ranks together."""
        return self.schedule.rows_of_step(step).reshape(-1, self.micro_batch)

    def held_out(self) -> list[Batch]:
        """The rows that no step takes, as micro-batches."""
        return [self.batch(rows) for rows in self.schedule.heldout.reshape(-1, self.micro_batch)]
