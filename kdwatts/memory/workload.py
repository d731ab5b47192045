"""What a memory estimate reads of an experiment: the models, the terms, the steps, the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config.machine import Gpu
from kdwatts.config.pair import Pair
from kdwatts.config.paradigm import Paradigm
from kdwatts.config.training import Training


@dataclass(frozen=True)
class Workload:
    """One training run as the groups of settings that decide how much memory it takes."""

    paradigm: Paradigm
    pair: Pair
    training: Training
    gpu: Gpu

    @property
    def value_bytes(self) -> int:
        """Bytes of a value in the arithmetic of training, and of a weight that is only read."""
        return 2 if self.training.precision == "bf16" else 4

    @property
    def tokens(self) -> int:
        """Positions of one forward pass."""
        return self.training.micro_batch * self.training.sequence_length

    @property
    def processor(self) -> str:
        """`cpu` or `cuda`, which decides how much is computed at a time."""
        return "cpu" if self.gpu.device == "cpu" else "cuda"
