"""What every stage is given to do its work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from kdwatts.config import Config
from kdwatts.models.align import shared_vocabulary
from kdwatts.models.layers import LayerPairs, layer_pairs
from kdwatts.schema import ModelSource
from kdwatts.teacher.signals import SignalPlan, signal_plan
from kdwatts.telemetry.meter import Meter, OpenWindow


@dataclass(frozen=True)
class Work:
    """The settings and folders of one build."""

    config: Config
    inputs: dict[str, Path]
    """Name of each parent stage to its artifact."""
    out_dir: Path
    scratch_dir: Path
    """Outlives a killed build of the same artifact."""
    run_dir: Path
    attempt: int
    meter: Meter
    window: OpenWindow
    device: torch.device


def teacher_source(config: Config) -> ModelSource:
    """The pair's teacher, which `config.check` made sure of for whoever needs one."""
    assert config.model.teacher
    return config.model.teacher


def shared_rows(config: Config) -> int:
    """Vocabulary rows that all models of the pair have."""
    student = config.model.student.architecture.vocab_size
    teacher = config.model.teacher
    return shared_vocabulary(student, teacher.architecture.vocab_size) if teacher else student


def feature_pairs(config: Config) -> LayerPairs:
    """The block pairs of the feature term; none without one."""
    feature = config.paradigm.feature
    if not feature:
        return []
    student, teacher = config.model.student, teacher_source(config)
    return layer_pairs(
        feature.layers,
        feature.pairs,
        student.architecture.num_layers,
        teacher.architecture.num_layers,
    )


def frozen_dtype(config: Config) -> torch.dtype:
    """What weights that are only read, a teacher's or a served model's, are kept in."""
    return torch.bfloat16 if config.training.precision == "bf16" else torch.float32


def plan_signals(config: Config) -> SignalPlan:
    """The teacher signals that the paradigm needs."""
    return signal_plan(config.paradigm, feature_pairs(config), shared_rows(config))
