"""What every stage is given to do its work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.data.shards import TokenShards
from kdwatts.models.align import shared_vocabulary
from kdwatts.models.layers import LayerPairs, layer_pairs
from kdwatts.teacher.signals import SignalPlan, signal_plan
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.open_window import OpenWindow


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
    measurement: int = 1
    """Number of this independent measurement; 1 for what is built once."""
    keyed: Mapping[str, Any] = field(default_factory=dict)
    """The settings that the key of this build is made of."""


def text_shards(work: Work) -> TokenShards:
    """The text that the student is taught on: the corpus, or what the teacher wrote after it."""
    return TokenShards(work.inputs["generate" if "generate" in work.inputs else "shards"])


def end_tokens(tokenizer: Any, writer: nn.Module) -> list[int]:
    """The tokens that end a text of `writer`: the tokenizer's, and those of its own settings.

    An instruct model has several, and ends some texts with another one than the tokenizer's.
    """
    return ends_of(tokenizer, writer.generation_config)


def ends_of(tokenizer: Any, settings: Any) -> list[int]:
    """The end tokens of `end_tokens`, from a model's own settings for writing."""
    own = settings.eos_token_id
    own = own if isinstance(own, list) else [own] * (own is not None)
    assert tokenizer.eos_token_id is not None, "stages.vocabulary refuses a tokenizer without"
    return sorted({tokenizer.eos_token_id, *own})


def teacher_source(config: Config) -> ModelSource:
    """The pair's teacher. `config.check` made sure that there is one where it is needed."""
    assert config.model.teacher
    return config.model.teacher


def shared_rows(config: Config) -> int:
    """Number of vocabulary rows that all models of the pair have."""
    student = config.model.student.architecture.vocab_size
    teacher = config.model.teacher
    return shared_vocabulary(student, teacher.architecture.vocab_size) if teacher else student


def compared_rows(config: Config) -> tuple[int, int]:
    """Number of rows of the student's and of the teacher's head that are compared.

    Where tokens are compared, these are the shared ones. The universal divergence compares ranks,
    and a pair of two vocabularies compares only texts: then both heads are whole, as they are where
    no teacher is asked.
    """
    response, pair = config.paradigm.response, config.model
    if pair.teacher and (
        not config.paradigm.needs_teacher
        or not pair.one_vocabulary
        or (response and response.divergence == "universal")
    ):
        return pair.student.architecture.vocab_size, pair.teacher.architecture.vocab_size
    return shared_rows(config), shared_rows(config)


def feature_pairs(config: Config) -> LayerPairs:
    """The block pairs of the feature term by depth. Empty without this term.

    With layers=cka they are measured: call `stages.pairing.paired_blocks`.
    """
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
    """The dtype of weights that are only read: those of a teacher or of a served model."""
    return torch.bfloat16 if config.training.precision == "bf16" else torch.float32


def plan_signals(config: Config, pairs: LayerPairs | None = None) -> SignalPlan:
    """The teacher signals that the paradigm needs, with measured block pairs if any are given."""
    pairs = feature_pairs(config) if pairs is None else pairs
    return signal_plan(config.paradigm, pairs, compared_rows(config)[1])
