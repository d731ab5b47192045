"""The meters of a GPU: counter, power sensor, noise and clock, all from one pass of the meter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from kdwatts.doctor.instruments import counter_verdicts
from kdwatts.doctor.instruments.clock_verdict import clock_under_load
from kdwatts.doctor.instruments.fast_looks import Looks, looking, period_of, sensor_times
from kdwatts.doctor.instruments.known_load import (
    Load,
    MakeLoad,
    Products,
    Pulse,
    pulses,
    uneven_s,
    wave_s,
)
from kdwatts.doctor.instruments.load_windows import (
    LEAST_S,
    NUM_EQUAL,
    SETTLE_S,
    Joules,
    LoadPass,
    joules,
    load_pass,
)
from kdwatts.doctor.instruments.noise_verdicts import idle_power, noise
from kdwatts.doctor.instruments.sampler_verdicts import sampling
from kdwatts.doctor.instruments.sensor_verdicts import is_blind, period_verdicts, sensor_verdicts
from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import COUNTER_CHECK, Verdict
from kdwatts.telemetry import nvml, nvml_state
from kdwatts.telemetry.parts import MIN_NVML_WINDOW_S

WINDOW_S = 5.0
"""Length in s of a window under a steady load, where there is time."""

UNEVEN_S = (5.0, 10.0)
"""Least and most seconds of the uneven wave that shows a sensor's lag and window."""

WAVES = ((1.0, 6.0), (0.25, 5.0), (4.0, 8.0))
"""Period and length in s of the square waves, the first as long as there is time."""

OTHER_S = 6.0
"""For the start of CUDA, the edges of windows, and what is computed at the end."""

_NUM_WINDOWS = 3 + NUM_EQUAL
"""Under steady loads: idle, half, the equal ones and a short one."""


@dataclass(frozen=True)
class Plan:
    """What fits into the seconds of a check."""

    window_s: float
    """Length of a steady window."""
    uneven_s: float
    """Length of the uneven wave."""
    waves: tuple[tuple[float, float], ...]
    """Period and length in s of each square wave."""

    @property
    def remarks(self) -> str:
        """What was shortened for want of time; empty where nothing was."""
        said = []
        if self.window_s < WINDOW_S:
            said.append(f"windows of {self.window_s:.1f} s in place of {WINDOW_S:.0f}")
        if len(self.waves) < len(WAVES):
            said.append(f"{len(self.waves)} of {len(WAVES)} square waves")
        return f"; shortened: {', '.join(said)}" if said else ""


LEAST_GPU_S = OTHER_S + 4 * SETTLE_S + _NUM_WINDOWS * LEAST_S + UNEVEN_S[0]


def plan_of(seconds: float) -> Plan:
    """What fits into so many seconds: at most half of what is beyond the least is square waves."""
    spare_s = max(0.0, seconds - LEAST_GPU_S)
    waves, waves_s = [], 0.0
    whole_s = (_NUM_WINDOWS - 1) * (WINDOW_S - LEAST_S) + UNEVEN_S[1] - UNEVEN_S[0]
    for period_s, length_s in WAVES:
        takes_s = length_s + max(SETTLE_S, period_s)
        if waves_s + takes_s <= max(spare_s / 2, spare_s - whole_s):
            waves.append((period_s, length_s))
            waves_s += takes_s
    share = min(1.0, (spare_s - waves_s) / whole_s)
    return Plan(
        window_s=LEAST_S + share * (WINDOW_S - LEAST_S),
        uneven_s=UNEVEN_S[0] + share * (UNEVEN_S[1] - UNEVEN_S[0]),
        waves=tuple(waves),
    )


def look_at_gpu(
    patient: Patient, seconds: float, *, make_load: MakeLoad | None = None
) -> Iterator[Verdict]:
    """The verdicts on the meters of the first GPU. `make_load` draws power in place of CUDA."""
    gpu = patient.gpu
    if gpu is None:
        yield Verdict(COUNTER_CHECK, None, "not looked at: there is no GPU here")
        return
    if make_load is None and patient.has_cuda:
        make_load = partial(Products, _device_of(gpu))
    plan = plan_of(seconds)
    folder = patient.work_dir / "meters-of-the-gpu"
    with load_pass(folder, patient.config.telemetry, use_gpus=True) as found:
        if make_load is None:
            yield from _at_idle(found, gpu, seconds)
        else:
            found.idle(plan.window_s)
            with closing(make_load()) as load:
                yield from _under_load(found, gpu, load, plan)
        yield from sampling(found, "gpu")


def _at_idle(found: LoadPass, gpu: nvml.Device, seconds: float) -> Iterator[Verdict]:
    """What can be said where nothing can be put on the GPU: the counter while it idles."""
    with _looking_at(gpu) as looks:
        for _ in range(3):
            found.idle(min(WINDOW_S, max(LEAST_S, (seconds - OTHER_S) / 3 - SETTLE_S)))
    idle = _joules(found, gpu, "idle")
    yield counter_verdicts.counter_agreement(
        idle,
        is_loaded=False,
        refused_w=_refused_w(found, gpu),
        remarks="",
        num_silent=len(found.windows) - len(idle),
    )
    yield from period_verdicts(
        looks.changes("energy_counter_j"),
        looks.changes("power_w"),
        interval_s=found.interval_s,
        product=gpu.name,
    )
    yield idle_power(idle, [], name="idle_power")
    yield Verdict(
        "known_load",
        None,
        "torch cannot compute on this GPU, so nothing was measured under load: no linearity, lag, "
        "noise or clock",
        remedy="install torch for this driver's CUDA (pip install torch), or set gpu=cpu",
    )


def _under_load(found: LoadPass, gpu: nvml.Device, load: Load, plan: Plan) -> Iterator[Verdict]:
    found.steady(load, 0.5, [("half", plan.window_s)])
    found.steady(load, 1.0, [("full", plan.window_s)] * NUM_EQUAL + [("short", LEAST_S)])
    idle, half, full, short = (
        _joules(found, gpu, name) for name in ("idle", "half", "full", "short")
    )
    remarks, steady = plan.remarks, [*idle, *half, *full, *short]
    yield counter_verdicts.counter_agreement(
        steady,
        is_loaded=True,
        refused_w=_refused_w(found, gpu),
        remarks=remarks,
        num_silent=len(found.windows) - len(steady),
    )
    idle, half, full, short = (
        [one.believed for one in windows] for windows in (idle, half, full, short)
    )
    yield counter_verdicts.counter_linearity(idle, half, full)
    yield counter_verdicts.joules_per_product(full, short)
    yield idle_power(idle, full, name="idle_power")
    delta_s = max(
        (probe.sensor.delta_s for probe in found.probes("gpu", uuid=gpu.uuid)), default=0.0
    )
    yield from noise(full, prefix="", delta_s=delta_s, least_s=MIN_NVML_WINDOW_S)
    names = {one.name for one in found.equal("full")}
    rows = [row for row in found.rows("gpu") if row["window"] in names and row["uuid"] == gpu.uuid]
    yield clock_under_load(rows, _state(gpu))
    looks, drawn = _uneven(load, gpu, plan.uneven_s)
    power = looks.changes("power_w")
    yield from period_verdicts(
        looks.changes("energy_counter_j"), power, interval_s=found.interval_s, product=gpu.name
    )
    times, period = sensor_times(power, drawn), period_of(power)
    yield from sensor_verdicts(times, period, product=gpu.name)
    waves = []
    for period_s, length_s in plan.waves:
        name = f"square {period_s:g} s"
        found.square(load, name, wave_s(period_s, SETTLE_S), wave_s(period_s, length_s))
        waves += [(period_s, one) for one in _joules(found, gpu, name)]
    yield counter_verdicts.square_wave_agreement(
        waves, is_blind=is_blind(times, period), remarks=remarks
    )


def _uneven(load: Load, gpu: nvml.Device, seconds: float) -> tuple[Looks, list[Pulse]]:
    time.sleep(SETTLE_S)  # A sensor that averages 1 s still tells of the load before.
    with _looking_at(gpu) as looks:
        drawn = pulses(load, uneven_s(seconds))
    return looks, drawn


@contextmanager
def _opened(gpu: nvml.Device) -> Iterator[nvml.OpenDevice]:
    """The GPU with queries of its own: those of the meter serve one thread alone."""
    gpus, reason = nvml.open_gpus()
    try:
        mine = next((one for one in gpus if one.device.uuid == gpu.uuid), None)
        if mine is None:
            raise RuntimeError(f"{gpu.uuid} was there and is gone ({reason or 'others are there'})")
        yield mine
    finally:
        if gpus:
            nvml.close()


@contextmanager
def _looking_at(gpu: nvml.Device) -> Iterator[Looks]:
    with _opened(gpu) as mine, looking(partial(nvml.read, mine)) as looks:
        yield looks


def _state(gpu: nvml.Device) -> nvml_state.GpuState:
    with _opened(gpu) as mine:
        return nvml_state.read_state(mine)


def _joules(found: LoadPass, gpu: nvml.Device, name: str) -> list[Joules]:
    """What the GPU used in the windows of one name."""
    probes = found.probes("gpu", uuid=gpu.uuid)
    each = [joules(one, probes) for one in found.equal(name)]
    return [one for one in each if one is not None]


def _refused_w(found: LoadPass, gpu: nvml.Device) -> float | None:
    """Mean of the powers that the sensor told and the meter did not believe; None without any."""
    refused_w = [
        row["refused_power_w"]
        for row in found.rows("gpu")
        if row["uuid"] == gpu.uuid and row.get("refused_power_w") is not None
    ]
    return sum(refused_w) / len(refused_w) if refused_w else None


def _device_of(gpu: nvml.Device) -> torch.device:
    """torch's device for a GPU of NVML's. CUDA may count them in another order."""
    for index in range(torch.cuda.device_count()):
        uuid = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
        if uuid and uuid in gpu.uuid:
            return torch.device("cuda", index)
    return torch.device("cuda", 0)
