"""The published configurations of the models that the pairs of conf/model read.

Spelled as the files on the hub spell them, which is not how this version of transformers would
write them: positions lie at the top, and a head width is left out where heads divide the width.
"""

from __future__ import annotations

from typing import Any


def _llama(layers: int, width: int, mlp: int, heads: int, **changes: Any) -> dict[str, Any]:
    """A file of Llama 3.1 or 3.2 (Llama Team 2024, arXiv 2407.21783, table 3)."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": mlp,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 128256,
    }
    scaling = {**config["rope_scaling"], "factor": changes.pop("factor", 8.0)}
    return {**config, "rope_scaling": scaling, **changes}


def _qwen(
    layers: int, width: int, mlp: int, heads: int, key_value_heads: int, **changes: Any
) -> dict[str, Any]:
    """A file of Qwen2.5 Instruct (Qwen Team 2024, arXiv 2412.15115, table 1)."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": mlp,
        "max_position_embeddings": 32768,
        "max_window_layers": layers,
        "model_type": "qwen2",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": key_value_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
        **changes,
    }


_OWN_HEAD = {"tie_word_embeddings": False, "vocab_size": 152064, "sliding_window": 131072}

PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-8B-Instruct": _llama(32, 4096, 14336, 32),
    "meta-llama/Llama-3.1-70B-Instruct": _llama(80, 8192, 28672, 64),
    "meta-llama/Llama-3.2-1B-Instruct": _llama(
        16, 2048, 8192, 32, factor=32.0, head_dim=64, tie_word_embeddings=True
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(24, 896, 4864, 14, 2, max_window_layers=21),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(28, 1536, 8960, 12, 2, max_window_layers=21),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(36, 2048, 11008, 16, 2, max_window_layers=70),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(28, 3584, 18944, 28, 4, **_OWN_HEAD),
    "Qwen/Qwen2.5-72B-Instruct": _qwen(80, 8192, 29568, 64, 8, **_OWN_HEAD, max_window_layers=70),
    "runs/models/smollm2-135m-instruct": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 576,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 49152,
    },
}
"""By the path in the pair's file; `make smollm2` puts SmolLM2 (arXiv 2502.02737) there."""
