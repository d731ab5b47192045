"""Parameters and operations of a model with a given shape, by arithmetic."""

from __future__ import annotations

from kdwatts.config.pair import Architecture, ModelSource, block_weights_of
from kdwatts.config.training import Lora


def parameters_of(architecture: Architecture) -> int:
    """Number of parameters of a model with this shape. A tied head counts once.

    Each block has the projections of query, key, value and output, three MLP matrices and two
    norms, and in Qwen2 the biases of query, key and value.
    """
    shape = architecture
    beside = 2 * shape.hidden_size
    if shape.family == "qwen2":
        beside += (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    blocks = linear_weights_of(shape) + shape.num_layers * beside
    tables = shape.vocab_size * shape.hidden_size * (1 if shape.tied_head else 2)
    return blocks + tables + shape.hidden_size


def linear_weights_of(architecture: Architecture) -> int:
    """Number of weights in the linear layers of all blocks. Quantisation makes these smaller."""
    return architecture.num_layers * block_weights_of(architecture)


QUANTIZED_BYTES = {"int8": 1.0, "fp8": 1.0, "int4": 0.5}
"""Quantisation to the bytes of a weight of the linear layers of blocks."""


def weights_bytes_of(source: ModelSource, value_bytes: int) -> float:
    """Bytes of a model's weights: `value_bytes` each, and 1 or 1/2 in quantised linear layers.

    The scales of quantised blocks, a few per cent, are left out.
    """
    return served_bytes_of(source.architecture, source.quantization, value_bytes)


def served_bytes_of(
    architecture: Architecture, quantization: str | None, value_bytes: int
) -> float:
    """Bytes of the weights of a model that is served so, as `weights_bytes_of` counts them."""
    linear = linear_weights_of(architecture)
    linear_bytes = QUANTIZED_BYTES[quantization] if quantization else value_bytes
    return linear * linear_bytes + (parameters_of(architecture) - linear) * value_bytes


def step_bytes_of(architecture: Architecture, quantization: str | None, value_bytes: int) -> float:
    """Bytes of the weights that one decoding step reads: all but a table that is only looked up.

    A tied table is the head too, and the head is read whole.
    """
    served = served_bytes_of(architecture, quantization, value_bytes)
    table = architecture.vocab_size * architecture.hidden_size * value_bytes
    return served if architecture.tied_head else served - table


def cache_bytes_per_token(architecture: Architecture, value_bytes: int) -> int:
    """Bytes that the keys and values of one token take in all blocks."""
    shape = architecture
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * value_bytes


def adapter_parameters_of(architecture: Architecture, lora: Lora) -> int:
    """Number of parameters of the adapters: rank times inputs plus outputs of each target layer."""
    shape = architecture
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden, inner = shape.hidden_size, shape.intermediate_size
    ends = {
        "q_proj": hidden + query,
        "k_proj": hidden + key_value,
        "v_proj": hidden + key_value,
        "o_proj": query + hidden,
        "gate_proj": hidden + inner,
        "up_proj": hidden + inner,
        "down_proj": inner + hidden,
    }
    return shape.num_layers * lora.rank * sum(ends[name] for name in lora.targets)


def forward_flops_per_token(architecture: Architecture, sequence_length: int) -> float:
    """Floating-point operations of one forward pass, per token.

    Two per weight of blocks and head (looking up embeddings costs none), and 4 D T / 2 per block
    for causal attention at length T over a query width D (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1).
    """
    shape = architecture
    tables = shape.vocab_size * shape.hidden_size
    matrices = parameters_of(shape) - tables * (1 if shape.tied_head else 2)
    attention = 2 * shape.num_layers * shape.num_heads * shape.head_dim * sequence_length
    return 2 * (matrices + tables) + attention
