"""How the student is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.schema.checks import above_zero, at_least, between, choice


@dataclass
class Training:
    seed: int = 0
    target_tokens: int = MISSING
    """Loss-bearing tokens to train on, rounded up to whole optimizer steps."""
    sequence_length: int = MISSING
    micro_batch: int = MISSING
    """Sequences per forward pass."""
    accumulation: int = 1
    """Forward passes per optimizer step."""
    learning_rate: float = MISSING
    min_learning_rate_ratio: float = 0.1
    warmup_ratio: float = 0.05
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    clip_norm: float = 1.0
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = False
    chunk_rows: int = 256
    """Rows of logits held at once by the response loss."""
    checkpoint_every_s: float = 900.0
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("target_tokens", "micro_batch", "accumulation", "chunk_rows", "log_every"):
            at_least(f"training.{name}", getattr(self, name), 1)
        at_least("training.seed", self.seed, 0)
        at_least("training.sequence_length", self.sequence_length, 2)
        for name in ("learning_rate", "clip_norm", "checkpoint_every_s"):
            above_zero(f"training.{name}", getattr(self, name))
        between("training.warmup_ratio", self.warmup_ratio, 0, 1)
        between("training.min_learning_rate_ratio", self.min_learning_rate_ratio, 0, 1)
        at_least("training.weight_decay", self.weight_decay, 0)
        choice("training.precision", self.precision, ("fp32", "bf16"))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"training.betas={self.betas} is out of range; give two numbers from 0 to below 1"
            )
