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

from kdwatts.telemetry.energy import MAX_DELTA_S, Reading, Sensor, known_limit_w
from kdwatts.telemetry.fields import FIELDS, FieldQuery
from kdwatts.telemetry.handles import Handles

log = logging.getLogger(__name__)
_warn_once = lru_cache(log.warning)

_ABSENT = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


@dataclass(frozen=True)
class Gpu:
    """One card of this job, as NVML describes it."""

    index: int
    """NVML's, which counts by PCI bus."""
    uuid: str
    name: str
    memory_gib: float | None
    power_limit_w: float | None
    """Enforced limit when the meter started."""
    driver: str
    has_energy_counter: bool
    is_sliced: bool
    """MIG is on: a job has a slice, only the whole card has a meter."""


@dataclass(frozen=True)
class Card:
    """A card and how to ask it."""

    gpu: Gpu
    handles: Handles = field(repr=False, compare=False)
    has_fields: bool
    """The three quantities come in one query; older drivers need one query each."""
    fields: FieldQuery = field(default_factory=FieldQuery, repr=False, compare=False)

    @property
    def handle(self) -> Any:
        return self.handles.of(self.gpu.uuid)


@dataclass(frozen=True)
class SlowQuantities:
    """What changes slowly and costs more to ask; None where the card does not tell."""

    util_pct: float | None
    memory_used_gib: float | None
    temperature_c: float | None
    sm_clock_mhz: float | None
    throttle_reasons: int | None
    power_limit_w: float | None


def open_cards(environment: Mapping[str, str] = os.environ) -> tuple[list[Card], str]:
    """The cards of this job and, when there are none, the reason. Call `close` in the end.

    CUDA_VISIBLE_DEVICES names them (indices, UUIDs or prefixes), else SLURM_JOB_GPUS, else they
    are all. Raises ValueError for a name that NVML does not know.
    """
    try:
        pynvml.nvmlInit()
    except NVMLError as error:
        return [], f"no NVML: {error}"
    try:
        cards = _chosen(environment)
    except NVMLError as error:
        close()
        return [], f"NVML does not list its GPUs: {error}"
    except BaseException:
        close()
        raise
    if not cards:
        close()
        return [], f"no GPU for this job ({_where(environment)})"
    for card in cards:
        log.info("%s -> %s %s", _where(environment), card.gpu.uuid, card.gpu.name)
    return cards, ""


def close() -> None:
    """Let go of NVML. A card that fell off the bus may make this fail, which is only logged."""
    try:
        pynvml.nvmlShutdown()
    except NVMLError as error:
        log.warning("NVML does not shut down (%s); nothing depends on it", error)


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The cards of this job, without a meter; empty where there is no NVML or no card."""
    cards, _ = open_cards(environment)
    if cards:
        close()
    return [card.gpu for card in cards]


def _where(environment: Mapping[str, str]) -> str:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        if name in environment:
            return f"{name}={environment[name]}"
    return "every GPU of the node"


def _chosen(environment: Mapping[str, str]) -> list[Card]:
    driver, handles = _insist(pynvml.nvmlSystemGetDriverVersion), Handles()
    found = [_card(i, driver, handles) for i in range(_insist(pynvml.nvmlDeviceGetCount))]
    cards = [card for card in found if card is not None]
    if not cards:
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        entries = environment["CUDA_VISIBLE_DEVICES"].split(",")
        _warn_of_order(cards, entries, environment)
    elif "SLURM_JOB_GPUS" in environment:
        entries = environment["SLURM_JOB_GPUS"].split(",")
        if len(entries) == len(cards):
            # Slurm counts over the node; a job confined by cgroups sees its own cards from 0 on.
            return cards
    else:
        return cards
    chosen: list[Card] = []
    for entry in (entry.strip() for entry in entries):
        if entry in ("", "-1", "NoDevFiles"):
            break  # As CUDA: an invalid entry hides all after it.
        card = _find(cards, entry, environment)
        if all(card.gpu.uuid != other.gpu.uuid for other in chosen):
            chosen.append(card)
    return chosen


def _find(cards: Sequence[Card], entry: str, environment: Mapping[str, str]) -> Card:
    if entry.startswith("MIG-"):
        return _parent_of_slice(entry, cards)
    by_uuid = entry.startswith("GPU-")
    matches = [
        card
        for card in cards
        if (card.gpu.uuid.startswith(entry) if by_uuid else str(card.gpu.index) == entry)
    ]
    if len(matches) == 1:
        return matches[0]
    known = ", ".join(f"{card.gpu.index} {card.gpu.uuid}" for card in cards)
    raise ValueError(
        f"{_where(environment)} names GPU {entry!r}, NVML lists {known or 'none'}; "
        "name one of these by index, UUID or a prefix that fits one only"
    )


def _parent_of_slice(uuid: str, cards: Sequence[Card]) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    parent = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
    return next(card for card in cards if card.gpu.uuid == parent)


def _warn_of_order(
    cards: Sequence[Card], entries: Sequence[str], environment: Mapping[str, str]
) -> None:
    by_index = any(entry.strip().isdigit() for entry in entries)
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if by_index and not by_bus and len({card.gpu.name for card in cards}) > 1:
        log.warning(
            "the node mixes GPU models: CUDA counts the fastest first, NVML by bus; "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or the wrong card may be measured"
        )


def _card(index: int, driver: str, handles: Handles) -> Card | None:
    """A card of the node; None, with a warning, where it does not answer: it may be another's."""
    try:
        return _insist(_described, index, driver, handles)
    except NVMLError as error:
        log.warning("telemetry: GPU %d of the node does not answer (%s); left out", index, error)
        return None


def _insist(query: Callable[..., Any], *arguments: Any) -> Any:
    """The answer at one of three tries: a moment's error must not cost a run its energy."""
    for _ in range(2):
        try:
            return query(*arguments)
        except NVMLError:
            time.sleep(0.1)
    return query(*arguments)


def _described(index: int, driver: str, handles: Handles) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    limit_mw = _or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    values = _or_none(pynvml.nvmlDeviceGetFieldValues, handle, FIELDS)
    has_fields = values is not None and all(
        values[i].nvmlReturn == pynvml.NVML_SUCCESS for i in (0, 2)
    )
    counter_mj = _or_none(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    mig_modes = _or_none(pynvml.nvmlDeviceGetMigMode, handle)
    gpu = Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory_gib=None if memory is None else memory.total / 2**30,
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        driver=driver,
        has_energy_counter=counter_mj is not None,
        is_sliced=mig_modes is not None and mig_modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
    )
    return Card(gpu, handles, has_fields and gpu.has_energy_counter)


def _or_none(query: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where card or driver lack the quantity. Other errors are raised."""
    try:
        return query(*arguments)
    except NVMLError as error:
        if error.value in _ABSENT:  # pyright: ignore[reportAttributeAccessIssue]
            return None
        raise


def read(card: Card) -> Reading:
    """Counter and power of a card. Raises NVMLError when it does not answer."""
    asked_s = time.monotonic()
    try:
        counter_mj, power_mw, average_mw = _ask(card)
    except NVMLError as error:
        card.handles.failed(card.gpu.uuid, error)
        raise
    card.handles.answered(card.gpu.uuid)
    return Reading(
        time_s=(asked_s + time.monotonic()) / 2,
        energy_counter_j=None if counter_mj is None else counter_mj / 1e3,
        power_w=None if power_mw is None else power_mw / 1e3,
        power_average_w=None if average_mw is None else average_mw / 1e3,
    )


def _ask(card: Card) -> tuple[int | None, int | None, int | None]:
    """Counter in mJ, instant and average power in mW."""
    if card.has_fields:
        return card.fields.ask(card.handle)
    counter_mj = None
    if card.gpu.has_energy_counter:
        counter_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(card.handle)
    return counter_mj, _or_none(pynvml.nvmlDeviceGetPowerUsage, card.handle), None


def read_slow(card: Card) -> SlowQuantities:
    """Utilisation, memory, temperature, clock, throttling and limit. Raises NVMLError."""
    handle = card.handle
    rates = _or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    reasons = _or_none(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:
        # The name before driver 535.
        reasons = _or_none(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    limit_mw = _or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return SlowQuantities(
        util_pct=None if rates is None else float(rates.gpu),
        memory_used_gib=None if memory is None else memory.used / 2**30,
        temperature_c=_or_none(
            pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        sm_clock_mhz=_or_none(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        throttle_reasons=reasons,
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
    )


def compute_pids(card: Card) -> set[int]:
    """Processes with a compute context on the card, as NVML numbers them: pids of the host."""
    try:
        processes = _or_none(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, card.handle) or []
    except NVMLError as error:
        _warn_once("telemetry: %s: nobody else is seen (%s)", card.gpu.uuid, str(error))
        return set()
    return {process.pid for process in processes}


def _counter_mj_or_none(card: Card) -> int | None:
    try:
        return _or_none(pynvml.nvmlDeviceGetTotalEnergyConsumption, card.handle)
    except NVMLError:
        return None  # The first tick writes the error as a row.


def counter_periods_s(cards: Sequence[Card], *, budget_s: float = 0.12) -> list[float]:
    """At most so many seconds lie between two updates of each card's counter.

    From the last look before one update to the first look after the next, watched for at most
    `budget_s`; a counter seen to change less than twice is taken to be as slow as MAX_DELTA_S.
    """
    deadline_s = (now_s := time.monotonic()) + budget_s
    periods_s = [MAX_DELTA_S] * len(cards)
    last = [(now_s, _counter_mj_or_none(card)) for card in cards]
    before_s: dict[int, float] = {}
    waiting = {i for i, (_, value) in enumerate(last) if value is not None}
    while waiting and time.monotonic() < deadline_s:
        time.sleep(0.001)
        for i in sorted(waiting):
            asked_s = time.monotonic()
            value = _counter_mj_or_none(cards[i])
            if value is None:
                continue
            if value != last[i][1] and i in before_s:
                periods_s[i] = min(MAX_DELTA_S, time.monotonic() - before_s[i])
                waiting.discard(i)
            elif value != last[i][1]:
                before_s[i] = last[i][0]
            last[i] = asked_s, value
    return periods_s


def sensor(card: Card, *, delta_s: float, interval_s: float) -> Sensor:
    """How readings of the card are judged."""
    counts = card.gpu.has_energy_counter
    return Sensor(
        kind="gpu",
        label=card.gpu.uuid,
        method="nvml_counter" if counts else "nvml_samples",
        limit_w=known_limit_w(card.gpu.power_limit_w),
        delta_s=delta_s if counts else interval_s,
        max_gap_s=3 * interval_s,
    )
