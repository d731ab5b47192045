"""A real teacher of two blocks, made from a configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM


@pytest.fixture(scope="session")
def teacher(make_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    """64 tokens, 2 blocks, width 16; sharp enough that its probabilities differ."""
    model = make_llama(tie_word_embeddings=False)
    nn.init.normal_(model.lm_head.weight, std=0.8)
    nn.init.uniform_(model.model.norm.weight, 1.0, 2.0)
    return model


@pytest.fixture(scope="session")
def input_BT() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(64, (3, 5), generator=generator)
