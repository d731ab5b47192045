"""A pair of teacher and student, and where each comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from kdwatts.config.ranges import above_zero, at_least, choice
from kdwatts.runtime.paths import check_path

ROPE_TYPES = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
}  # fmt: skip
"""Scalings of positions to the keys that each needs, as transformers names them."""


@dataclass
class Architecture:
    """The shape of a decoder of the Llama or Qwen2 family, as its config.json states it.

    It is compared with the real configuration when the model is loaded.
    """

    family: str = "llama"
    """Which kind of decoder it is."""
    num_layers: int = MISSING
    """Blocks of the decoder (num_hidden_layers)."""
    hidden_size: int = MISSING
    """Width of the hidden states."""
    intermediate_size: int = MISSING
    """Width inside the feed-forward layers."""
    num_heads: int = MISSING
    """Heads of attention (num_attention_heads)."""
    num_kv_heads: int = MISSING
    """Heads of keys and values (num_key_value_heads). It divides num_heads."""
    head_dim: int = MISSING
    """Width of one head: an even number."""
    vocab_size: int = MISSING
    """Rows of the embedding, padding rows included."""
    tied_head: bool = MISSING
    """Whether the head is the embedding itself (tie_word_embeddings)."""
    max_positions: int = MISSING
    """Longest text in tokens (max_position_embeddings)."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    rope_scaling: dict[str, Any] | None = None
    """How rotary positions are scaled, with the keys that transformers names. null scales
    nothing."""
    norm_epsilon: float = 1e-6
    """Added to the mean square in RMSNorm (rms_norm_eps). Llama 3 and SmolLM2 are published with
    1e-5."""

    def __post_init__(self) -> None:
        choice("model architecture family", self.family, ("llama", "qwen2"))
        for name in ("num_layers", "hidden_size", "intermediate_size", "num_heads"):
            at_least(f"model: {name}", getattr(self, name), 1)
        for name in ("num_kv_heads", "head_dim", "vocab_size", "max_positions"):
            at_least(f"model: {name}", getattr(self, name), 1)
        above_zero("model: rope_theta", self.rope_theta)
        if not 0 < self.norm_epsilon < 1:
            raise ValueError(
                f"model: norm_epsilon={self.norm_epsilon}; give what the published configuration "
                "calls rms_norm_eps, 1e-5 or 1e-6"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model: num_heads={self.num_heads} is no multiple of "
                f"num_kv_heads={self.num_kv_heads}; change one of them"
            )
        # Qwen2's attention projects a width of its own, Llama's is said to be a share of this one.
        if self.family == "llama" and self.hidden_size % self.num_heads:
            raise ValueError(
                f"model: hidden_size={self.hidden_size} is no multiple of "
                f"num_heads={self.num_heads}, as in every Llama; change one of them"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"model: head_dim={self.head_dim} is odd, and positions turn its numbers by pairs; "
                "give an even one"
            )
        if self.rope_scaling is not None:
            self._check_rope(self.rope_scaling)

    def _check_rope(self, scaling: dict[str, Any]) -> None:
        """Raise ValueError for a scaling that would stop the model, or that it would pass over."""
        kind = scaling.get("rope_type")
        if kind not in ROPE_TYPES:
            raise ValueError(
                f"model: rope_scaling has rope_type={kind}; choose one of {', '.join(ROPE_TYPES)}"
            )
        for name in ROPE_TYPES[kind]:
            if name not in scaling:
                raise ValueError(
                    f"model: rope_scaling has rope_type={kind} without {name}; give all of "
                    f"{', '.join(ROPE_TYPES[kind])}"
                )
        if kind == "dynamic" and self.head_dim == 2:
            raise ValueError(
                "model: rope_scaling has rope_type=dynamic with head_dim=2, whose one pair it "
                "cannot stretch; give a head_dim of at least 4"
            )
        factor = scaling.get("factor", 1.0)
        if not isinstance(factor, int | float) or not 1 <= factor < math.inf:
            raise ValueError(
                f"model: rope_scaling has factor={factor}; give a number of at least 1"
            )


def block_weights_of(architecture: Architecture) -> int:
    """Number of weights in the linear layers of one block."""
    shape = architecture
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return shape.hidden_size * (2 * query + 2 * key_value + 3 * shape.intermediate_size)


QUANTIZATIONS = ("int8", "int4")

SAME_SHAPE = (
    "family", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim",
    "vocab_size", "rope_theta", "rope_scaling", "norm_epsilon",
)  # fmt: skip
"""What a student must share with its teacher to begin with its weights."""


@dataclass
class TeacherBlocks:
    """Which blocks of its teacher a student begins with."""

    layers: str = "uniform"
    """uniform takes blocks at equal distances, the last one included. explicit takes `blocks`."""
    blocks: list[int] = field(default_factory=list)
    """The teacher's block for each block of the student, counted from 0. Only for
    layers=explicit."""

    def __post_init__(self) -> None:
        choice("model.student.init_from_teacher.layers", self.layers, ("uniform", "explicit"))
        if (self.layers == "explicit") != bool(self.blocks) or min(self.blocks, default=0) < 0:
            raise ValueError(
                f"model.student.init_from_teacher: blocks={self.blocks} does not go with "
                f"layers={self.layers}; give blocks, counted from 0, for layers=explicit only"
            )


@dataclass
class ModelSource:
    """Where a model comes from."""

    path: str | None = None
    """Id on the hub, local folder, or `tiny:NAME`. null begins with random weights, or with the
    teacher's (`init_from_teacher`)."""
    revision: str | None = None
    """Commit, tag or branch on the hub. null reads the newest commit, which may change."""
    architecture: Architecture = MISSING
    """The model's shape."""
    init_from_teacher: TeacherBlocks | None = None
    """For a student without a path: begin with blocks, embedding, head and norm of the teacher.
    null begins with random weights."""
    quantization: str | None = None
    """Keep the linear layers of a teacher in 8 bits (int8) or 4 bits (int4), on an NVIDIA GPU. null
    keeps them as published. It is null for a student."""

    def __post_init__(self) -> None:
        if self.quantization is not None:
            choice("model.teacher.quantization", self.quantization, QUANTIZATIONS)
            if self.path is None:
                raise ValueError(
                    f"model: quantization={self.quantization} without a path: random weights are "
                    "not quantised; set it to null or give a path"
                )
        if self.init_from_teacher and self.path is not None:
            raise ValueError(
                f"model: path={self.path} with init_from_teacher: a student begins from one of "
                "them; set the other to null"
            )


@dataclass
class Pair:
    """A student and its teacher."""

    name: str = MISSING
    """Name of the pair in records, tables and folder names."""
    tokenizer: str = MISSING
    """The student's tokenizer: id on the hub, local folder, or `tiny:NAME`."""
    student: ModelSource = MISSING
    """The model that is trained."""
    teacher: ModelSource | None = None
    """The model that teaches. null is a pair without a teacher, for paradigm=sft."""
    one_vocabulary: bool = True
    """Whether a token id means the same to both models. If false, the teacher reads the text in
    tokens of its own."""
    licence: str = MISSING
    """Terms of use of both models, as their publishers state them."""
    made_by: str | None = None
    """Command that makes the folder of the teacher's path. null where the teacher is published."""
    tokenizer_revision: str | None = None
    """Revision of a tokenizer on the hub. null takes the revision of the student or teacher with
    the same id."""

    def __post_init__(self) -> None:
        check_path("model.tokenizer", self.tokenizer)
        for name, source in (("student", self.student), ("teacher", self.teacher)):
            if isinstance(source, ModelSource):
                check_path(f"model.{name}.path", source.path)
        if isinstance(self.student, ModelSource) and self.student.quantization:
            raise ValueError(
                f"model.student.quantization={self.student.quantization}: weights that are trained "
                "are not quantised; set it to null, model.teacher.quantization is for teachers"
            )
        if self.teacher and self.teacher.init_from_teacher:
            raise ValueError("model.teacher.init_from_teacher has no meaning; set it to null")
        if isinstance(self.student, ModelSource) and self.student.init_from_teacher:
            self._check_fits(self.student.init_from_teacher, self.student.architecture)

    def revision_of_tokenizer(self, path: str) -> str | None:
        """The revision at which a tokenizer of this pair is read: its own, or its model's."""
        if path == self.tokenizer and self.tokenizer_revision is not None:
            return self.tokenizer_revision
        sources = [self.student, *([self.teacher] if self.teacher else [])]
        return next((source.revision for source in sources if source.path == path), None)

    def _check_fits(self, chosen: TeacherBlocks, mine: Architecture) -> None:
        """Raise ValueError unless the teacher's weights fit a student that begins with them."""
        if self.teacher is None:
            raise ValueError(
                f"model.student.init_from_teacher is set and model={self.name} has no teacher; "
                "set it to null or choose a pair with a teacher"
            )
        theirs = self.teacher.architecture
        for name in SAME_SHAPE:
            if getattr(mine, name) != getattr(theirs, name):
                raise ValueError(
                    f"model.student.init_from_teacher needs equal {name}, the student of model="
                    f"{self.name} has {getattr(mine, name)} and its teacher "
                    f"{getattr(theirs, name)}; set it to null or change the student's architecture"
                )
        if mine.tied_head and not theirs.tied_head:
            raise ValueError(
                f"model.student.init_from_teacher: the teacher of model={self.name} has a head of "
                "its own, for which a student with tied_head=true has no place; set it to false"
            )
        if chosen.blocks and (
            len(chosen.blocks) != mine.num_layers or max(chosen.blocks) >= theirs.num_layers
        ):
            raise ValueError(
                f"model.student.init_from_teacher.blocks={chosen.blocks} for {mine.num_layers} "
                f"student and {theirs.num_layers} teacher blocks; name a teacher block, counted "
                "from 0, for each student block"
            )
