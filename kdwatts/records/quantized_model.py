"""A model in few bits, as metrics.json has it below `quantized`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class QuantizedModel:
    """The teacher or the student of a run, rounded to few bits: what it keeps, draws and costs."""

    subject: str
    """student or teacher."""
    quantization: str
    """int8, int4 or fp8."""
    scheme: str
    """Bits of the weights (W) and of what they multiply (A), such as W8A8."""
    key: str
    """Key of the folder in the store, stage `quantize`."""
    weights_bytes: int
    """Size of its weights, embedding and head included."""
    quantizing_energy_j: float | None
    """Rounding it once, all attempts. Building a student in few bits takes this on top of
    own_energy_j and inherited_energy_j; a teacher in few bits takes this alone."""
    quantizing_energy_quality: str
    """As own_energy_quality."""
    quantizing_energy_random_sd_j: float | None
    """One standard deviation of what repeats average out."""
    quantizing_energy_shared_sd_j: float | None
    """One standard deviation of the meter's calibration."""
    evaluation_energy_j: float | None
    """Scoring it once; None where it was not scored. It is no part of building it. The harness
    unpacks the weights, so these joules are not those of an engine."""
    accuracy_kept: float | None
    """As accuracy_kept of the run, of this model against the teacher as it is; None where they were
    not both scored."""
    accuracy_kept_low: float | None
    """Lower end of its 95 % interval. Scores of the two models count as independent, though they
    answer the same questions, so the interval is rather too wide."""
    accuracy_kept_high: float | None
    """Upper end of its 95 % interval."""
    accuracy_kept_benchmarks: list[str] = field(default_factory=list)
    """The benchmarks in it."""
    om_perf: float | None = None
    """As om_perf of the run, of this model against the teacher as it is."""
    om_perf_low: float | None = None
    """Lower end of its 95 % interval."""
    om_perf_high: float | None = None
    """Upper end of its 95 % interval."""
    bits_per_byte: float | None = None
    """Of the run's held-out text; None where no benchmark asks for it."""
    engine: dict[str, Any] | None = None
    """The fields `student_engine_*` of this model, without the beginning of their names, at the
    same load; None where no engine served it."""


def without_bits(name: str) -> str:
    """The name of a stage or subject of the same model as it is.

    That is `evaluate_teacher` for `evaluate_teacher_int4`.
    """
    return re.sub(r"_(int|fp)\d+$", "", name)
