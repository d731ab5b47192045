"""A teacher whose linear layers are kept in 8 or 4 bits, by bitsandbytes.

Weights are quantised while they are read, directly onto the GPU. Embeddings, norms and head stay as
they are. The library is imported only where a pair asks for it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

LIBRARY = "bitsandbytes"


def check_quantization(path: str, quantization: str) -> None:
    """Raise RuntimeError unless this machine can quantise. Nothing is loaded."""
    asked = f"model {path} with quantization={quantization}"
    if find_spec(LIBRARY) is None:
        raise RuntimeError(
            f"{asked} needs {LIBRARY}, which is not installed; install it with `pip install "
            "kdwatts[quantized]`, or set model.teacher.quantization=null"
        )
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"{asked} needs a CUDA device, but there is none; run it on a GPU, or set "
            "model.teacher.quantization=null"
        )


def loading_settings(path: str, quantization: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for quantised weights. Empty for weights as they are.

    Four bits are NormalFloat4, computed in bfloat16 (Dettmers et al. 2023, arXiv 2305.14314).
    """
    if quantization is None:
        return {}
    check_quantization(path, quantization)
    return {
        "quantization_config": bits_and_bytes(quantization),
        "device_map": {"": torch.cuda.current_device()},
    }


def bits_and_bytes(quantization: str) -> Any:
    """The configuration of int8 or int4 as transformers takes it."""
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on `device`. A quantised model is there since it was loaded and is not moved."""
    return model if getattr(model, "is_quantized", False) else model.to(device)
