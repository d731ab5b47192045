"""Checks across the groups of an experiment; each error says what to change."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kdwatts.config.device_choices import not_compiled_with, settle
from kdwatts.config.experiment import Config
from kdwatts.config.generation import Generate
from kdwatts.config.pair import ModelSource
from kdwatts.config.paradigm import Feature, Relational
from kdwatts.config.quantization_checks import check_quantizations
from kdwatts.config.serving_checks import check_serving
from kdwatts.config.signals_checks import check_signals_engine
from kdwatts.config.writing_checks import check_writers
from kdwatts.runtime.ranks import launched


def to_config(tree: DictConfig) -> Config:
    """The typed configuration of a composed tree, checked within and across its groups.

    Raises ValueError, one sentence with the values and the remedy, for what cannot work.
    """
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    _refuse_unreadable(config, "")
    settle(config)
    check(config)
    return config


def _refuse_unreadable(group: Any, prefix: str) -> None:
    """Raise ValueError for a key that `+key=value` put beside the schema, which nothing would read.

    And for nan and inf, of which no setting means anything.
    """
    names = [field.name for field in fields(group)]
    for name, value in vars(group).items():
        if name not in names:
            raise ValueError(f"{prefix}{name} is unknown; choose one of {', '.join(names)}")
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, float) and not math.isfinite(part):
                raise ValueError(f"{prefix}{name}={part} is not a number; give a number")
            if is_dataclass(part):
                _refuse_unreadable(part, f"{prefix}{name}.")


def check(config: Config, *, ranks: int | None = None) -> None:
    """Raise ValueError for choices that are each valid and together impossible.

    `ranks` are those that share the work; None is those of this launch.
    """
    num_ranks = launched().world if ranks is None else ranks
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
            and max(grid.prompt_lengths) + max(grid.new_lengths) > source.architecture.max_positions
        ):
            raise ValueError(
                f"eval.inference: {max(grid.prompt_lengths)} prompt + {max(grid.new_lengths)} new "
                f"tokens exceed the {subject}'s context of {source.architecture.max_positions}; "
                "shorten one of them"
            )
    if paradigm.needs_teacher and not pair.one_vocabulary:
        _check_two_vocabularies(config)
    if paradigm.generate:
        _check_writing(config, paradigm.generate)
    relational = paradigm.relational
    if relational and relational.level == "sequence":
        _check_groups(config, relational.group_size, num_ranks)
    _check_ranks(config, num_ranks)
    check_serving(config, num_ranks)
    check_quantizations(config)
    check_writers(config)
    check_signals_engine(config, num_ranks)
    if config.gpu.device == "cpu" and training.precision == "bf16" and training.is_compiled:
        raise ValueError(
            "training.compile=true with bf16 on gpu=cpu is not supported; use precision=fp32"
        )
    if training.lora and pair.student.path is None and pair.student.init_from_teacher is None:
        raise ValueError(
            f"training.lora needs a trained student, and the student of model={pair.name} begins "
            "from random weights; set training.lora=null, model.student.path to a trained model, "
            "or model.student.init_from_teacher"
        )
    if training.heldout_every and training.heldout_tokens >= training.target_tokens:
        raise ValueError(
            f"training.heldout_tokens={training.heldout_tokens} is not below "
            f"training.target_tokens={training.target_tokens}; hold out less, or set "
            "training.heldout_every=0"
        )
    if pair.teacher and pair.teacher.quantization:
        _check_quantization(config, pair.teacher.quantization)
    _check_decontaminate(config)
    if paradigm.feature and pair.teacher:
        _check_feature(config, paradigm.feature, pair.student, pair.teacher)
    if relational and pair.teacher:
        _check_relational(config, relational, pair.student, pair.teacher)
    if paradigm.response and pair.teacher and paradigm.response.support == "top_k":
        shared_rows = min(
            pair.student.architecture.vocab_size, pair.teacher.architecture.vocab_size
        )
        if paradigm.response.k >= shared_rows:
            raise ValueError(
                f"paradigm.response.k={paradigm.response.k} is not below the shared vocabulary of "
                f"{shared_rows}; lower it or choose support=dense"
            )


def _check_quantization(config: Config, quantization: str) -> None:
    """Raise ValueError where what is asked beside it takes no quantised teacher."""
    found = None
    if config.gpu.device == "cpu":
        found = "gpu=cpu"
    elif config.training.shards_teacher:
        found = f"training.teacher_parallel={config.training.teacher_parallel}"
    elif any(task.harness == "lighteval" for task in config.eval.tasks):
        found = "eval tasks of lighteval"
    if found:
        raise ValueError(
            f"model.teacher.quantization={quantization} with {found} is not supported; set "
            "model.teacher.quantization=null or change the other"
        )


def _check_decontaminate(config: Config) -> None:
    """Raise ValueError where documents are to be dropped for texts that cannot be known."""
    if config.data.decontaminate.mode != "drop":
        return
    foreign = [task.name for task in config.eval.tasks if task.harness != "lm_eval"]
    if foreign or not config.eval.tasks:
        found = f"{', '.join(foreign)}, which only lighteval can read" if foreign else "no tasks"
        raise ValueError(
            "data.decontaminate.mode=drop needs the texts of the eval tasks, and "
            f"eval={config.eval.name} has {found}; choose eval tasks of lm_eval, or "
            "data.decontaminate.mode=report"
        )


def _check_two_vocabularies(config: Config) -> None:
    """Raise ValueError for a term that compares tokens or positions of two tokenizers."""
    paradigm, relational = config.paradigm, config.paradigm.relational
    found, advice = None, ""
    if paradigm.response and paradigm.response.divergence != "universal":
        found = f"response.divergence={paradigm.response.divergence}"
        advice = "response.divergence=universal and response.support=dense"
    elif paradigm.feature:
        found, advice = "a feature term", "feature=null"
    elif relational and relational.level != "sequence":
        found, advice = f"relational.level={relational.level}", "relational.level=sequence"
    elif paradigm.text == "teacher":
        found, advice = "text=teacher", "text=corpus"
    elif paradigm.teacher == "cached":
        found, advice = "teacher=cached", "teacher=online"
    if found:
        raise ValueError(
            f"the models of model={config.model.name} have two vocabularies, and "
            f"paradigm={config.paradigm.name} with {found} needs one; set "
            f"paradigm.{advice.replace(' and ', ' and paradigm.')}, or choose a pair of one family"
        )


def _check_groups(config: Config, group_size: int, num_ranks: int) -> None:
    """Raise ValueError unless groups of sequences fill forward passes, of all ranks if need be."""
    training = config.training
    if group_size <= training.micro_batch or num_ranks == 1:
        if training.micro_batch % group_size:
            raise ValueError(
                f"training.micro_batch={training.micro_batch} is no multiple of "
                f"paradigm.relational.group_size={group_size}; "
                "a group must fit in one forward pass, so change one of them"
            )
        return
    if num_ranks * training.micro_batch % group_size:
        raise ValueError(
            f"training.micro_batch={training.micro_batch} on {num_ranks} ranks is no multiple of "
            f"paradigm.relational.group_size={group_size}; a group must fit in one forward pass "
            "of all ranks, so change one of them"
        )
    if training.heldout_every:
        raise ValueError(
            f"training.heldout_every={training.heldout_every} does not work where a group of "
            f"{group_size} sequences spans several ranks of {training.micro_batch}, because "
            "held-out rows fill no such group; raise training.micro_batch or set "
            "training.heldout_every=0"
        )


def _check_ranks(config: Config, num_ranks: int) -> None:
    """Raise ValueError unless so many ranks can share a step, and the student as asked."""
    training = config.training
    if training.accumulation % num_ranks:
        raise ValueError(
            f"training.accumulation={training.accumulation} forward passes cannot be shared "
            f"equally by {num_ranks} ranks; give a multiple of {num_ranks}, and a smaller "
            "training.micro_batch to keep the rows of a step"
        )
    if training.shards_student and config.paradigm.text == "student":
        raise ValueError(
            f"paradigm={config.paradigm.name} lets the student write, and training.parallel="
            f"{training.parallel} gives each rank only a part of the student; choose "
            "training.parallel=ddp"
        )
    refused = not_compiled_with(config)
    if refused and training.is_compiled:
        raise ValueError(
            f"training.compile=true with {refused} is not supported; set one of them to its default"
        )


def _check_writing(config: Config, generate: Generate) -> None:
    """Raise ValueError unless prompt and text fit the writer, and its row if the student writes."""
    paradigm, pair, length = config.paradigm, config.model, config.training.sequence_length
    writer = pair.student if paradigm.text == "student" else pair.teacher
    assert writer, "a paradigm without a teacher has none write"
    room = writer.architecture.max_positions
    if paradigm.text == "student":
        room = min(room, length)
    prompt_tokens, new_tokens = generate.sizes(length)
    if new_tokens < 1 or prompt_tokens + new_tokens > room:
        raise ValueError(
            f"paradigm.generate: {prompt_tokens} prompt + {new_tokens} new tokens do not fit in "
            f"the {room} tokens that the {paradigm.text} has for them; lower prompt_tokens or "
            "new_tokens, or leave both at null"
        )


def _check_feature(
    config: Config, feature: Feature, student_source: ModelSource, teacher_source: ModelSource
) -> None:
    student, teacher = student_source.architecture, teacher_source.architecture
    if feature.layers == "cka" and config.paradigm.teacher == "cached":
        raise ValueError(
            "paradigm.feature.layers=cka does not work with paradigm.teacher=cached, because the "
            "blocks to cache are known only after they are measured; choose paradigm.teacher=online"
        )
    if feature.num_pairs > min(student.num_layers, teacher.num_layers):
        raise ValueError(
            f"paradigm.feature.num_pairs={feature.num_pairs} is too many: the student has "
            f"{student.num_layers} blocks and the teacher {teacher.num_layers}; give at most "
            f"{min(student.num_layers, teacher.num_layers)}, or 0"
        )
    _check_positions(config, "paradigm.feature.positions", feature.positions)
    for student_block, teacher_block in feature.pairs:
        if student_block >= student.num_layers or teacher_block >= teacher.num_layers:
            raise ValueError(
                f"paradigm.feature.pairs has {[student_block, teacher_block]}, and the student has "
                f"{student.num_layers} blocks and the teacher {teacher.num_layers}; count from 0"
            )
    if feature.projector == "none" and student.hidden_size != teacher.hidden_size:
        raise ValueError(
            f"paradigm.feature.projector=none needs equal widths, and the student has "
            f"{student.hidden_size} and the teacher {teacher.hidden_size}; choose projector=linear"
        )


def _check_relational(
    config: Config,
    relational: Relational,
    student_source: ModelSource,
    teacher_source: ModelSource,
) -> None:
    if relational.level == "token":
        _check_positions(config, "paradigm.relational.tokens", relational.tokens)
    if relational.level != "attention":
        return
    if config.paradigm.teacher == "cached":
        raise ValueError(
            "paradigm.relational.level=attention does not work with paradigm.teacher=cached, "
            "because queries, keys and values take more room than the states that they come from; "
            "choose paradigm.teacher=online"
        )
    num_layers = teacher_source.architecture.num_layers
    if relational.teacher_block >= num_layers:
        raise ValueError(
            f"paradigm.relational.teacher_block={relational.teacher_block} is no block of the "
            f"teacher, which has {num_layers}; count from 0, or give -1 for the last"
        )
    sources = {"student": student_source, "teacher": teacher_source}
    widths = {
        f"the {subject}'s {name}": heads * source.architecture.head_dim
        for subject, source in sources.items()
        for name, heads in (
            ("queries", source.architecture.num_heads),
            ("keys", source.architecture.num_kv_heads),
        )
    }
    for name, width in widths.items():
        if width % relational.relation_heads:
            raise ValueError(
                f"paradigm.relational.relation_heads={relational.relation_heads} does not divide "
                f"the width {width} of {name}; give a divisor of {math.gcd(*widths.values())}"
            )


def _check_positions(config: Config, key: str, count: int) -> None:
    """Raise ValueError unless so many positions can be drawn of a row without its first."""
    length = config.training.sequence_length
    if count >= length:
        raise ValueError(
            f"{key}={count} cannot be drawn from rows of training.sequence_length={length} "
            f"without their first position; give at most {length - 1}"
        )
