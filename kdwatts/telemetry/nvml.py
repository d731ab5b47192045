"""The GPUs of this job, read through NVIDIA's management library (NVML).

Millijoules and milliwatts become joules and watts here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pynvml
from pynvml import NVMLError

from kdwatts.telemetry.nvml_fields import FIELDS, FieldQuery
from kdwatts.telemetry.nvml_handles import Handles
from kdwatts.telemetry.readings import MAX_DELTA_S, Reading, Sensor, known_limit_w

log = logging.getLogger(__name__)
_warn_once = lru_cache(log.warning)

_ABSENT = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


@dataclass(frozen=True)
class Device:
    """One GPU of this job, as NVML describes it."""

    index: int
    """NVML's number, which counts by PCI bus."""
    uuid: str
    """NVML's name of this one GPU."""
    name: str
    """NVML's name of the product."""
    memory_gib: float | None
    """All of its memory; None where NVML does not say."""
    power_limit_w: float | None
    """Enforced limit when the meter started; None where NVML does not say."""
    driver: str
    """Version of the driver."""
    has_energy_counter: bool
    """Whether it counts energy; if not, power samples are integrated."""
    is_sliced: bool
    """MIG is on: the job has a slice, but only the whole GPU has a meter."""


@dataclass(frozen=True)
class OpenDevice:
    """A GPU and how to read it."""

    device: Device
    handles: Handles = field(repr=False, compare=False)
    has_fields: bool
    """Three quantities come in one query. Older drivers need one query each."""
    fields: FieldQuery = field(default_factory=FieldQuery, repr=False, compare=False)

    @property
    def handle(self) -> Any:
        """NVML's handle of the GPU."""
        return self.handles.of(self.device.uuid)


@dataclass(frozen=True)
class SlowQuantities:
    """What changes slowly and costs more to read. None where the GPU does not state it."""

    util_pct: float | None
    memory_used_gib: float | None
    temperature_c: float | None
    sm_clock_mhz: float | None
    throttle_reasons: int | None
    power_limit_w: float | None


def open_gpus(environment: Mapping[str, str] = os.environ) -> tuple[list[OpenDevice], str]:
    """The GPUs of this job and, when there are none, the reason. Call `close` at the end.

    CUDA_VISIBLE_DEVICES names them (by index, UUID or prefix), else SLURM_JOB_GPUS. Without either
    they are all GPUs of the node.

    Raises ValueError for a name that NVML does not know.
    """
    try:
        pynvml.nvmlInit()
    except NVMLError as error:
        return [], f"no NVML: {error}"
    try:
        gpus = _chosen(environment)
    except NVMLError as error:
        close()
        return [], f"NVML does not list its GPUs: {error}"
    except BaseException:
        close()
        raise
    if not gpus:
        close()
        return [], f"no GPU for this job ({_where(environment)})"
    for gpu in gpus:
        log.info("%s -> %s %s", _where(environment), gpu.device.uuid, gpu.device.name)
    return gpus, ""


def close() -> None:
    """Release NVML. It may fail for a GPU that fell off the bus. That is only logged."""
    try:
        pynvml.nvmlShutdown()
    except NVMLError as error:
        log.warning("NVML did not shut down (%s); this changes no figure", error)


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[Device]:
    """The GPUs of this job, without a meter. Empty where there is no NVML or no GPU."""
    gpus, _ = open_gpus(environment)
    if gpus:
        close()
    return [gpu.device for gpu in gpus]


def _where(environment: Mapping[str, str]) -> str:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        if name in environment:
            return f"{name}={environment[name]}"
    return "every GPU of the node"


def _chosen(environment: Mapping[str, str]) -> list[OpenDevice]:
    driver, handles = _insist(pynvml.nvmlSystemGetDriverVersion), Handles()
    found = [_gpu(i, driver, handles) for i in range(_insist(pynvml.nvmlDeviceGetCount))]
    gpus = [gpu for gpu in found if gpu is not None]
    if not gpus:
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        entries = environment["CUDA_VISIBLE_DEVICES"].split(",")
        _warn_of_order(gpus, entries, environment)
    elif "SLURM_JOB_GPUS" in environment:
        entries = environment["SLURM_JOB_GPUS"].split(",")
        if len(entries) == len(gpus):
            # Slurm counts over the node; a job confined by cgroups sees its own GPUs from 0 on.
            return gpus
    else:
        return gpus
    chosen: list[OpenDevice] = []
    for entry in (entry.strip() for entry in entries):
        if entry in ("", "-1", "NoDevFiles"):
            break  # As CUDA: an invalid entry hides all after it.
        gpu = _find(gpus, entry, environment)
        if all(gpu.device.uuid != other.device.uuid for other in chosen):
            chosen.append(gpu)
    return chosen


def _find(gpus: Sequence[OpenDevice], entry: str, environment: Mapping[str, str]) -> OpenDevice:
    if entry.startswith("MIG-"):
        return _parent_of_slice(entry, gpus)
    by_uuid = entry.startswith("GPU-")
    matches = [
        gpu
        for gpu in gpus
        if (gpu.device.uuid.startswith(entry) if by_uuid else str(gpu.device.index) == entry)
    ]
    if len(matches) == 1:
        return matches[0]
    known = ", ".join(f"{gpu.device.index} {gpu.device.uuid}" for gpu in gpus)
    raise ValueError(
        f"{_where(environment)} names GPU {entry!r}, but NVML lists {known or 'none'}; name one of "
        "these by its index, its UUID, or a prefix that fits only one"
    )


def _parent_of_slice(uuid: str, gpus: Sequence[OpenDevice]) -> OpenDevice:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    parent = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
    return next(gpu for gpu in gpus if gpu.device.uuid == parent)


def _warn_of_order(
    gpus: Sequence[OpenDevice], entries: Sequence[str], environment: Mapping[str, str]
) -> None:
    by_index = any(entry.strip().isdigit() for entry in entries)
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if by_index and not by_bus and len({gpu.device.name for gpu in gpus}) > 1:
        log.warning(
            "the node has several GPU models: CUDA counts the fastest first, NVML counts by bus; "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or the wrong GPU may be measured"
        )


def _gpu(index: int, driver: str, handles: Handles) -> OpenDevice | None:
    """A GPU of the node; None, with a warning, where it does not answer: it may be another's."""
    try:
        return _insist(_described, index, driver, handles)
    except NVMLError as error:
        log.warning(
            "telemetry: GPU %d of the node does not answer (%s), so it is left out", index, error
        )
        return None


def _insist(query: Callable[..., Any], *arguments: Any) -> Any:
    """The answer at one of three tries: a moment's error must not cost a run its energy."""
    for _ in range(2):
        try:
            return query(*arguments)
        except NVMLError:
            time.sleep(0.1)
    return query(*arguments)


def _described(index: int, driver: str, handles: Handles) -> OpenDevice:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    limit_mw = or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    values = or_none(pynvml.nvmlDeviceGetFieldValues, handle, FIELDS)
    has_fields = values is not None and all(
        values[i].nvmlReturn == pynvml.NVML_SUCCESS for i in (0, 2)
    )
    counter_mj = or_none(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    mig_modes = or_none(pynvml.nvmlDeviceGetMigMode, handle)
    gpu = Device(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory_gib=None if memory is None else memory.total / 2**30,
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        driver=driver,
        has_energy_counter=counter_mj is not None,
        is_sliced=mig_modes is not None and mig_modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
    )
    return OpenDevice(gpu, handles, has_fields and gpu.has_energy_counter)


def or_none(query: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where GPU or driver lack the quantity. Other errors are raised."""
    try:
        return query(*arguments)
    except NVMLError as error:
        if error.value in _ABSENT:  # pyright: ignore[reportAttributeAccessIssue]
            return None
        raise


def read(gpu: OpenDevice) -> Reading:
    """Counter in J and power in W of a GPU. Raises NVMLError when the GPU does not answer."""
    asked_s = time.monotonic()
    try:
        counter_mj, power_mw, average_mw = _counter_and_power(gpu)
    except NVMLError as error:
        gpu.handles.failed(gpu.device.uuid, error)
        raise
    gpu.handles.answered(gpu.device.uuid)
    return Reading(
        time_s=(asked_s + time.monotonic()) / 2,
        energy_counter_j=None if counter_mj is None else counter_mj / 1e3,
        power_w=None if power_mw is None else power_mw / 1e3,
        power_average_w=None if average_mw is None else average_mw / 1e3,
    )


def _counter_and_power(gpu: OpenDevice) -> tuple[int | None, int | None, int | None]:
    """Counter in mJ, instant and average power in mW."""
    if gpu.has_fields:
        return gpu.fields.read(gpu.handle)
    counter_mj = None
    if gpu.device.has_energy_counter:
        counter_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)
    return counter_mj, or_none(pynvml.nvmlDeviceGetPowerUsage, gpu.handle), None


def read_slow(gpu: OpenDevice) -> SlowQuantities:
    """Utilisation, memory, temperature, clock, throttling and power limit. Raises NVMLError."""
    handle = gpu.handle
    rates = or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    reasons = or_none(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:
        # The name before driver 535.
        reasons = or_none(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    limit_mw = or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return SlowQuantities(
        util_pct=None if rates is None else float(rates.gpu),
        memory_used_gib=None if memory is None else memory.used / 2**30,
        temperature_c=or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        sm_clock_mhz=or_none(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        throttle_reasons=reasons,
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
    )


def compute_pids(gpu: OpenDevice) -> set[int]:
    """The processes with a compute context on the GPU, as process ids of the host."""
    try:
        processes = or_none(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, gpu.handle) or []
    except NVMLError as error:
        _warn_once("telemetry: %s: nobody else is seen (%s)", gpu.device.uuid, str(error))
        return set()
    return {process.pid for process in processes}


def _counter_mj_or_none(gpu: OpenDevice) -> int | None:
    try:
        return or_none(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpu.handle)
    except NVMLError:
        return None  # The first tick writes the error as a row.


def counter_periods_s(gpus: Sequence[OpenDevice], *, budget_s: float = 0.12) -> list[float]:
    """Seconds between two updates of each GPU's counter, at most.

    They are watched for at most `budget_s`: from the last look before one update to the first look
    after the next. A counter that changes less than twice is taken to be as slow as MAX_DELTA_S.
    """
    deadline_s = (now_s := time.monotonic()) + budget_s
    periods_s = [MAX_DELTA_S] * len(gpus)
    last = [(now_s, _counter_mj_or_none(gpu)) for gpu in gpus]
    before_s: dict[int, float] = {}
    waiting = {i for i, (_, value) in enumerate(last) if value is not None}
    while waiting and time.monotonic() < deadline_s:
        time.sleep(0.001)
        for i in sorted(waiting):
            asked_s = time.monotonic()
            value = _counter_mj_or_none(gpus[i])
            if value is None:
                continue
            if value != last[i][1] and i in before_s:
                periods_s[i] = min(MAX_DELTA_S, time.monotonic() - before_s[i])
                waiting.discard(i)
            elif value != last[i][1]:
                before_s[i] = last[i][0]
            last[i] = asked_s, value
    return periods_s


def sensor(gpu: OpenDevice, *, delta_s: float, interval_s: float) -> Sensor:
    """The sensor of the GPU, which says how its readings are judged."""
    counts = gpu.device.has_energy_counter
    return Sensor(
        kind="gpu",
        label=gpu.device.uuid,
        method="nvml_counter" if counts else "nvml_samples",
        limit_w=known_limit_w(gpu.device.power_limit_w),
        delta_s=delta_s if counts else interval_s,
        max_gap_s=3 * interval_s,
    )
