"""What the machine is, and how its driver numbers processes, as JSON: `facts.py OUT`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdwatts.artifacts.hardware import cpu_name
from kdwatts.telemetry import host, nvml, strangers

ASKED = (
    *("name", "driver_version", "vbios_version", "power.limit", "power.default_limit"),
    *("power.max_limit", "persistence_mode", "compute_mode", "mig.mode.current"),
    *("ecc.mode.current", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("temperature.gpu", "power.draw", "memory.total", "memory.used"),
)
PACKAGES = (
    "torch",
    "transformers",
    "triton",
    "numpy",
    "nvidia-ml-py",
    "hydra-core",
    "liger-kernel",
)


def smi() -> dict[str, str] | str:
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if told.returncode:
        return (told.stdout + told.stderr).strip()
    values = told.stdout.splitlines()[0].split(", ")
    return dict(zip(ASKED, values, strict=True))


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


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    facts = {
        "gpu": smi(),
        "processes": processes(),
        "versions": versions(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "kernel": os.uname().release,
        "rapl": sorted(path.name for path in Path("/sys/class/powercap").glob("*")),
    }
    text = json.dumps(facts, indent=1)
    Path(sys.argv[1], "facts.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
