"""Activations computed again, by whichever name transformers has for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kdwatts.models.load import recompute_blocks

INPUT = torch.tensor([[5, 1, 8, 2, 9, 4]])


def num_saved(model: Any) -> int:
    """How many tensors a forward pass keeps for the backward one."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        model.model(INPUT, use_cache=False)
    return len(saved)


def test_a_model_keeps_less_for_its_backward_pass(make_llama: Callable[..., Any]):
    model = make_llama().train()
    before = num_saved(model)
    recompute_blocks(model)
    assert num_saved(model) < before / 3


def test_a_model_that_knows_the_older_name_alone_is_asked_by_it():
    class Older(nn.Module):
        enabled = False

        def gradient_checkpointing_enable(self) -> None:
            self.enabled = True

    model = Older()
    recompute_blocks(model)
    assert model.enabled
