"""What the named pair's plan takes, beside what is free on the device that computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import psutil

from kdwatts.config.experiment import Config
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.surroundings.gpu_setup import opened
from kdwatts.doctor.surroundings.host_room import free_gib
from kdwatts.doctor.surroundings.refusal_parts import finding_and_remedy
from kdwatts.planning.demands import CONTEXT_GIB, Demand, demands, shown_unit
from kdwatts.planning.fits import check_memory
from kdwatts.records.doctor_record import Verdict
from kdwatts.runtime.paths import expanded
from kdwatts.runtime.ranks import Launch
from kdwatts.telemetry.nvml_state import read_state


def plan_room(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """A verdict on each part of the pair's run, by name `plan_PART`."""
    del seconds
    config = patient.config
    if config.gpu.device == "cpu":
        root = Path(expanded(config.telemetry.cgroup_root))
        free, whole, where = free_gib(root), psutil.virtual_memory().total / 2**30, "the host"
    elif patient.gpu is None:
        yield from _without_gpu(config)
        return
    else:
        with opened(patient) as gpu:
            state = read_state(gpu)
        if state.memory_gib is None or state.memory_used_gib is None:
            yield Verdict("plan_memory", None, "not looked at: NVML does not state free memory")
            return
        whole = state.memory_gib - CONTEXT_GIB
        # What the driver keeps for itself is in both: it is counted once.
        free = min(whole, state.memory_gib - state.memory_used_gib)
        where = "the GPU"
    for demand in demands(config, Launch()):
        yield _verdict(config, demand, free_gib=free, whole_gib=whole, where=where)


def _verdict(
    config: Config, demand: Demand, *, free_gib: float, whole_gib: float, where: str
) -> Verdict:
    name = f"plan_{demand.part}"
    unit, scale = shown_unit(demand.gib)
    found = (
        f"{config.model.name} takes {scale * demand.gib:.1f} {unit} at most, by the plan: "
        f"{demand.what}"
    )
    against = f"{free_gib:.1f} GiB free on {where}, of {whole_gib:.1f} GiB for tensors"
    figure = {"value": demand.gib, "unit": "GiB"}
    if demand.gib <= free_gib:
        return Verdict(name, "right", found, against, **figure)
    if demand.gib <= whole_gib:
        remedy = f"free its memory: {where} has room for it when nothing else is there"
        return Verdict(name, "wrong", found, against, remedy, **figure)
    return Verdict(name, "wrong", found, against, _what_fits(config, demand, whole_gib), **figure)


def _what_fits(config: Config, demand: Demand, room_gib: float) -> str | None:
    """What would fit a device with this room, as the plan's refusal says it."""
    tried = copy.deepcopy(config)
    tried.gpu.device, tried.gpu.memory_gib = "cuda", room_gib + CONTEXT_GIB
    try:
        check_memory(tried, Launch(), parts=[demand.part])
    except ValueError as refusal:
        return finding_and_remedy(refusal)[1]
    return None


def _without_gpu(config: Config) -> Iterator[Verdict]:
    """The GPU is elsewhere: its data sheet says what it has."""
    found = f"not looked at: gpu={config.gpu.name} is not here"
    try:
        check_memory(config, Launch())
    except ValueError as refusal:
        found += f", and {finding_and_remedy(refusal)[0]}"
    yield Verdict("plan_memory", None, found)
