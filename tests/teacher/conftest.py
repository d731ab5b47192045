"""A real teacher of two blocks, made from a configuration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def teacher() -> LlamaForCausalLM:
    """64 tokens, 2 blocks, width 16; sharp enough that its probabilities differ."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    nn.init.normal_(model.lm_head.weight, std=0.8)
    nn.init.uniform_(model.model.norm.weight, 1.0, 2.0)
    return model


@pytest.fixture(scope="session")
def input_BT() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(64, (3, 5), generator=generator)
