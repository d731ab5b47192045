"""The memory that a check may take, and how it is given back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

CGROUP_FILES = (
    ("memory.max", "memory.stat", "anon"),
    ("memory/memory.limit_in_bytes", "memory/memory.stat", "total_rss"),
)
"""The limit of this container's memory, and what counts against it and cannot be dropped: in cgroup
v2 and v1."""


def free_bytes(device: torch.device, *, cgroup_root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that can be taken on a device: on a CPU also within its container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = float(psutil.virtual_memory().available)
    for limit, statistics, held in CGROUP_FILES:
        try:
            most = (cgroup_root / limit).read_text("utf-8").strip()
            lines = (cgroup_root / statistics).read_text("utf-8").split("\n")
        except OSError:
            continue
        used = dict(line.split(" ", 1) for line in lines if " " in line).get(held, "")
        if most.isdecimal() and used.isdecimal():
            free = min(free, max(0.0, float(most) - float(used)))
    return free


@contextmanager
def emptied(device: torch.device) -> Iterator[None]:
    """Give memory back to the device at the end, also where the work in it failed."""
    try:
        yield
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
