"""Low-rank adapters on the student's linear layers, put in place and merged back.

What a layer adds is alpha / rank times B A x (Hu et al. 2021, arXiv 2106.09685, section 4.1); B
begins at zero, so a student with fresh adapters says what it said without.
"""

from __future__ import annotations

import torch
from torch import nn

from kdwatts.config.training import Lora


def add_adapters(student: nn.Module, settings: Lora, *, seed: int) -> None:
    """Put an adapter on every target layer of `student`, and let nothing else of it be trained.

    Layers are replaced where they stand, so paths to modules stay as they were. Adapters are kept
    in float32 whatever the weights under them are in, and drawn from `seed`.
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
    """Make `student` a plain model of float32 weights that says what it said with its adapters."""
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
