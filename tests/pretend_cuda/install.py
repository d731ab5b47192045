"""Puts the pretended device into a process that has not imported torch yet."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from typing import Any


def install(guard: Path) -> None:
    """Load the library `guard` and have torch believe in one CUDA device.

    Torch asks once whether there is an accelerator: a process that has asked can pretend no more.
    """
    assert "torch" not in sys.modules, "the device is to be there before torch is imported"
    # The device runs no kernel of Triton's: what asks whether it is installed goes another way.
    sys.modules["triton"] = None  # pyright: ignore[reportArgumentType]
    ctypes.CDLL(str(guard), mode=ctypes.RTLD_GLOBAL)
    import torch
    import torch.cuda.amp.common

    from tests.pretend_cuda import pinned
    from tests.pretend_cuda.ledger import synchronised
    from tests.pretend_cuda.tensor import CUDA, Pretended

    run = threading.Thread.run

    def run_pretending(self: threading.Thread) -> None:
        with Pretended():  # A thread begins without the modes of the one that starts it.
            run(self)

    threading.Thread.run = run_pretending
    stated: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_name": lambda *_: "pretended",
        "get_device_capability": lambda *_: (9, 0),
        "synchronize": lambda *_: synchronised("torch.cuda.synchronize"),
        "empty_cache": lambda: None,
        "current_stream": lambda *_: None,
        "Event": _Event,
    }
    for name, value in stated.items():
        setattr(torch.cuda, name, value)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # pyright: ignore
    torch.Tensor.pin_memory = pinned.pin  # pyright: ignore[reportAttributeAccessIssue]
    torch.Tensor.is_pinned = pinned.is_marked  # pyright: ignore[reportAttributeAccessIssue]
    # `module.to()` exchanges what a parameter holds, so that a tied one stays tied.
    torch.__future__.set_swap_module_params_on_conversion(True)
    # Otherwise torch.tensor(..., device="cuda") is made without a word to the dispatcher.
    torch._C._set_only_lift_cpu_tensors(True)
    torch.nn.functional.scaled_dot_product_attention = _noting(
        torch.nn.functional.scaled_dot_product_attention, CUDA
    )


class _Event:
    """In place of `torch.cuda.Event`: it has always happened, and waiting for it is counted."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        from tests.pretend_cuda.ledger import synchronised

        synchronised("torch.cuda.Event.synchronize")


def _noting(attend: Any, device: Any) -> Any:
    """The same attention, noted where it is computed on the device."""
    import torch

    from tests.pretend_cuda.ledger import is_counting, note

    def scaled_dot_product_attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if is_counting() and query.device == device:
            is_cast = torch.is_autocast_enabled("cuda")
            dtype = torch.get_autocast_dtype("cuda") if is_cast else query.dtype
            known = {
                "has_mask": attn_mask is not None,
                "is_causal": is_causal,
                "enable_gqa": enable_gqa,
                "dtype": str(dtype).removeprefix("torch."),
                "query_heads": query.shape[1],
                "key_heads": key.shape[1],
                "num_queries": query.shape[2],
                "num_keys": key.shape[2],
                "has_gradient": torch.is_grad_enabled(),
            }
            note("attention", tuple(known.items()))
        return attend(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )

    return scaled_dot_product_attention
