"""What a forward pass keeps for the backward pass, in bytes per token, block by block.

A model with float32 weights keeps its residual stream in float32, also under autocast: only the
inputs of linear layers and attention are cast. `value_bytes` are the bytes of that arithmetic: 2
under autocast to bfloat16, 4 without. tests/memory/test_activations.py compares all of it with the
tensors that autograd saves.
"""

from __future__ import annotations

from kdwatts.config.pair import Architecture
from kdwatts.config.paradigm import Feature
from kdwatts.config.training import Lora

ROOT_BYTES = 4
"""The reciprocal root mean square that a norm keeps of a row, in float32."""


def block_bytes(
    shape: Architecture, *, value_bytes: int, lora: Lora | None = None, masked_length: int = 0
) -> float:
    """Bytes per token that one block keeps. `masked_length` is T where attention takes a mask.

    It keeps two norms, the inputs of the trained linear layers, attention's queries, keys, values,
    output and log sums, and in the MLP what activation and product need. With a mask, keys and
    values are repeated for all heads, and each block keeps the mask as numbers.
    """
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attended = 2 * query + 2 * (query if masked_length else key_value) + masked_length
    attention = value_bytes * attended + 4 * shape.num_heads
    if lora:
        mlp = value_bytes * 3 * inner + _adapter_bytes(shape, lora, value_bytes)
    else:
        # Autocast casts once for each layer: three copies for attention, two for the MLP.
        copies = 2 if value_bytes == 4 else 5
        mlp = value_bytes * (4 * inner + copies * hidden)
    return 2 * norm_bytes(shape, lora=lora) + attention + mlp


def norm_bytes(shape: Architecture, *, lora: Lora | None = None) -> float:
    """Bytes per token of a norm: its input in float32, and the output if its weight is trained."""
    return (4 if lora else 8) * shape.hidden_size + ROOT_BYTES


def checkpoint_bytes(shape: Architecture, *, value_bytes: int, lora: Lora | None = None) -> float:
    """Bytes per token that a checkpointed block keeps: its input."""
    return (value_bytes if lora else 4) * shape.hidden_size


def feature_bytes(
    feature: Feature, *, student_width: int, teacher_width: int, value_bytes: int
) -> float:
    """Bytes per compared position that the term of one pair of blocks keeps."""
    projected = {
        "none": 0,
        "linear": value_bytes * student_width,
        "mlp": value_bytes * (student_width + 2 * teacher_width),
    }[feature.projector]
    # The student's states in float32 and the difference; or both states, their cosine's norms and
    # whether the student's has a direction.
    compared = {
        "mse": 4 * teacher_width,
        "normalized_mse": 8 * teacher_width + ROOT_BYTES,
        "cosine": 8 * teacher_width + 2 * ROOT_BYTES + 1,
    }
    # A distance that somebody added is taken for the largest of them.
    return projected + compared.get(feature.distance, max(compared.values()))


def _adapter_bytes(shape: Architecture, lora: Lora, value_bytes: int) -> float:
    """Bytes per token of what adapters read and of what lies between their two matrices."""
    hidden, inner, query = (
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_heads * shape.head_dim,
    )
    widths = {"o_proj": query, "down_proj": inner}
    kept = 0.0
    for name in lora.targets:
        width = widths.get(name, hidden)
        kept += value_bytes * lora.rank
        if lora.dropout:
            # What is left of the input, and which part was dropped: a byte each on a GPU.
            kept += (value_bytes + 1) * width
        elif value_bytes == 2 or name == "down_proj":
            kept += value_bytes * width
    if value_bytes == 4 and not lora.dropout:
        # Adapters of one input share it; that of o_proj attention has kept.
        for names in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            kept += value_bytes * hidden * any(name in lora.targets for name in names)
    return kept
