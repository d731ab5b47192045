"""The machine of a run: which GPU option fits it, and what about it changes joules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf, open_dict

from kdwatts.config.experiment import Config
from kdwatts.config.machine import Gpu
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.ranks import launched
from kdwatts.telemetry.host import cpu_name
from kdwatts.telemetry.nvml import Device


def resolve_gpu(tree: DictConfig, gpus: Sequence[Device]) -> DictConfig:
    """The settings with `gpu=auto` replaced by the option that names the first GPU, or by `cpu`.

    A GPU without an option gets one that is made from what its driver reports.
    """
    if tree.gpu.name != "auto":
        return tree
    resolved = tree.copy()
    with open_dict(resolved):
        # An option without a device means the schema's default, which `auto` has replaced.
        device = {"device": Gpu().device}
        resolved.gpu = OmegaConf.merge(tree.gpu, device, _option_for(gpus))
    return resolved


def _option_for(gpus: Sequence[Device]) -> DictConfig:
    paths = sorted((conf_dir() / "gpu").glob("*.yaml"))
    options: dict[str, Any] = {path.stem: OmegaConf.load(path) for path in paths}
    if not gpus:
        return DictConfig(options["cpu"])
    for option in options.values():
        if gpus[0].name in option.get("nvml_names", []):
            return DictConfig(option)
    return DictConfig(
        {
            "name": re.sub(r"\W+", "_", gpus[0].name.lower()).strip("_"),
            "device": "cuda",
            "nvml_names": [gpus[0].name],
            "memory_gib": gpus[0].memory_gib,
            "tdp_w": gpus[0].power_limit_w,
            "source": "the GPU's own driver",
        }
    )


def check_gpus(config: Config, gpus: Sequence[Device]) -> None:
    """Raise ValueError when the job's GPUs are not the ones that `gpu` names."""
    if config.gpu.device == "cpu":
        return
    expected = " or ".join(repr(name) for name in config.gpu.nvml_names)
    if not gpus:
        raise ValueError(
            f"gpu={config.gpu.name} expects a GPU that NVML calls {expected}, but this job has no "
            "GPU; choose gpu=cpu, or run where the GPU is"
        )
    for gpu in gpus:
        if gpu.name not in config.gpu.nvml_names:
            raise ValueError(
                f"gpu={config.gpu.name} expects a GPU that NVML calls {expected}, but device "
                f"{gpu.index} is {gpu.name!r}; choose the gpu= option that matches"
            )
    num_ranks = launched().world
    if len(gpus) < num_ranks:
        raise ValueError(
            f"{num_ranks} ranks were launched, but the meter sees {len(gpus)} GPUs and would miss "
            "the energy of the others; launch one rank per GPU, and let every rank see all GPUs of "
            "the job (no --gpus-per-task, no --gpu-bind)"
        )


def joule_settings(config: Config, gpus: Sequence[Device]) -> dict[str, Any]:
    """What about machine and meter changes the joules of a measured stage, for its key."""
    telemetry, num_ranks = config.telemetry, launched().world
    estimate = [telemetry.cpu_tdp_w, telemetry.cpu_tdp_threads]
    return {
        **({"ranks": num_ranks} if num_ranks > 1 else {}),
        "gpu": config.gpu.name,
        "cards": [[gpu.name, gpu.power_limit_w] for gpu in gpus],
        "cpu": cpu_name(),
        "threads": psutil.cpu_count(),
        "cpu_estimate": estimate if telemetry.cpu_estimate == "tdp" else None,
    }
