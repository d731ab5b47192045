"""How the student is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.config.ranges import above_zero, at_least, between, choice

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

PARALLELS = ("ddp", "fsdp")


@dataclass
class Lora:
    rank: int = 16
    alpha: float = 32.0
    """What adapters add is multiplied by alpha / rank."""
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS))
    """Linear layers of every block that get an adapter."""

    def __post_init__(self) -> None:
        at_least("training.lora.rank", self.rank, 1)
        above_zero("training.lora.alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"training.lora.dropout={self.dropout} is out of range; give 0 to below 1"
            )
        for name in self.targets:
            choice("training.lora.targets", name, LORA_TARGETS)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f"training.lora.targets={self.targets} is empty or names one twice; choose from "
                f"{', '.join(LORA_TARGETS)}"
            )


@dataclass
class Training:
    seed: int = 0
    target_tokens: int = MISSING
    """Loss-bearing tokens to train on, rounded up to whole optimizer steps."""
    sequence_length: int = MISSING
    micro_batch: int = MISSING
    """Sequences per forward pass."""
    accumulation: int = 1
    """Forward passes per optimizer step, of all ranks together."""
    learning_rate: float = MISSING
    min_learning_rate_ratio: float = 0.1
    warmup_ratio: float = 0.05
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    clip_norm: float = 1.0
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = False
    respect_documents: bool = False
    """Whether attention ends and positions restart where a document begins inside a row."""
    heldout_every: int = 0
    """Steps between readings of the loss on rows that are never trained on; 0 takes none."""
    heldout_tokens: int = 65_536
    """Targets of those rows, rounded up to whole micro-batches."""
    budget_kj: float | None = None
    """Stop at the step at which building the student has drawn so many kJ, all attempts; None
    trains on `target_tokens`, which also end a run that has joules left."""
    lora: Lora | None = None
    """Train low-rank adapters in place of all weights."""
    parallel: str = "ddp"
    """How the ranks of a launch share the student: ddp gives each the whole, fsdp a shard."""
    teacher_parallel: str = "ddp"
    """How they share a teacher that runs beside it."""
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
        at_least("training.heldout_every", self.heldout_every, 0)
        at_least("training.heldout_tokens", self.heldout_tokens, 1)
        if self.budget_kj is not None:
            above_zero("training.budget_kj", self.budget_kj)
        between("training.warmup_ratio", self.warmup_ratio, 0, 1)
        between("training.min_learning_rate_ratio", self.min_learning_rate_ratio, 0, 1)
        at_least("training.weight_decay", self.weight_decay, 0)
        choice("training.precision", self.precision, ("fp32", "bf16"))
        choice("training.parallel", self.parallel, PARALLELS)
        choice("training.teacher_parallel", self.teacher_parallel, PARALLELS)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"training.betas={self.betas} is out of range; give two numbers from 0 to below 1"
            )
