"""The memory that a check may take, and how it is given back."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from kdwatts.doctor.surroundings.host_room import free_gib
from kdwatts.memory.budget import GIB
from kdwatts.telemetry import cgroup


def free_bytes(device: torch.device, *, cgroup_root: Path = cgroup.ROOT) -> float:
    """Bytes that can be taken on a device: on a CPU within its group's limit and `ulimit -v`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free, (limit, _) = free_gib(cgroup_root) * GIB, resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    return max(0.0, free)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking. Of a CPU torch says so in a RuntimeError of other things, too."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


@contextmanager
def emptied(device: torch.device) -> Iterator[None]:
    """Give memory back to the device at the end, also where the work in it failed."""
    try:
        yield
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
