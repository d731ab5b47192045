"""The machines of a run: which GPU option fits them, and what about them changes joules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf, open_dict

from kdwatts.artifacts.manifest import MANIFEST_NAME
from kdwatts.config.experiment import Config
from kdwatts.config.machine import Gpu
from kdwatts.records.files import read_json
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.ranks import Launch
from kdwatts.telemetry.host import cpu_name
from kdwatts.telemetry.node_facts import NodeFacts
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


def check_gpus(config: Config, nodes: Sequence[NodeFacts]) -> None:
    """Raise ValueError when a node of the job has other GPUs than `gpu` names, or too few.

    Each node needs a GPU for each of its ranks: its meter reads no other node's.
    """
    if config.gpu.device == "cpu":
        return
    expected = " or ".join(repr(name) for name in config.gpu.nvml_names)
    asked = f"gpu={config.gpu.name} expects a GPU that NVML calls {expected}"
    for node in nodes:
        of_host = f" of host {node.host}" if len(nodes) > 1 else ""
        if not node.gpus:
            place = f" on host {node.host}" if of_host else ""
            raise ValueError(
                f"{asked}, but this job has no GPU{place}; choose gpu=cpu, or run where the GPU is"
            )
        for gpu in node.gpus:
            if gpu.name not in config.gpu.nvml_names:
                raise ValueError(
                    f"{asked}, but device {gpu.index}{of_host} is {gpu.name!r}; choose the gpu= "
                    "option that matches"
                )
        if len(node.gpus) < len(node.ranks):
            raise ValueError(
                f"{len(node.ranks)} ranks were launched{of_host and f' on host {node.host}'}, but "
                f"the meter sees {len(node.gpus)} GPUs and would miss the energy of the others; "
                "launch one rank per GPU, and let every rank see all GPUs of the job (no "
                "--gpus-per-task, no --gpu-bind)"
            )


def joule_settings(config: Config, gpus: Sequence[Device], launch: Launch) -> dict[str, Any]:
    """What about machines, launch and meter changes the joules of a measured stage, for its key.

    `gpus` are those of all nodes. Nodes are alike, so one processor stands for all.
    """
    telemetry = config.telemetry
    estimate = [telemetry.cpu_tdp_w, telemetry.cpu_tdp_threads]
    return {
        **({"nodes": launch.nodes} if launch.nodes > 1 else {}),
        **({"ranks": launch.ranks} if launch.ranks > 1 else {}),
        "gpu": config.gpu.name,
        "cards": [[gpu.name, gpu.power_limit_w] for gpu in gpus],
        "cpu": cpu_name(),
        "threads": psutil.cpu_count(),
        "cpu_estimate": estimate if telemetry.cpu_estimate == "tdp" else None,
    }


def first_start(
    run_dir: Path, gpus: Sequence[Device], launch: Launch
) -> tuple[list[Device], Launch] | None:
    """GPUs and launch of a run's first attempt on hardware of this kind, as its manifest has them.

    Hardware is of one kind where the names and power limits of GPUs, the processor and its number
    of threads are the same. None where that attempt was launched as this one, and where there is
    none: manifests of older versions do not state the launch.
    """
    path = run_dir / MANIFEST_NAME
    manifest = read_json(path) if path.is_file() else {}
    kind = {(gpu.name, gpu.power_limit_w) for gpu in gpus}, cpu_name(), psutil.cpu_count()
    for attempt in [*manifest.get("earlier_attempts", []), manifest]:
        if "launch" not in attempt:
            continue
        cards = [_device(gpu) for gpu in attempt["gpus"]]
        names = {(gpu.name, gpu.power_limit_w) for gpu in cards}
        if (names, attempt["cpu"], attempt["cpu_threads"]) == kind:
            first = Launch(attempt["launch"]["nodes"], attempt["launch"]["ranks"])
            return None if first == launch else (cards, first)
    return None


def _device(values: Mapping[str, Any]) -> Device:
    """A GPU of a manifest, which also names its host."""
    return Device(**{field.name: values[field.name] for field in fields(Device)})
