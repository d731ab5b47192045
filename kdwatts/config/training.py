"""How the student is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from kdwatts.config.ranges import above_zero, at_least, between, choice

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

PARALLELS = ("ddp", "fsdp", "hsdp")
"""Ways to share a model among ranks: all with each, or in shards."""


@dataclass
class Lora:
    """Low-rank adapters (LoRA, Hu et al. 2021): small trained matrices beside fixed weights."""

    rank: int = 16
    """Inner width of each adapter: r in the paper."""
    alpha: float = 32.0
    """What an adapter adds is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is set to 0 at random while it is trained: from 0 to below
    1."""
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
    """How the student is trained: how much text, in which steps, with which optimizer (AdamW)."""

    seed: int = 0
    """Decides the order of the rows, random weights (student, adapters, projectors) and dropout.
    Runs that differ in the seed alone are repeats of one setting."""
    target_tokens: int = MISSING
    """Tokens to train on. A token counts where the loss reads it; prompts do not count. The number
    is rounded up to whole steps."""
    sequence_length: int = MISSING
    """Tokens of a row: the length of text that the student reads at once."""
    micro_batch: int = MISSING
    """Rows of one forward pass on one GPU. It decides how much memory a step needs."""
    accumulation: int = 1
    """Forward passes of one step of the optimizer, of all ranks together. A step reads micro_batch
    times accumulation rows."""
    learning_rate: float = MISSING
    """Highest learning rate. It rises to this value, then falls along half a cosine."""
    min_learning_rate_ratio: float = 0.1
    """The last step's learning rate over the highest one."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = 0.1
    """Weight decay of AdamW for matrices. Norms and biases have none."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """The two decay rates of AdamW's moments, beta1 and beta2: each from 0 to below 1."""
    clip_norm: float = 1.0
    """Largest norm of the gradient over all weights. A longer gradient is scaled down to it."""
    precision: str = "bf16"
    """Arithmetic of student and teacher. With bf16 the weights that are trained stay in float32
    (autocast)."""
    gradient_checkpointing: bool = False
    """Keep less for the backward pass and compute it again: less memory, about a third more
    work."""
    compile: Any = "auto"
    """Whether student and teacher are compiled with torch.compile: true, false, or auto. auto
    compiles if this saves more time than it takes. On a CPU it never compiles, nor on a GPU whose
    rate is not known. The manifest says why. Compiling is metered in a window of its own."""
    respect_documents: bool = False
    """Whether a token sees its own document alone. If so, positions restart where a document begins
    in a row."""
    heldout_every: int = 0
    """Steps between two readings of the held-out loss. Held-out rows are never trained on. 0 reads
    it never."""
    heldout_tokens: int = 65_536
    """Target tokens of the held-out rows, rounded up to whole micro-batches."""
    budget_kj: float | None = None
    """Stop at the step at which building the student has drawn so much energy, earlier attempts
    included. null trains on all of target_tokens. With a budget training still ends after
    target_tokens."""
    lora: Lora | None = None
    """Train low-rank adapters and keep the other weights. null trains all weights."""
    parallel: str = "ddp"
    """How the ranks of a launch share the student: ddp gives each rank all of it, fsdp gives each a
    shard, and hsdp gives each a shard of a whole that lies on every node."""
    teacher_parallel: str = "ddp"
    """How the ranks share a teacher that runs beside the student: as parallel."""
    chunk_rows: int | None = None
    """Positions whose logits are held at once by the terms on the head. Fewer need less memory.
    null is 256 on a CPU and 2,048 on a GPU."""
    checkpoint_every_s: float = 900.0
    """Least time between two checkpoints of the training."""
    log_every: int = 10
    """Steps between two rows of train.jsonl and two lines of the log."""

    # Not annotated, so no option: why `compile` has its value.
    compile_why = "training.compile was set"

    def __post_init__(self) -> None:
        for name in ("target_tokens", "micro_batch", "accumulation", "log_every"):
            at_least(f"training.{name}", getattr(self, name), 1)
        if self.chunk_rows is not None:
            at_least("training.chunk_rows", self.chunk_rows, 1)
        # 1 == True, but a number is no answer to the question.
        if not isinstance(self.compile, bool) and self.compile != "auto":
            value = "null" if self.compile is None else self.compile
            raise ValueError(
                f"training.compile={value} is unknown; choose one of true, false, auto"
            )
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

    @property
    def shards_student(self) -> bool:
        """Whether a rank among several holds a part of the student alone."""
        return self.parallel != "ddp"

    @property
    def shards_teacher(self) -> bool:
        """Whether a rank among several holds a part of a live teacher alone."""
        return self.teacher_parallel != "ddp"

    @property
    def rows_at_once(self) -> int:
        """Positions whose logits are held at once, after `device_choices.settle`."""
        assert self.chunk_rows is not None, "the device has not decided yet"
        return self.chunk_rows

    @property
    def compiles_by_choice(self) -> bool:
        """Whether models are compiled because somebody said so, and not by `auto`."""
        return self.is_compiled and self.compile_why == Training.compile_why

    @property
    def is_compiled(self) -> bool:
        """Whether models are compiled, after `device_choices.settle`."""
        assert isinstance(self.compile, bool), "the device has not decided yet"
        return self.compile
