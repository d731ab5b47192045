"""The rates of the device: matrix products in bfloat16 and float32, and its memory."""

# K side of a square matrix.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from kdwatts.config.machine import Gpu
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed.data_sheet import (
    MEMORY_LEAST,
    MEMORY_SOURCE,
    PRODUCTS_LEAST,
    PRODUCTS_SOURCE,
    beside_sheet,
    sheet_of,
)
from kdwatts.doctor.speed.free_memory import emptied, free_bytes
from kdwatts.doctor.speed.timed_windows import Windows, figure, timed_windows
from kdwatts.records.doctor_record import Verdict

PRODUCT_SIZE = {"cuda": 8192, "cpu": 1024}
"""Side of the matrices. Larger ones are hardly faster; on a CPU they would take seconds."""
LEAST_SIZE = 256
PRODUCTS = 30
"""There is time for so many products on a CPU, or else the matrices are smaller."""
CPU_LEAST_FLOP_PER_S = 2e10
"""One core of any processor does as much. A slower first look was disturbed."""
PRODUCT_BYTES = 24
"""Bytes for each element of a matrix: three matrices of float32, and as much to spare."""

ARRAY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
"""Bytes of an array of the triad: many times what a cache holds."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def product_of(device: torch.device, precision: str, size: int) -> Callable[[], object]:
    """One product of two square matrices of random numbers, each of so many rows."""
    dtype = DTYPES[precision]
    torch.manual_seed(0)
    left_KK, right_KK = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out_KK = torch.empty_like(left_KK)
    return lambda: torch.mm(left_KK, right_KK, out=out_KK)


def product_windows(
    device: torch.device, precision: str, *, seconds: float, size: int | None = None
) -> tuple[Windows, float, int]:
    """The times of a product, its operations, and the rows of its matrices.

    Without a `size` they have as many rows as memory and time allow. No TF32 is used in float32, as
    in training.
    """
    size = size or _product_size(device, precision, seconds)
    with emptied(device):
        windows = timed_windows(product_of(device, precision, size), device, seconds=seconds)
    return windows, 2.0 * size**3, size


def _product_size(device: torch.device, precision: str, seconds: float) -> int:
    size = PRODUCT_SIZE[device.type]
    while size > LEAST_SIZE and PRODUCT_BYTES * size**2 > free_bytes(device):
        size //= 2
    if device.type == "cpu":  # A GPU is fast enough, and small products say nothing of its rate.
        probe = timed_windows(product_of(device, precision, LEAST_SIZE), device, seconds=0.1)
        flop_per_s = max(CPU_LEAST_FLOP_PER_S, probe.best(2.0 * LEAST_SIZE**3))
        most_flop = flop_per_s * seconds / PRODUCTS
        while size > LEAST_SIZE and 2.0 * size**3 > most_flop:
            size //= 2
    return size


def products(precision: str) -> Callable[[Patient, float], Iterator[Verdict]]:
    """The check of the rate of products in bf16 or fp32."""
    name = f"products_{precision}"

    def look(patient: Patient, seconds: float) -> Iterator[Verdict]:
        device, sheet = torch.device(patient.device), sheet_of(patient)
        windows, _, size = product_windows(device, precision, seconds=0.9 * seconds)
        yield products_verdict(name, windows, size, precision=precision, sheet=sheet)

    return look


def products_verdict(
    name: str, windows: Windows, size: int, *, precision: str, sheet: Gpu | None, when: str = ""
) -> Verdict:
    """The verdict on products of matrices of so many rows; `when` they were timed, in words."""
    stated = None
    if sheet:
        stated = sheet.bf16_dense_tflops if precision == "bf16" else sheet.fp32_dense_tflops
    return beside_sheet(
        name,
        windows,
        2.0 * size**3 / 1e12,
        what=f"products of {size:,} x {size:,} random numbers{when}",
        unit="TFLOP/s",
        stated=stated,
        sheet=sheet,
        limit=(PRODUCTS_LEAST, PRODUCTS_SOURCE),
    )


def memory_bandwidth(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The check of the memory: STREAM's triad a = b + 3 c, and its copy a = b.

    Bytes are those that the work names (McCalpin 1995): 12 an element of float32 in a triad and 8
    in a copy. What a cache reads before it writes is not counted.
    """
    name = "memory_bandwidth"
    device, sheet = torch.device(patient.device), sheet_of(patient)
    with emptied(device):
        elements, copy, triad = _streams(device, seconds)
    yield beside_sheet(
        name,
        triad,
        12 * elements / 1e9,
        what=(
            f"a triad of three arrays of {4 * elements / 2**20:,.0f} MiB, 12 bytes an element; a "
            f"copy moves {figure(copy.median(8 * elements / 1e9))}"
        ),
        unit="GB/s",
        stated=sheet.memory_bandwidth_gb_s if sheet else None,
        sheet=sheet,
        limit=(MEMORY_LEAST, MEMORY_SOURCE),
    )


def _streams(device: torch.device, seconds: float) -> tuple[int, Windows, Windows]:
    """Elements of an array, and the times of a copy and of a triad."""
    most = min(ARRAY_BYTES[device.type], free_bytes(device) / 8)
    elements = 1 << math.floor(math.log2(most / 4))
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    copy = timed_windows(lambda: a.copy_(b), device, seconds=0.2 * seconds)
    triad = timed_windows(lambda: torch.add(b, c, alpha=3, out=a), device, seconds=0.6 * seconds)
    return elements, copy, triad
