"""Low-rank adapters on the student's linear layers, put in place and merged back.

A layer's output gains alpha / rank times B A x (Hu et al. 2021, arXiv 2106.09685, section 4.1). B
begins at zero, so new adapters change nothing that the student says.
"""

from __future__ import annotations

import torch
from torch import nn

from kdwatts.config.training import Lora


def add_adapters(student: nn.Module, settings: Lora, *, seed: int) -> None:
    """Put an adapter on every target layer of `student`. Nothing else of it will be trained.

    Layers are replaced in their places, so paths to modules stay. Adapters are in float32 whatever
    the weights are in, and are drawn from `seed`.
    """
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        bias="none",
    )
    inject_adapter_in_model(config, student)
    for name, parameter in student.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
        assert parameter.requires_grad == ("lora_" in name), name


def merge_adapters(student: nn.Module) -> None:
    """Turn `student` with adapters into a plain model of float32 weights that says the same."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    # In bfloat16 most of what the adapters learned would be rounded away.
    student.float()
    adapted = [(n, m) for n, m in student.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, module in adapted:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, module.get_base_layer())
    student.requires_grad_(True)
    if hasattr(student, "peft_config"):
        del student.peft_config
