"""The rates that a plan reckons with: those that the doctor measured, or else the data sheet's."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdwatts.config.device_choices import SAVED_SHARE
from kdwatts.config.experiment import Config
from kdwatts.records.doctor_record import DoctorRecord, records_in
from kdwatts.telemetry.nvml import list_gpus

REACHED = (1 / 2, 1 / 3)
"""Shares of a GPU's peak rate at which training is expected; four large models reached 21 to 46 %
(Chowdhery et al. 2022, arXiv 2204.02311, table 3)."""

BESIDE_STEPS = 0.15
"""Time of a run beside its steps, over theirs: reading data, held-out rows, checkpoints. Our
judgement. The least of a measured range has none of it."""

PRODUCTS = {"bf16": "products_bf16", "fp32": "products_fp32"}
BANDWIDTH = "memory_bandwidth"
STEP_SHARE = "step_share_of_products"
"""Names of the doctor's verdicts that are read here."""


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
    """The share that the pair's own step reached. None where it was not measured."""
    measured: str | None = None
    """Where and when the doctor measured them, such as `on node7 2026-12-01`. None where both rates
    are the data sheet's."""
    is_bandwidth_measured: bool = False
    """Whether `bandwidth_gb_s` is the doctor's; `tflops` is wherever `measured` says where."""

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


def rates_of(config: Config, store_root: Path) -> Rates:
    """The rates that the doctor measured, as far as it did, and those of the data sheet.

    Of this host's records that of one of its GPUs comes first, then that of another GPU of the same
    product. Then come records of other hosts, the newest first: so a login node plans for the GPUs
    of its cluster. A CPU's record counts on its own host only. A record without a rate of products
    that is believed is passed over. So is a file that is no record.
    """
    sheet = sheet_rates(config)
    for record in _fitting(config, records_in(store_root)):
        tflops = _figure(record, PRODUCTS[config.training.precision], "TFLOP/s")
        if tflops is None:
            continue
        bandwidth_gb_s = _figure(record, BANDWIDTH, "GB/s")
        share = _figure(record, STEP_SHARE, "1") if record.pair == config.model.name else None
        return Rates(
            tflops,
            bandwidth_gb_s or sheet.bandwidth_gb_s,
            _reached(config, record) if share else REACHED,
            share,
            f"on {record.host} {record.time_utc[:10]}",
            bandwidth_gb_s is not None,
        )
    return sheet


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


def _reached(config: Config, record: DoctorRecord) -> tuple[float, float]:
    """The shares that are expected of a run whose step reached a share.

    They are the ends of its interval. The doctor compiles nothing: a run that is compiled may be as
    much faster as compiling is taken to save. What a run does beside its steps makes it slower.
    """
    one = record.named(STEP_SHARE)
    assert one is not None and one.value is not None
    high = one.high if _is_positive(one.high) else one.value
    low = one.low if _is_positive(one.low) else one.value
    assert high is not None and low is not None
    if config.gpu.device != "cpu" and config.training.is_compiled:
        high /= 1 - SAVED_SHARE
    return min(1.0, max(high, low)), min(1.0, low / (1 + BESIDE_STEPS))
