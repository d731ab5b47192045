"""Parameters and operations of a model with a given shape, by arithmetic."""

from __future__ import annotations

from kdwatts.config.pair import Architecture, ModelSource
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


def block_weights_of(architecture: Architecture) -> int:
    """Number of weights in the linear layers of one block."""
    shape = architecture
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return shape.hidden_size * (2 * query + 2 * key_value + 3 * shape.intermediate_size)


def weights_bytes_of(source: ModelSource, value_bytes: int) -> float:
    """Bytes of a model's weights: `value_bytes` each, and 1 or 1/2 in quantised linear layers.

    The scales of quantised blocks, a few per cent, are left out.
    """
    linear_bytes = {None: value_bytes, "int8": 1.0, "int4": 0.5}[source.quantization]
    linear = linear_weights_of(source.architecture)
    return linear * linear_bytes + (parameters_of(source.architecture) - linear) * value_bytes


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
