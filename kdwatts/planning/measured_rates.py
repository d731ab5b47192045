"""The rates that a plan reckons with: those that the doctor measured, or else the data sheet's."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdwatts.config.device_choices import SAVED_SHARE
from kdwatts.config.experiment import Config
from kdwatts.records.doctor_record import DoctorRecord, Verdict, records_in
from kdwatts.runtime.ranks import Launch, own_launch
from kdwatts.telemetry.nvml import list_gpus

REACHED = (1 / 2, 1 / 3)
"""Shares of a GPU's peak rate at which training is expected; four large models reached 21 to 46 %
(Chowdhery et al. 2022, arXiv 2204.02311, table 3)."""

BESIDE_STEPS = 0.15
"""Time of a run beside its steps, over theirs: reading data, held-out rows, checkpoints. Our
judgement. The least of a measured range has none of it."""

PRODUCTS = {"bf16": "products_bf16", "fp32": "products_fp32"}
BANDWIDTH = "memory_bandwidth"
STEP_PRODUCTS, STEP_SHARE = "step_products", "step_share_of_products"
"""Names of the doctor's verdicts that are read here."""

MATTER_LITTLE = ("paradigm", "teacher", "accumulation", "compile")
"""Settings of a step in which a run may differ from it. Our judgement, not measured: a live teacher
adds products like the student's, and terms and optimizer are a small part of a step. Compiling is
reckoned with."""


@dataclass(frozen=True)
class Rates:
    """The rates of the device that a plan is for."""

    tflops: float | None
    """Rate of products in training's precision, in TFLOP/s. None where it is not known."""
    bandwidth_gb_s: float | None
    """Rate of its memory, in GB/s. None where it is not known."""
    reached: tuple[float, float] = REACHED
    """Shares of `tflops` at which training is expected, the higher first."""
    step_share: float | None = None
    """The share that the pair's own step reached. None where no such step was measured."""
    step: str | None = None
    """The paradigm of that step where the run has another one; why there is no share where there is
    none; in words."""
    measured: str | None = None
    """Where and when the doctor measured them, such as `on node7 2026-12-01`. None where both rates
    are the data sheet's."""
    is_bandwidth_measured: bool = False
    """Whether `bandwidth_gb_s` is the doctor's; `tflops` is wherever `measured` says where."""
    doubt: str | None = None
    """What the doctor measured and calls wrong, in words, where the data sheet's rate is used."""

    @property
    def num_measured(self) -> int:
        """How many of the two rates were measured."""
        return bool(self.measured) + self.is_bandwidth_measured


def peak_tflops(config: Config) -> float | None:
    """The GPU's rate for products in training's precision, in TFLOP/s, from its data sheet.

    TF32 is never used.
    """
    gpu = config.gpu
    return gpu.bf16_dense_tflops if config.training.precision == "bf16" else gpu.fp32_dense_tflops


def sheet_rates(config: Config) -> Rates:
    """The rates of the data sheet of the GPU that `gpu` names."""
    return Rates(peak_tflops(config), config.gpu.memory_bandwidth_gb_s)


def rates_of(config: Config, store_root: Path, launch: Launch | None = None) -> Rates:
    """The rates that the doctor measured, as far as it did, and those of the data sheet.

    Of this host's records that of one of its GPUs comes first, then that of another GPU of the same
    product. Then come records of other hosts, the newest first: so a login node plans for the GPUs
    of its cluster. A CPU's record counts on its own host only. A record without a rate of products
    that is believed is passed over. So is a file that is no record.

    Where the step that was measured is the run's, its share goes with the rate of products that was
    measured beside it: on a machine with other work, the rate of another minute is another one.
    `launch` is that of the run, None for that of this process.
    """
    ranks = 1 if config.gpu.device == "cpu" else (launch or own_launch()).ranks
    sheet, doubts = sheet_rates(config), []
    name = PRODUCTS[config.training.precision]
    for record in _fitting(config, records_in(store_root)):
        step, where = _step_of(config, record, ranks), f"on {record.host} {record.time_utc[:10]}"
        tflops = _figure(record, name, "TFLOP/s") if isinstance(step, str) else step.tflops
        if tflops is None:
            doubts += _doubt(record, name, where)
            continue
        bandwidth_gb_s = _figure(record, BANDWIDTH, "GB/s")
        rates = Rates(
            tflops,
            bandwidth_gb_s or sheet.bandwidth_gb_s,
            measured=where,
            is_bandwidth_measured=bandwidth_gb_s is not None,
        )
        if isinstance(step, str):
            return replace(rates, step=step)
        return replace(rates, reached=step.reached, step_share=step.share, step=step.paradigm)
    return replace(sheet, doubt=doubts[0]) if doubts else sheet


def _doubt(record: DoctorRecord, name: str, where: str) -> list[str]:
    one = record.named(name)
    if one is None or one.verdict != "wrong" or not _is_positive(one.value):
        return []
    return [f"the doctor measured {one.value:,.3g} {one.unit} {where} and calls it wrong"]


def _fitting(config: Config, records: Sequence[DoctorRecord]) -> Iterator[DoctorRecord]:
    """Records of this device and of others like it; the fittest comes first."""
    host = socket.gethostname()
    if config.gpu.device == "cpu":
        yield from (one for one in records if one.gpu is None and one.host == host)
        return
    alike = [one for one in records if one.gpu is not None and one.gpu in config.gpu.nvml_names]
    mine = [one for one in alike if one.host == host]
    present = [gpu.uuid for gpu in list_gpus()] if mine else []
    yield from (one for one in mine if one.gpu_uuid in present)
    yield from (one for one in mine if one.gpu_uuid not in present)
    yield from (one for one in alike if one.host != host)


def _figure(record: DoctorRecord, name: str, unit: str) -> float | None:
    """A figure of the record. None where it is missing, wrong, or in another unit."""
    one = record.named(name)
    if one is None or one.verdict == "wrong" or one.unit != unit:
        return None
    return one.value if _is_positive(one.value) else None


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def step_settings(config: Config, *, ranks: int = 1) -> dict[str, Any]:
    """The settings on which it depends what share of products a step reaches, by name.

    They are a run's on so many GPUs, or those of a step that the doctor takes.
    """
    training, paradigm, pair = config.training, config.paradigm, config.model
    is_live = paradigm.needs_signals and paradigm.teacher == "online"
    return {
        "model": pair.name,
        "student_blocks": pair.student.architecture.num_layers,
        "quantization": pair.teacher.quantization if pair.teacher and is_live else None,
        "precision": training.precision,
        "micro_batch": training.micro_batch,
        "sequence_length": training.sequence_length,
        "gradient_checkpointing": training.gradient_checkpointing,
        "lora": training.lora is not None,
        "parallel": training.parallel,
        "teacher_parallel": training.teacher_parallel if is_live else "ddp",
        "ranks": ranks,
        "paradigm": paradigm.name,
        "teacher": paradigm.teacher if paradigm.needs_signals else None,
        "accumulation": training.accumulation,
        "compile": training.is_compiled,
    }


@dataclass(frozen=True)
class _Step:
    """What a step of the run's settings reached."""

    tflops: float
    """Rate of products beside the step, in TFLOP/s."""
    share: float
    reached: tuple[float, float]
    paradigm: str | None
    """Its paradigm where the run has another one."""


def _step_of(config: Config, record: DoctorRecord, ranks: int) -> _Step | str:
    """What the record's step reached; why that says nothing of a run on so many GPUs, in words."""
    one = record.named(STEP_SHARE)
    share, tflops = _figure(record, STEP_SHARE, "1"), _figure(record, STEP_PRODUCTS, "TFLOP/s")
    if one is None or one.value is None:
        return "no step was measured there"
    if not one.conditions:
        return "its record does not say of which step"
    mine, its = step_settings(config, ranks=ranks), one.conditions
    others = [
        f"{name} {_word(its.get(name))}, not {_word(value)}"
        for name, value in mine.items()
        if name not in MATTER_LITTLE and its.get(name) != value
    ]
    if others:
        return f"the step there is another one ({'; '.join(others)})"
    # Without a lower end above 0 the slower end of the hours is not known.
    if share is None or tflops is None or not _is_positive(one.low):
        return "the step there has no figure that is believed"
    paradigm = its.get("paradigm")
    return _Step(
        tflops,
        share,
        _reached(config, share, one),
        None if paradigm == mine["paradigm"] else str(paradigm),
    )


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reached(config: Config, share: float, one: Verdict) -> tuple[float, float]:
    """The shares that are expected of a run whose step reached a share.

    They are the ends of its interval. The doctor compiles nothing: a run that is compiled may be as
    much faster as compiling is taken to save. What a run does beside its steps makes it slower.
    """
    high, low = max(share, one.high or share), min(share, one.low or share)
    if config.gpu.device != "cpu" and config.training.is_compiled:
        high /= 1 - SAVED_SHARE
    return min(1.0, high), min(1.0, low / (1 + BESIDE_STEPS))
