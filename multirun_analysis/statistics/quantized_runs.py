"""What runs say of their models in few bits: accuracy kept, and joules of quantising."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kdwatts.metrics.quantity import Quantity
from multirun_analysis.statistics import built
from multirun_analysis.values.rows import Row

ACCURACY = ("accuracy_kept", "accuracy_kept_low", "accuracy_kept_high")
ACCURACY += ("om_perf", "om_perf_low", "om_perf_high")


def quantized_of(run: Row, subject: str, quantization: str) -> Row:
    """What a run's metrics say of `teacher` or `student` in such as `int4`; empty for nothing."""
    found = json.loads(run.get("quantized") or "{}") or {}
    return found.get(f"{subject}_{quantization}") or {}


def in_few_bits(rows: Sequence[Row], subject: str, quantization: str) -> list[Row]:
    """The runs whose model was scored in these bits, with what it keeps in place of the run's own.

    Benchmarks at chance are those of the run: a quantised model has none of its own.
    """
    return [
        run | {name: kept.get(name) for name in ACCURACY}
        for run in rows
        if (kept := quantized_of(run, subject, quantization)).get("accuracy_kept") is not None
        or kept.get("om_perf") is not None
    ]


def quantizing_j(rows: Sequence[Row], subject: str, quantization: str) -> Quantity:
    """Joules of rounding the model once, over the seeds. No value where a run does not say."""

    def of(run: Row) -> Quantity:
        kept = quantized_of(run, subject, quantization)
        return Quantity(
            kept.get("quantizing_energy_j"),
            kept.get("quantizing_energy_random_sd_j"),
            kept.get("quantizing_energy_shared_sd_j"),
            "J",
            kept.get("quantizing_energy_quality") or "missing",
        )

    return built.over_seeds(rows, of)
