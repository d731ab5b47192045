"""The fused kernel as NVIDIA's assembler takes it: triton compiles for a GPU that is not there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from kdwatts.losses import fused_kinds as kinds

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; its wheels are for Linux",
)

VOCABULARY = 128_256
CAPABILITIES = {"A100": 80, "RTX 4090": 89, "H100": 90, "B200": 100}
DIVISIBLE = {"student_SV", "teacher_SV", "student_stride", "teacher_stride", "width"}
"""What a launch finds divisible by 16, by which triton may read 16 bytes at a time."""
NUMBERS = {"over_a", "over_b", "factor", "odds", "log_share"}
COUNTS = {"student_stride", "teacher_stride", "num_rows", "width", "num_set_aside", "num_at"}


def compiled(kind: int, *, capability: int, logits: str, needs_grad: bool = True) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kdwatts.losses.fused_kernels import row_kernel

    num_named = 64 if kind == kinds.TOP_K else 0
    constants = {
        **{"KIND": kind, "TWO": True, "GRADIENT": needs_grad, "SET_ASIDE": num_named},
        **{"AT": 2 * num_named or 1, "BLOCK": kinds.BLOCK},
        "BLOCKS": -(-VOCABULARY // kinds.BLOCK),
    }
    types = {"student_SV": f"*{logits}", "teacher_SV": f"*{logits}"}
    for name in row_kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in NUMBERS or name in COUNTS:
            types[name] = "fp32" if name in NUMBERS else "i32"
        else:
            types.setdefault(name, "*fp32")
    signature = {name: types[name] for name in row_kernel.arg_names}
    hints = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(row_kernel.arg_names)
        if name in DIVISIBLE
    }
    return triton.compile(
        ASTSource(row_kernel, signature, constants, hints),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": kinds.NUM_WARPS},
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("kind", range(8))
def test_an_h100_reads_bfloat16_logits_by_copies_of_16_bytes_ahead_of_their_use(kind: int):
    made = compiled(kind, capability=90, logits="bf16")
    copies = re.findall(
        r"cp\.async\.c[ag]\.shared\.global \[[^]]+\], \[[^]]+\], 0x(\w+)", made.asm["ptx"]
    )
    assert set(copies) == {"10"}
    assert made.asm["cubin"]


@pytest.mark.slow
@pytest.mark.parametrize("logits", ["bf16", "fp32"])
@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize("kind", range(8))
@pytest.mark.parametrize("capability", CAPABILITIES.values(), ids=list(CAPABILITIES))
def test_the_kernel_compiles_for_every_kind_of_gpu_within_its_shared_memory(
    kind: int, capability: int, logits: str, needs_grad: bool
):
    made = compiled(kind, capability=capability, logits=logits, needs_grad=needs_grad)
    # The least of them, an RTX 4090, gives a program 99 KiB.
    assert made.metadata.shared <= 99 * 1024
    assert made.asm["cubin"]


@pytest.mark.parametrize("divisible", [True, False])
def test_the_kernel_that_multiplies_a_gradient_compiles_whatever_its_length(divisible: bool):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kdwatts.losses.fused_kernels import scale_kernel

    # More than 2^31 numbers: a head of 262,144 tokens and 8,192 channels has as many.
    types = {"values_C": "*fp32", "scale": "*fp32", "count": "i64", "BLOCK": "constexpr"}
    hints = {(place,): [["tt.divisibility", 16]] for place in ([0, 2] if divisible else [0])}
    made = triton.compile(
        ASTSource(scale_kernel, types, {"BLOCK": kinds.BLOCK}, hints),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": kinds.NUM_WARPS},
    )
    assert ("st.global.v4" in made.asm["ptx"]) == divisible and made.asm["cubin"]


def test_one_compiled_kernel_serves_any_number_of_rows_so_the_one_that_runs_was_checked():
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime.jit import create_function_from_signature

    from kdwatts.losses.fused_kernels import row_kernel

    backend = CUDABackend(GPUTarget("cuda", 90, 32))
    bind = create_function_from_signature(row_kernel.signature, row_kernel.params, backend)
    constants = {"KIND": kinds.JSD, "TWO": False, "GRADIENT": True, "SET_ASIDE": 0, "AT": 1}

    def compiled_for(num_rows: int, width: int = VOCABULARY) -> object:
        tensors = [torch.zeros(16)] * 11
        counts, numbers = [width, width, num_rows, width, 0, 1], [1.0, 1.0, 0.5, 0.0, -0.7]
        options = {**constants, "BLOCKS": -(-width // kinds.BLOCK), "BLOCK": kinds.BLOCK}
        _, specialised, _ = bind(*tensors, *counts, *numbers, **options, num_warps=16)
        return specialised

    assert compiled_for(4) == compiled_for(1) == compiled_for(2048) == compiled_for(1357)
    assert compiled_for(4) != compiled_for(4, width=50_257)
