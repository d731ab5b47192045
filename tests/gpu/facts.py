"""What the machine is, and what would explain a part that fails, as JSON: `facts.py OUT`.

A fact that cannot be had is the error's sentence. What needs torch comes last.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdwatts.records.files import write_json
from kdwatts.telemetry import host, nvml, strangers
from kdwatts.telemetry.host import cpu_name

GIB = 1 << 30
ASKED = (
    *("name", "driver_version", "vbios_version", "power.limit", "power.default_limit"),
    *("power.max_limit", "persistence_mode", "compute_mode", "mig.mode.current"),
    *("ecc.mode.current", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("temperature.gpu", "power.draw", "memory.total", "memory.used"),
)
PAGES = "POWER,CLOCK,PERFORMANCE,MEMORY,COMPUTE,PIDS"
"""Of `nvidia-smi -q`: limits, what slows the clock, and who else uses the GPU."""
PACKAGES = (
    "torch",
    "transformers",
    "triton",
    "numpy",
    "nvidia-ml-py",
    "hydra-core",
    "liger-kernel",
    "trl",
)
COMPILERS = ("cc", "gcc", "clang", "g++", "nvcc", "ptxas")
"""Triton builds its launchers by CC, gcc or clang, with Python.h."""
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CC", "CXX", "HOME", "TMPDIR", "LD_LIBRARY_PATH"),
    *("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "PYTORCH_ALLOC_CONF"),
)


def smi(*words: str) -> str:
    told = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=20)
    if told.returncode:
        raise RuntimeError((told.stdout + told.stderr).strip())
    return told.stdout


def gpu() -> dict[str, str]:
    told = smi(f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader")
    return dict(zip(ASKED, told.splitlines()[0].split(", "), strict=True))


def pages() -> list[str]:
    """Lines that tell something."""
    lines = [line.rstrip() for line in smi("-q", "-d", PAGES).splitlines()]
    return [line for line in lines if line and "N/A" not in line]


def readings() -> dict[str, Any]:
    """What NVML tells of the first GPU, each figure null where it does not."""
    gpus, reason = nvml.open_gpus()
    if not gpus:
        return {"reason": reason}
    try:
        return {
            **vars(gpus[0].device),
            "uuid": None,
            "has_fields": gpus[0].has_fields,
            **nvml.read(gpus[0])._asdict(),
            **vars(nvml.read_slow(gpus[0])),
        }
    finally:
        nvml.close()


def machine() -> dict[str, Any]:
    folders = {"work": os.environ.get("TRITON_CACHE_DIR", "/tmp"), "shm": "/dev/shm"}
    free = {}
    for name, path in folders.items():
        there = next(p for p in (Path(path), *Path(path).parents) if p.exists())
        free[f"{name}_free_gib"] = shutil.disk_usage(there).free / GIB
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "memory_lines": Path("/proc/meminfo").read_text().splitlines()[:3],
        **free,
        "home_is_writable": os.access(Path.home(), os.W_OK),
        "kernel": os.uname().release,
        "rapl": sorted(path.name for path in Path("/sys/class/powercap").glob("*")),
        "environment": {name: os.environ.get(name) for name in VARIABLES},
    }


def compilers() -> dict[str, Any]:
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    found: dict[str, Any] = {name: shutil.which(name) for name in COMPILERS}
    return found | {"python_h": str(header) if header.is_file() else None}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def cuda() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"built_for": torch.version.cuda}
    if not torch.cuda.is_available():
        return facts | {"reason": "torch sees no CUDA device"}
    free, total = torch.cuda.mem_get_info()
    return facts | {
        "name": torch.cuda.get_device_name(),
        "num_gpus": torch.cuda.device_count(),
        "capability": torch.cuda.get_device_capability(),
        "architectures": torch.cuda.get_arch_list(),
        "free_gib": free / GIB,
        "total_gib": total / GIB,
    }


def processes() -> dict[str, Any]:
    """How NVML counts this process before and after it uses the GPU."""
    import torch

    gpus, reason = nvml.open_gpus()
    if not gpus or not torch.cuda.is_available():
        nvml.close() if gpus else None
        return {"reason": reason or "torch sees no CUDA device"}
    before = nvml.compute_pids(gpus[0])
    torch.ones(1, device="cuda")
    after = nvml.compute_pids(gpus[0])
    nvml.close()
    return {
        "namespace": strangers._namespace(),
        "own_pid": os.getpid(),
        "pids_before": sorted(before),
        "pids_after": sorted(after),
        "own_is_named_as_here": os.getpid() in after,
        "holding_cuda_device": host.num_holding(strangers._CUDA_DEVICE),
    }


def kernel() -> dict[str, Any]:
    """Which form of the head runs here, and the seconds until it did."""
    import torch

    from kdwatts.losses import fused_choice, products
    from kdwatts.losses.response import dense_term

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher = (torch.randn(8, 1024, device=device).bfloat16() for _ in range(2))
    began_s = time.perf_counter()
    plan = fused_choice.agreed_plan(
        *({"kd": dense_term("jsd")}, {"kd": 1.0}, slice(0, 8), student, teacher), needs_grad=True
    )
    return {
        "is_fused": plan is not None,
        "why_plain": next(iter(fused_choice.refused.values()), None),
        "seconds": time.perf_counter() - began_s,
        "adds_in_float32": products.adds_in_float32(student.device, torch.bfloat16),
    }


FACTS: dict[str, Callable[[], Any]] = {
    "gpu": gpu,
    "pages": pages,
    "readings": readings,
    "machine": machine,
    "compilers": compilers,
    "versions": versions,
    # CUDA is used from here on, and seen by the first of these not at all.
    "processes": processes,
    "cuda": cuda,
    "kernel": kernel,
}


def main() -> None:
    facts: dict[str, Any] = {"date_utc": datetime.now(UTC).date().isoformat()}
    for name, tell in FACTS.items():
        try:
            facts[name] = tell()
        except Exception as error:  # What is missing is what these facts are read for.
            facts[name] = f"{type(error).__name__}: {error}"[:500]
        write_json(Path(sys.argv[1], "facts.json"), facts)  # A cut leaves the facts before it.
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
