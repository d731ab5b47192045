"""A micro-batch with the teacher's signals for it, and where these come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from kdwatts.data.packing import Batch
from kdwatts.teacher.signals import Signals


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward pass, with the teacher's signals for them."""

    batch: Batch
    signals: Signals | None = None
    """None where there is no teacher, or where a live one was not asked yet."""

    def to(self, device: torch.device) -> MicroBatch:
        """The micro-batch on `device`. With pinned memory the host does not wait for the copy."""
        return MicroBatch(self.batch.to(device), self.signals and self.signals.to(device))

    def pinned(self) -> MicroBatch:
        """The micro-batch in page-locked memory, which a GPU reads by itself."""
        return MicroBatch(self.batch.pinned(), self.signals and self.signals.pinned())


@dataclass(frozen=True)
class SignalSource:
    """Where signals come from: a cache, the teacher itself, or nowhere."""

    cached: Callable[[Batch], Signals] | None = None
    """Reads files. It is called ahead of time."""
    live: Callable[[Batch], Signals] | None = None
    """Runs the teacher on the device where the batch lies."""

    def read(self, batch: Batch) -> MicroBatch:
        """The batch with the signals of the cache, where there is one."""
        return MicroBatch(batch, self.cached(batch) if self.cached else None)

    def complete(self, micro_batch: MicroBatch) -> MicroBatch:
        """The micro-batch with the signals of a live teacher, where there is one."""
        if self.live is None:
            return micro_batch
        return replace(micro_batch, signals=self.live(micro_batch.batch))
