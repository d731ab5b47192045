"""The pair's own step at its shapes: how fast, for how many joules, in how much memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kdwatts.config.experiment import Config
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed.data_sheet import ABOVE_SHEET, sheet_of
from kdwatts.doctor.speed.free_memory import emptied, free_bytes, is_out_of_memory
from kdwatts.doctor.speed.machine_rates import (
    CPU_LEAST_FLOP_PER_S,
    product_windows,
    products_verdict,
)
from kdwatts.doctor.speed.pair_step import Steps, executed_flop, tokens_of_step, useful_flop
from kdwatts.doctor.speed.step_that_fits import FittingStep, step_that_fits
from kdwatts.doctor.speed.timed_windows import (
    Windows,
    ends_of,
    figure,
    timed_windows,
    with_interval,
)
from kdwatts.memory.budget import GIB
from kdwatts.metrics.quantity import Quantity, ratio, scaled
from kdwatts.planning.measured_rates import step_settings
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry import parts
from kdwatts.telemetry.meter import Meter

CHECK = "pair_step"

REACHED_LEAST = 0.2
REACHED_SOURCE = (
    "four large models reached 21 to 46 % in training (Chowdhery et al. 2022, arXiv 2204.02311, "
    "table 3)"
)
"""Share of the data sheet below which a step asks for attention."""

MEMORY_RIGHT = 0.10
MEMORY_WRONG = 0.25
"""The peak is within 10 % of the plan's (a bar of docs/benchmarks.md), and at most 25 % above it. A
run is refused by the plan's figure, so one that takes far more ends without memory."""

PRODUCTS_SHARE = 0.05
MOST_PRODUCTS_S = 3.0
"""Seconds for the products before the steps, and after them."""
MOST_TIMED_S = 20.0
"""Longer windows make the joules hardly surer: 10 s give one per cent."""
LEAST_TIMED_S = 2.5
"""A GPU's sensor has no energy for less than 2 s."""
POWER_SPARE = 1.1
"""Mean power above the rated one times this asks for attention: the sensor errs by 5 %."""


@dataclass(frozen=True)
class StepFigures:
    """What was measured of the steps."""

    step: FittingStep
    windows: Windows
    products: Windows
    """Times of products, before and after the steps."""
    product_size: int
    """Rows of the matrices that are multiplied."""
    energy: Quantity
    """J of the timed steps, of the host and of the examined GPU."""
    why_no_energy: str
    gpu_w: float | None
    """Mean power in W of the examined GPU; None where it was not measured."""
    peak_gib: float | None
    """Most GiB that tensors took at once; None on a CPU, where nothing counts them."""


def pair_step(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The check of the pair's step."""
    if not patient.config.model.one_vocabulary:
        yield Verdict(
            CHECK, None, "not measured: a teacher of another vocabulary needs text, and has none"
        )
        return
    ends_s = time.monotonic() + seconds
    config, device = patient.config, torch.device(patient.device)
    precision = config.training.precision
    before_s = min(MOST_PRODUCTS_S, PRODUCTS_SHARE * seconds)
    before, flop, size = product_windows(device, precision, seconds=before_s)
    step = step_that_fits(
        config,
        device.type,
        free_bytes=free_bytes(device),
        flop_per_s=max(before.best(flop), CPU_LEAST_FLOP_PER_S),
        seconds=0.8 * (ends_s - time.monotonic()),
    )
    if step is None:
        yield Verdict(
            CHECK,
            None,
            f"not measured: one block of each model of model={config.model.name} already needs "
            f"more than {free_bytes(device) / GIB:.1f} GiB of free memory or {seconds:.0f} s",
            remedy="give more --minutes, or a smaller --model",
        )
        return
    try:
        with emptied(device):
            measured = _measured(patient, step, before, size, ends_s)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        measured = None
    if measured is None:  # The error, which held the models, is gone by now.
        with emptied(device):
            yield _out_of_memory(step, device)
        return
    yield from _verdicts(patient, measured)


def _measured(
    patient: Patient, step: FittingStep, before: Windows, size: int, ends_s: float
) -> StepFigures:
    config, device = patient.config, torch.device(patient.device)
    settings = replace(config.telemetry, allow_shared=True, idle_s=0.0, openmetrics=None)
    uuids = [patient.gpu.uuid] if patient.gpu else None
    with (
        tempfile.TemporaryDirectory(dir=patient.work_dir) as folder,
        Meter(Path(folder), settings, use_gpus=bool(uuids)) as meter,
    ):
        steps = Steps(step.config, device, step.config.training.accumulation)
        for _ in range(2):
            steps.take()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # What making the models took is no part of a step.
            torch.cuda.reset_peak_memory_stats(device)
        left_s = ends_s - time.monotonic()
        seconds = min(MOST_TIMED_S, max(LEAST_TIMED_S, 0.8 * left_s))
        start = meter.edge()
        windows = timed_windows(steps.take, device, seconds=seconds)
        end = meter.edge()
        used = meter.used_between(start, end, gpus=uuids)
        peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
    del steps
    with emptied(device):
        after_s = min(MOST_PRODUCTS_S, max(0.2, ends_s - time.monotonic()))
        after, _, _ = product_windows(device, config.training.precision, seconds=after_s, size=size)
    gpu_j = used["gpu"].energy_j if "gpu" in used and uuids else None
    return StepFigures(
        step=step,
        windows=windows,
        products=Windows(before.each_s + after.each_s, before.count + after.count),
        product_size=size,
        energy=parts.total(used),
        why_no_energy=_reasons(used),
        gpu_w=None if gpu_j is None else gpu_j / (end.time_s - start.time_s),
        peak_gib=peak,
    )


def _reasons(used: Mapping[str, parts.Part]) -> str:
    return "; ".join(f"{kind}: {part.reason}" for kind, part in used.items() if part.reason)


def _verdicts(patient: Patient, measured: StepFigures) -> Iterator[Verdict]:
    config, tokens = measured.step.config, tokens_of_step(measured.step.config)
    cuts = measured.step.cuts
    rate = measured.windows.rate(tokens, "tokens/s")
    low, high = ends_of(rate)
    size = f"{config.training.micro_batch} x {config.training.sequence_length:,}"
    part = f"with {', '.join(cuts)}" if cuts else "as a run takes it"
    yield Verdict(
        "step_speed",
        None,
        f"{with_interval(rate.number, low, high, 'tokens/s')} in {measured.windows.count:,} steps "
        f"of {tokens:,} tokens ({size} at once) in {config.training.precision}, "
        f"{config.model.name} with random weights, {part}; no published figure is known to hold it "
        "against",
        value=rate.number,
        low=low,
        high=high,
        unit="tokens/s",
    )
    yield _energy_verdict(patient, measured, tokens)
    yield _mfu_verdict(patient, config, rate)
    yield products_verdict(
        "step_products",
        measured.products,
        measured.product_size,
        precision=config.training.precision,
        sheet=sheet_of(patient),
        when=", before and after the steps",
    )
    yield _share_verdict(patient, config, measured)
    yield memory_verdict(measured.peak_gib, measured.step.planned_gib)


def _energy_verdict(patient: Patient, measured: StepFigures, tokens: int) -> Verdict:
    name, unit = "step_energy", "J/token"
    per_token = scaled(measured.energy, 1 / (tokens * measured.windows.count), unit=unit)
    if per_token.value is None:
        why = measured.why_no_energy or "no component has a sensor"
        return Verdict(name, None, f"not measured ({why})")
    low, high = ends_of(per_token)
    found = f"{with_interval(per_token.value, low, high, unit)}, {per_token.quality}"
    verdict, against, remedy = None, None, None
    sheet = sheet_of(patient)
    if measured.gpu_w is None or sheet is None or not sheet.tdp_w:
        found += "; nothing is known to hold it against"
    else:
        found += f"; the GPU draws {figure(measured.gpu_w)} W on average"
        against = f"the rated power of {figure(sheet.tdp_w)} W ({sheet.source})"
        verdict = "right"
        if measured.gpu_w > POWER_SPARE * sheet.tdp_w:
            verdict, remedy = "attention", "see what the chapter Instruments says of its counter"
    return Verdict(
        name, verdict, found, against, remedy, value=per_token.value, low=low, high=high, unit=unit
    )


def _mfu_verdict(patient: Patient, config: Config, rate: Quantity) -> Verdict:
    name, sheet = "step_mfu", sheet_of(patient)
    precision = config.training.precision
    peak = None
    if sheet:
        peak = sheet.bf16_dense_tflops if precision == "bf16" else sheet.fp32_dense_tflops
    if sheet is None or not peak:
        return Verdict(name, None, "not known: what computes here has no data sheet")
    share = scaled(rate, useful_flop(config, 1) / (peak * 1e12), unit="1")
    low, high = ends_of(share)
    verdict, remedy = _share_judged(share.number, low)
    return Verdict(
        name,
        verdict,
        f"{with_interval(share.number, low, high, '')} of the data sheet's rate in {precision}, "
        "without recomputation",
        f"{figure(peak)} TFLOP/s ({sheet.source}); {REACHED_SOURCE}",
        remedy,
        value=share.number,
        low=low,
        high=high,
        unit="1",
    )


def _share_verdict(patient: Patient, config: Config, measured: StepFigures) -> Verdict:
    flop = executed_flop(config, tokens_of_step(config))
    products = measured.products.rate(2.0 * measured.product_size**3, "FLOP/s")
    share = ratio(measured.windows.rate(flop, "FLOP/s"), products)
    assert share.value is not None
    low = None if share.low is None else max(0.0, share.low)
    verdict, against, remedy = None, None, None
    found = (
        f"{with_interval(share.value, low, share.high, '')} of the "
        f"{figure(products.number / 1e12)} TFLOP/s that products in "
        f"{config.training.precision} reach here, with what is computed again"
    )
    if patient.has_cuda:
        verdict, remedy = _share_judged(share.value, low)
        against = REACHED_SOURCE
    else:
        found += "; published shares are of GPUs"
    return Verdict(
        "step_share_of_products",
        verdict,
        found,
        against,
        remedy,
        value=share.value,
        low=low,
        high=share.high,
        unit="1",
        conditions=step_settings(config),
    )


def _share_judged(share: float, low: float | None) -> tuple[str, str | None]:
    if low is not None and low > ABOVE_SHEET:
        return "wrong", "the rates disagree: run the doctor again on a GPU that is this job's alone"
    if share < REACHED_LEAST:
        return "attention", (
            "the pair is small for this GPU: try a larger training.micro_batch, or "
            "training.compile=true"
        )
    return "right", None


def memory_verdict(peak_gib: float | None, planned_gib: float) -> Verdict:
    """The verdict on the most GiB that tensors took at once, beside the plan's.

    The allocator counts bytes, so the figure has no interval.
    """
    name = "step_memory"
    if peak_gib is None:
        return Verdict(name, None, "not measured: nothing counts the tensors of a CPU")
    over = peak_gib / planned_gib - 1
    verdict, remedy = "right", None
    if over > MEMORY_WRONG:
        verdict, remedy = "wrong", "leave more room: a smaller training.micro_batch; report it"
    elif abs(over) > MEMORY_RIGHT:
        verdict, remedy = "attention", "leave as much room on the GPU; report it"
    return Verdict(
        name,
        verdict,
        f"{peak_gib:.2f} GiB at most, {100 * abs(over):.0f} % "
        f"{'above' if over > 0 else 'below'} the plan's",
        f"{planned_gib:.2f} GiB, planned for the step that ran",
        remedy,
        value=peak_gib,
        unit="GiB",
    )


def _out_of_memory(step: FittingStep, device: torch.device) -> Verdict:
    seen_with = "nvidia-smi" if device.type == "cuda" else "top"
    return Verdict(
        "step_memory",
        "wrong",
        f"the step ran out of memory; {free_bytes(device) / GIB:.1f} GiB are free without it",
        f"{step.planned_gib:.2f} GiB, planned for the step that ran",
        f"look for other processes with {seen_with}, and leave more room: a smaller "
        "training.micro_batch",
        unit="GiB",
    )
