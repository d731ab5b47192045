"""The whole experiment: the groups together, and what must hold between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from kdwatts.schema import (
    Architecture,
    Data,
    Eval,
    Feature,
    Gpu,
    Pair,
    Paradigm,
    Site,
    Telemetry,
    Training,
    choice,
)

STAGES = ("plan", "shards", "teacher", "distill", "evaluate", "inference")


@dataclass
class Config:
    paradigm: Paradigm = MISSING
    model: Pair = MISSING
    data: Data = MISSING
    gpu: Gpu = MISSING
    training: Training = MISSING
    eval: Eval = MISSING
    telemetry: Telemetry = MISSING
    site: Site = MISSING
    until: str = "inference"
    store_dir: str = MISSING

    def __post_init__(self) -> None:
        choice("until", self.until, STAGES)


def to_config(tree: DictConfig) -> Config:
    """The typed configuration of a composed tree, checked within and across its groups.

    Raises ValueError, one sentence with the values and the remedy, for what cannot work.
    """
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    _refuse_unknown_keys(config, "")
    check(config)
    return config


def _refuse_unknown_keys(group: Any, prefix: str) -> None:
    """Raise ValueError for a key that `+key=value` put beside the schema: nothing would read it."""
    names = [field.name for field in fields(group)]
    for name, value in vars(group).items():
        if name not in names:
            raise ValueError(f"{prefix}{name} is unknown; choose one of {', '.join(names)}")
        for part in value if isinstance(value, list) else [value]:
            if is_dataclass(part):
                _refuse_unknown_keys(part, f"{prefix}{name}.")


def check(config: Config) -> None:
    """Raise ValueError for choices that are each valid and together impossible."""
    paradigm, pair, training = config.paradigm, config.model, config.training
    if paradigm.needs_teacher and pair.teacher is None:
        raise ValueError(
            f"paradigm={paradigm.name} needs a teacher, model={pair.name} has none; "
            "choose paradigm=sft or a pair with a teacher"
        )
    sources = {"student": pair.student, "teacher": pair.teacher}
    for subject, source in sources.items():
        if source and training.sequence_length > source.architecture.max_positions:
            raise ValueError(
                f"training.sequence_length={training.sequence_length} is longer than the "
                f"{subject}'s context of {source.architecture.max_positions} tokens in "
                f"model={pair.name}; shorten it or choose another pair"
            )
        grid = config.eval.inference
        if (
            source
            and grid
            and grid.prompt_tokens + grid.new_tokens > source.architecture.max_positions
        ):
            raise ValueError(
                f"eval.inference: {grid.prompt_tokens} prompt + {grid.new_tokens} new tokens "
                f"exceed the {subject}'s context of {source.architecture.max_positions}; "
                "shorten one of them"
            )
    if paradigm.relational and training.micro_batch % paradigm.relational.group_size:
        raise ValueError(
            f"training.micro_batch={training.micro_batch} is no multiple of "
            f"paradigm.relational.group_size={paradigm.relational.group_size}; "
            "a group must fit in one forward pass, so change one of them"
        )
    if config.gpu.device == "cpu" and training.precision == "bf16" and training.compile:
        raise ValueError(
            "training.compile=true with bf16 on gpu=cpu is not supported; use precision=fp32"
        )
    if paradigm.feature and pair.teacher:
        _check_layer_pairs(paradigm.feature, pair.student.architecture, pair.teacher.architecture)
    if paradigm.response and pair.teacher and paradigm.response.support == "top_k":
        shared_rows = min(
            pair.student.architecture.vocab_size, pair.teacher.architecture.vocab_size
        )
        if paradigm.response.k >= shared_rows:
            raise ValueError(
                f"paradigm.response.k={paradigm.response.k} is not below the shared vocabulary of "
                f"{shared_rows}; lower it or choose support=dense"
            )


def _check_layer_pairs(feature: Feature, student: Architecture, teacher: Architecture) -> None:
    for student_block, teacher_block in feature.pairs:
        if student_block >= student.num_layers or teacher_block >= teacher.num_layers:
            raise ValueError(
                f"paradigm.feature.pairs has {[student_block, teacher_block]}, the models have "
                f"{student.num_layers} and {teacher.num_layers} blocks; count from 0"
            )
    if feature.projector == "none" and student.hidden_size != teacher.hidden_size:
        raise ValueError(
            f"paradigm.feature.projector=none needs equal widths, the student has "
            f"{student.hidden_size} and the teacher {teacher.hidden_size}; choose projector=linear"
        )


def to_dict(group: Any) -> dict[str, Any]:
    """A group's dataclass as plain JSON types, for fingerprints and records."""
    return asdict(group)
