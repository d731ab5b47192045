"""A subject in few bits: the name that nodes and scores have for it, and the folder of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.stages.work import teacher_source

MODEL_NAME = "model"
"""Folder of the rounded model in its artifact."""


def name_of(subject: str, quantization: str | None) -> str:
    """`teacher_int4` for the teacher in int4, and `teacher` for the teacher as it is."""
    return f"{subject}_{quantization}" if quantization else subject


def quantize_node(subject: str, quantization: str) -> str:
    """The node that makes the folder of a subject in few bits."""
    return f"quantize_{name_of(subject, quantization)}"


def shape_source(config: Config, subject: str) -> ModelSource:
    """The subject as the pair's file states it; a student has no trained weights there."""
    return config.model.student if subject == "student" else teacher_source(config)


def quantized_source(
    config: Config, inputs: Mapping[str, Path], subject: str, quantization: str
) -> ModelSource:
    """The folder of a subject in few bits, among the artifacts that a node is built from."""
    folder = inputs[quantize_node(subject, quantization)] / MODEL_NAME
    return ModelSource(str(folder), None, shape_source(config, subject).architecture)


def each_quantized(config: Config, subjects: Sequence[str]) -> list[tuple[str, str]]:
    """Each subject with each quantization that is asked for, in order."""
    return [(one, bits) for one in subjects for bits in config.eval.serving.quantizations]
