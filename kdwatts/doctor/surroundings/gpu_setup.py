"""How the GPU is set up: its modes, its power limit, what slows it while idle, and who uses it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from kdwatts.doctor.patient import Patient
from kdwatts.doctor.surroundings.refusal_parts import finding_and_remedy
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry import nvml
from kdwatts.telemetry.nvml_state import GpuState, harms_of, read_state, words_of
from kdwatts.telemetry.strangers import Watch

LIMIT_STEP_W = 1.0
"""nvidia-smi sets a power limit in whole watts: less than this apart is the same limit."""
LOOKS, BETWEEN_LOOKS_S = 5, 0.1
"""How often an idle GPU is asked what holds its clocks back."""
_ORDINARY = 0x1 | 0x4
"""NVML's bits for an idle GPU and for its power limit, which has a verdict of its own."""
_CHOSEN = 0x2


def gpu_setup(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts on the first GPU of the job. A single one says that there is none."""
    if patient.gpu is None:
        yield Verdict("gpu_setup", None, "not looked at: no GPU is examined here")
        return
    with opened(patient) as gpu:
        # First of all: later this process may be on the GPU itself.
        yield _others(gpu, allowed=patient.config.telemetry.allow_shared)
        state = read_state(gpu)
        yield _persistence(state, gpu.device)
        yield _ecc(state, gpu.device)
        yield _mig(state, gpu, allowed=patient.config.telemetry.allow_shared)
        yield _power_limit(state, gpu.device, patient.config.gpu.tdp_w)
        yield _clocks(state, gpu, seconds)


@contextmanager
def opened(patient: Patient) -> Iterator[nvml.OpenDevice]:
    """The GPU that is examined, open to be asked. Raises RuntimeError where it is gone."""
    assert patient.gpu
    gpus, reason = nvml.open_gpus()
    try:
        found = [gpu for gpu in gpus if gpu.device.uuid == patient.gpu.uuid]
        if not found:
            raise RuntimeError(f"{patient.gpu.uuid} is not listed any more ({reason}); look again")
        yield found[0]
    finally:
        if gpus:
            nvml.close()


def _others(gpu: nvml.OpenDevice, *, allowed: bool) -> Verdict:
    against = "the processes of this job"
    # Slices have a verdict of their own.
    whole = replace(gpu, device=replace(gpu.device, is_sliced=False))
    try:
        Watch([whole], allowed=False)
    except RuntimeError as refusal:
        found, remedy = finding_and_remedy(refusal)
        found = found.removeprefix("telemetry: ")
        verdict = "attention" if allowed else "wrong"
        return Verdict("other_processes", verdict, found, against, remedy)
    found = "no other process has a compute context on the GPU"
    return Verdict("other_processes", "right", found, against)


def _persistence(state: GpuState, device: nvml.Device) -> Verdict:
    name = "persistence_mode"
    if state.is_persistent is None:
        return Verdict(name, None, "the driver does not state it")
    if state.is_persistent:
        return Verdict(name, "right", "on: the driver stays loaded between two runs")
    found = "off: without a client the driver unloads, and the energy counter may start again at 0"
    against = "on, which NVIDIA's driver documentation advises for GPUs without a screen"
    return Verdict(name, "attention", found, against, f"sudo nvidia-smi -i {device.uuid} -pm 1")


def _ecc(state: GpuState, device: nvml.Device) -> Verdict:
    name = "memory_errors"
    if state.has_ecc is None:
        return Verdict(name, None, "the GPU does not say whether it corrects errors of its memory")
    if not state.has_ecc:
        found = "ECC is off: an error of the memory changes numbers unseen"
        if not state.has_ecc_by_default:
            return Verdict(name, None, f"{found}; this GPU comes so from its maker")
        remedy = f"sudo nvidia-smi -i {device.uuid} -e 1, then restart the machine"
        return Verdict(name, "attention", found, "on, as the GPU comes from its maker", remedy)
    count, ever = state.uncorrected_errors, state.uncorrected_errors_ever
    if count is None:
        return Verdict(name, None, "ECC is on, but the GPU does not count what it cannot correct")
    since = "" if ever is None else f", {ever} in its life"
    found = f"ECC is on; {count} errors were not corrected since the driver was loaded{since}"
    figure = {"against": "no such error", "value": float(count), "unit": "errors"}
    if count == 0:
        return Verdict(name, "right", found, **figure)
    remedy = (
        f"sudo nvidia-smi -i {device.uuid} --gpu-reset, and run again; where errors come back, "
        "have the GPU replaced"
    )
    return Verdict(name, "wrong", found, remedy=remedy, **figure)


def _mig(state: GpuState, gpu: nvml.OpenDevice, *, allowed: bool) -> Verdict:
    name = "mig"
    if not state.is_sliced:
        return Verdict(name, "right", "off: the job has the whole GPU, as its meter has")
    found = "on: the GPU is sliced, and its meter measures all slices together"
    remedy = f"sudo nvidia-smi -i {gpu.device.uuid} -mig 0, or use a whole GPU"
    verdict = "attention" if allowed else "wrong"
    return Verdict(name, verdict, found, "one job on the whole GPU", remedy)


def _power_limit(state: GpuState, device: nvml.Device, tdp_w: float | None) -> Verdict:
    name, limit_w = "power_limit", state.power_limit_w
    if limit_w is None:
        return Verdict(name, None, "the GPU does not state its power limit")
    default_w = tdp_w if state.default_limit_w is None else state.default_limit_w
    figure = {"value": limit_w, "unit": "W"}
    found = f"{limit_w:.0f} W is enforced"
    if default_w is None:
        return Verdict(name, None, f"{found}; neither NVML nor a data sheet says the default")
    source = "data sheet" if state.default_limit_w is None else "NVML"
    against = f"its default of {default_w:.0f} W ({source})"
    if abs(limit_w - default_w) < LIMIT_STEP_W:
        return Verdict(name, "right", found, against, **figure)
    side = "below" if limit_w < default_w else "above"
    found += f", {side} the default: speed and J/token are not those of this GPU as it is sold"
    remedy = f"sudo nvidia-smi -i {device.uuid} -pl {default_w:.0f}"
    return Verdict(name, "attention", found, against, remedy, **figure)


def _clocks(state: GpuState, gpu: nvml.OpenDevice, seconds: float) -> Verdict:
    """What holds the clocks back while nothing runs."""
    name = "idle_clocks"
    states, until_s = [state], time.monotonic() + seconds / 2
    while len(states) < LOOKS and time.monotonic() < until_s:
        time.sleep(BETWEEN_LOOKS_S)
        states.append(read_state(gpu))
    known = [one.reason_bits for one in states if one.reason_bits is not None]
    seen = _clock_words(states)
    if not known:
        return Verdict(name, None, f"{seen}; the GPU does not say what holds its clocks back")
    bits = 0
    for each in known:
        bits |= each
    words = ", ".join(words_of(bits)) or "nothing holds them back"
    found = f"{seen}; in {len(known)} looks: {words}"
    clock = states[-1].sm_clock_mhz
    against = "NVML's reasons, of which idle and the power limit are ordinary"
    figure = {"value": clock, "unit": None if clock is None else "MHz"}
    if harms_of(bits):
        remedy = (
            "check its cooling and its power supply, and run again; "
            f"nvidia-smi -i {gpu.device.uuid} -q -d PERFORMANCE,TEMPERATURE shows them live"
        )
        return Verdict(name, "wrong", found, against, remedy, **figure)
    if not bits & ~_ORDINARY:
        return Verdict(name, "right", found, against, **figure)
    remedy = (
        f"sudo nvidia-smi -i {gpu.device.uuid} -rgc -rmc; then sudo nvidia-smi -i "
        f"{gpu.device.uuid} -rac"
        if bits & _CHOSEN
        else f"nvidia-smi -i {gpu.device.uuid} -q -d PERFORMANCE shows what it is"
    )
    return Verdict(name, "attention", found, against, remedy, **figure)


def _clock_words(states: list[GpuState]) -> str:
    last = states[-1]
    parts = [
        f"cores at {_mhz(last.sm_clock_mhz, last.max_sm_clock_mhz)}",
        f"memory at {_mhz(last.memory_clock_mhz, last.max_memory_clock_mhz)}",
    ]
    hottest_c = max((one.temperature_c or -math.inf for one in states), default=-math.inf)
    if math.isfinite(hottest_c):
        parts.append(f"{hottest_c:.0f} degrees Celsius")
    return ", ".join(parts)


def _mhz(now: float | None, highest: float | None) -> str:
    said = "an unstated clock" if now is None else f"{now:.0f} MHz"
    return said if highest is None else f"{said} of {highest:.0f}"
