"""A subject, student or teacher, as it is scored and served: its weights, tokenizer and key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.models.load import source_fingerprint, tokenizer_fingerprint
from kdwatts.stages.distill import STUDENT_NAME
from kdwatts.stages.quantized_subjects import name_of, quantized_source
from kdwatts.stages.work import teacher_source


def subject_settings(config: Config, subject: str) -> dict[str, Any]:
    """The measured weights: the teacher by its own key, the student by its parent artifact."""
    teacher = source_fingerprint(teacher_source(config)) if subject == "teacher" else None
    return {
        "subject": subject,
        "teacher": teacher,
        "precision": config.training.precision,
        "tokenizer": tokenizer_fingerprint(config.model, tokenizer_path(config, subject)),
    }


def quantized_settings(config: Config, subject: str, quantization: str) -> dict[str, Any]:
    """A subject in few bits: its weights are its parent artifact's, the teacher's too."""
    return {
        "subject": name_of(subject, quantization),
        "precision": config.training.precision,
        "tokenizer": tokenizer_fingerprint(config.model, tokenizer_path(config, subject)),
    }


def tokenizer_path(config: Config, subject: str) -> str:
    """The subject's tokenizer. Where one vocabulary serves both models, it is the pair's."""
    if subject == "student" or config.model.one_vocabulary:
        return config.model.tokenizer
    path = teacher_source(config).path
    assert path, "a teacher has weights"
    return path


def subject_source(
    config: Config, inputs: Mapping[str, Path], subject: str, quantization: str | None = None
) -> ModelSource:
    """The subject's weights, among the artifacts `inputs` that a node is built from."""
    if quantization:
        return quantized_source(config, inputs, subject, quantization)
    if subject == "teacher":
        return teacher_source(config)
    student_dir = inputs["distill"] / STUDENT_NAME
    return ModelSource(str(student_dir), None, config.model.student.architecture)
