"""What a model of a given shape weighs and costs, by arithmetic: parameters, memory, operations.

Nothing is loaded for it, so it can be asked before a card is at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config import Config
from kdwatts.schema import Architecture

GIB = 1 << 30
WEIGHT_AND_ADAM_BYTES = 16
"""Per trained parameter: float32 weight, gradient and both moments of AdamW."""


def parameters_of(architecture: Architecture) -> int:
    """Parameters of a model of this shape, a tied head counted once.

    Per block: query, key, value and output projections, three MLP matrices, two norms, and for
    Qwen2 the biases of query, key and value.
    """
    shape = architecture
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention = shape.hidden_size * (2 * query + 2 * key_value)
    if shape.family == "qwen2":
        attention += query + 2 * key_value
    mlp = 3 * shape.hidden_size * shape.intermediate_size
    blocks = shape.num_layers * (attention + mlp + 2 * shape.hidden_size)
    tables = shape.vocab_size * shape.hidden_size * (1 if shape.tied_head else 2)
    return blocks + tables + shape.hidden_size


def forward_flops_per_token(architecture: Architecture, sequence_length: int) -> float:
    """Floating-point operations of one forward pass, per token.

    Two per weight of blocks and head (embedding look-ups cost none), and 4 D T / 2 per block for
    causal attention at length T over a query width D (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1).
    """
    shape = architecture
    tables = shape.vocab_size * shape.hidden_size
    matrices = parameters_of(shape) - tables * (1 if shape.tied_head else 2)
    attention = 2 * shape.num_layers * shape.num_heads * shape.head_dim * sequence_length
    return 2 * (matrices + tables) + attention


@dataclass(frozen=True)
class Budget:
    """What a run will need, estimated; units in the names."""

    student_params: int
    teacher_params: int | None
    student_state_gib: float
    """Weights, gradients and optimizer state in float32."""
    teacher_weights_gib: float
    """Weights of the teacher wherever it runs; 0 without one."""
    teacher_gib: float
    """Weights of a teacher that is on the card during training; 0 when its signals are cached."""
    activations_gib: float
    chunk_gib: float
    """Logits of one chunk and their gradient."""
    train_pflop: float
    teacher_pflop: float
    student_served_gib: float
    """Weights of the student when it is served: read once for every token of a decoding step."""

    @property
    def total_gib(self) -> float:
        return self.student_state_gib + self.teacher_gib + self.activations_gib + self.chunk_gib


def estimate(config: Config) -> Budget:
    """The memory and the operations of distilling this configuration.

    Activations: about 34 D + 5 F bytes per token and block without checkpointing, at two bytes a
    value (Korthikanti et al. 2022, arXiv 2205.05198, section 4.1, its attention term left out as
    fused attention keeps no score matrix); with it, the block inputs and one block's activations.
    """
    training, paradigm = config.training, config.paradigm
    student = config.model.student.architecture
    teacher = config.model.teacher.architecture if config.model.teacher else None
    value_bytes = 2 if training.precision == "bf16" else 4
    tokens = training.micro_batch * training.sequence_length
    per_block = (17 * student.hidden_size + 2.5 * student.intermediate_size) * value_bytes
    if training.gradient_checkpointing:
        activations = student.num_layers * student.hidden_size * value_bytes + per_block
    else:
        activations = student.num_layers * per_block
    asked = teacher if paradigm.needs_teacher else None
    online = asked if paradigm.teacher == "online" else None
    student_forward = forward_flops_per_token(student, training.sequence_length)
    teacher_forward = forward_flops_per_token(asked, training.sequence_length) if asked else 0.0
    return Budget(
        student_params=parameters_of(student),
        teacher_params=parameters_of(teacher) if teacher else None,
        student_state_gib=parameters_of(student) * WEIGHT_AND_ADAM_BYTES / GIB,
        teacher_weights_gib=parameters_of(asked) * value_bytes / GIB if asked else 0.0,
        teacher_gib=parameters_of(online) * value_bytes / GIB if online else 0.0,
        activations_gib=tokens * activations / GIB,
        chunk_gib=4 * training.chunk_rows * student.vocab_size * 4 / GIB,
        train_pflop=3 * student_forward * training.target_tokens / 1e15,
        teacher_pflop=teacher_forward * training.target_tokens / 1e15,
        student_served_gib=parameters_of(student) * value_bytes / GIB,
    )
