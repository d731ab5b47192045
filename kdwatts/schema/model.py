"""A pair of teacher and student, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from kdwatts.schema.checks import at_least, choice


@dataclass
class Architecture:
    """The shape of a decoder of the Llama or Qwen2 family."""

    family: str = "llama"
    num_layers: int = MISSING
    hidden_size: int = MISSING
    intermediate_size: int = MISSING
    num_heads: int = MISSING
    num_kv_heads: int = MISSING
    head_dim: int = MISSING
    vocab_size: int = MISSING
    """Rows of the embedding, padding rows included."""
    tied_head: bool = MISSING
    max_positions: int = MISSING
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        choice("model architecture family", self.family, ("llama", "qwen2"))
        for name in ("num_layers", "hidden_size", "intermediate_size", "num_heads"):
            at_least(f"model: {name}", getattr(self, name), 1)
        for name in ("num_kv_heads", "head_dim", "vocab_size", "max_positions"):
            at_least(f"model: {name}", getattr(self, name), 1)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model: num_heads={self.num_heads} is no multiple of "
                f"num_kv_heads={self.num_kv_heads}; correct the file in conf/model"
            )


@dataclass
class ModelSource:
    path: str | None = None
    """Hub id, local folder, or `tiny:NAME`; None starts from random weights of `architecture`."""
    revision: str | None = None
    architecture: Architecture = MISSING


@dataclass
class Pair:
    name: str = MISSING
    tokenizer: str = MISSING
    """Hub id, local folder or `tiny:NAME` of the student's tokenizer."""
    student: ModelSource = MISSING
    teacher: ModelSource | None = None
    licence: str = MISSING
