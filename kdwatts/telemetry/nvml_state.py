"""How a GPU is set up and what it does now: its modes, limits, clocks, and what holds it back."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml

from kdwatts.telemetry import nvml
from kdwatts.telemetry.nvml import or_none


@dataclass(frozen=True)
class Reason:
    """One of NVML's reasons why clocks are not at their highest."""

    bit: int
    words: str
    """What it means, in plain words."""
    is_harmful: bool
    """Something is wrong with cooling or supply. The others are somebody's choice, or ordinary."""


# NVML API reference, "Clocks Event Reasons"; the last two as its Python bindings number them.
REASONS = (
    Reason(0x1, "idle", False),
    Reason(0x2, "clocks set by an application or locked by nvidia-smi", False),
    Reason(0x4, "power limit reached", False),
    Reason(0x8, "hardware slowdown: too hot, or its power supply asks for less", True),
    Reason(0x10, "slowed to the clocks of other GPUs in its sync boost group", False),
    Reason(0x20, "slowed by the driver because it is hot", True),
    Reason(0x40, "slowed by the hardware because it is too hot", True),
    Reason(0x80, "slowed by the power brake of its supply", True),
    Reason(0x100, "clocks set for a display", False),
    Reason(0x200, "limit of the board reached", False),
    Reason(0x400, "limit of its voltage reached", False),
)


@dataclass(frozen=True)
class GpuState:
    """A GPU as NVML describes it at one moment. None where GPU or driver do not state it."""

    is_persistent: bool | None
    """Persistence mode: the driver stays loaded, and the counter goes on, without a client."""
    has_ecc: bool | None
    """Memory errors are corrected."""
    has_ecc_by_default: bool | None
    """So the GPU comes from its maker."""
    uncorrected_errors: int | None
    """Errors of the memory that could not be corrected, since the driver was loaded."""
    uncorrected_errors_ever: int | None
    """The same over the life of the GPU."""
    is_sliced: bool
    """MIG is on."""
    power_limit_w: float | None
    """The limit that is enforced."""
    default_limit_w: float | None
    """The limit that the GPU has after a reboot."""
    max_limit_w: float | None
    """The highest limit that can be set."""
    sm_clock_mhz: float | None
    """Now."""
    memory_clock_mhz: float | None
    """Now."""
    max_sm_clock_mhz: float | None
    max_memory_clock_mhz: float | None
    application_sm_clock_mhz: float | None
    """What applications get where nothing holds it back; NVML does not state locked clocks."""
    temperature_c: float | None
    reason_bits: int | None
    """NVML's bits of REASONS."""
    memory_used_gib: float | None
    """By everybody."""
    memory_gib: float | None
    """All of its memory."""
    pids: tuple[int, ...]
    """Processes with a compute context, as the host counts them; this one may be among them."""

    @property
    def reasons(self) -> list[str] | None:
        """Why its clocks are not at their highest, in words; empty where nothing holds it back."""
        return None if self.reason_bits is None else words_of(self.reason_bits)

    @property
    def harms(self) -> list[str] | None:
        """Those of the reasons that mean that something is wrong with cooling or supply."""
        return None if self.reason_bits is None else harms_of(self.reason_bits)


def words_of(reason_bits: int) -> list[str]:
    """NVML's reasons in words. A bit without a known meaning is named by its number."""
    known = [reason.words for reason in REASONS if reason_bits & reason.bit]
    rest = reason_bits & ~sum(reason.bit for reason in REASONS)
    return [*known, f"a reason that NVML numbers {rest:#x}"] if rest else known


def harms_of(reason_bits: int) -> list[str]:
    """Those of NVML's reasons, in words, that mean a fault of cooling or supply."""
    return [reason.words for reason in REASONS if reason.is_harmful and reason_bits & reason.bit]


def read_state(gpu: nvml.OpenDevice) -> GpuState:
    """The state of a GPU now. Raises NVMLError when it does not answer."""
    slow, handle = nvml.read_slow(gpu), gpu.handle
    ecc_modes = or_none(pynvml.nvmlDeviceGetEccMode, handle)
    has_ecc = _is_on(None if ecc_modes is None else ecc_modes[0])
    ecc_defaults = or_none(pynvml.nvmlDeviceGetDefaultEccMode, handle)
    limits_mw = or_none(pynvml.nvmlDeviceGetPowerManagementLimitConstraints, handle)
    sm, memory = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
    return GpuState(
        is_persistent=_is_on(or_none(pynvml.nvmlDeviceGetPersistenceMode, handle)),
        has_ecc=has_ecc,
        has_ecc_by_default=_is_on(None if ecc_defaults is None else ecc_defaults[0]),
        uncorrected_errors=_uncorrected(handle, pynvml.NVML_VOLATILE_ECC) if has_ecc else None,
        uncorrected_errors_ever=_uncorrected(handle, pynvml.NVML_AGGREGATE_ECC)
        if has_ecc
        else None,
        is_sliced=gpu.device.is_sliced,
        power_limit_w=slow.power_limit_w,
        default_limit_w=_watts(or_none(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, handle)),
        max_limit_w=_watts(None if limits_mw is None else limits_mw[1]),
        sm_clock_mhz=slow.sm_clock_mhz,
        memory_clock_mhz=or_none(pynvml.nvmlDeviceGetClockInfo, handle, memory),
        max_sm_clock_mhz=or_none(pynvml.nvmlDeviceGetMaxClockInfo, handle, sm),
        max_memory_clock_mhz=or_none(pynvml.nvmlDeviceGetMaxClockInfo, handle, memory),
        application_sm_clock_mhz=or_none(pynvml.nvmlDeviceGetApplicationsClock, handle, sm),
        temperature_c=slow.temperature_c,
        reason_bits=slow.throttle_reasons,
        memory_used_gib=slow.memory_used_gib,
        memory_gib=gpu.device.memory_gib,
        pids=tuple(sorted(nvml.compute_pids(gpu))),
    )


def _is_on(mode: int | None) -> bool | None:
    return None if mode is None else mode == pynvml.NVML_FEATURE_ENABLED


def _uncorrected(handle: object, counter: int) -> int | None:
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    return or_none(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, counter)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1e3
