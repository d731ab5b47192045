"""A subject, student or teacher, rounded to few bits: one folder that is scored and served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdwatts.config.experiment import Config
from kdwatts.models.load import load_model, source_fingerprint
from kdwatts.models.rounding_to_bits import check_library, recipe, save_rounded
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.measured_subject import subject_source
from kdwatts.stages.quantized_subjects import MODEL_NAME, shape_source
from kdwatts.stages.work import Work, frozen_dtype, teacher_source

NAME = "quantize"
VERSION = 1


def settings(config: Config, subject: str, quantization: str) -> dict[str, Any]:
    """What the rounded weights depend on: the teacher's, and how they are rounded.

    A student's are its parent artifact's.
    """
    teacher = source_fingerprint(teacher_source(config)) if subject == "teacher" else None
    return {
        "subject": subject,
        "teacher": teacher,
        "precision": config.training.precision,
        "recipe": recipe(quantization, shape_source(config, subject).architecture),
    }


def check(config: Config) -> None:
    """Raise RuntimeError where this machine cannot round or read what is asked for."""
    for quantization in config.eval.serving.quantizations:
        check_library(quantization)


def build(work: Work, subject: str, quantization: str) -> None:
    """Write the rounded model to `work.out_dir`. It is rounded on the CPU."""
    note_attempt(work)
    source = subject_source(work.config, work.inputs, subject)
    steps = recipe(quantization, source.architecture)
    save_rounded(
        load_model(source, dtype=frozen_dtype(work.config)),
        quantization,
        work.out_dir / MODEL_NAME,
        inputs_per_scale=steps["group_size"],
    )


def weights_bytes(artifact_dir: Path) -> int:
    """Bytes of the rounded model's weights, as a server reads them."""
    return sum(path.stat().st_size for path in (artifact_dir / MODEL_NAME).glob("*.safetensors"))
