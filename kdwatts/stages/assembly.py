"""What a training run is assembled from: text, student, teacher, objective."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import nn

from kdwatts.artifacts.manifest import add_to_manifest
from kdwatts.config.device_choices import compiles_teacher
from kdwatts.config.experiment import Config
from kdwatts.data.text_size import bytes_of_tokens
from kdwatts.models.initial import load_student
from kdwatts.models.load import pair_tokenizer, recompute_blocks, without_weights
from kdwatts.models.read_once import read_once
from kdwatts.models.row_attention import attend_by_rows, compile_body
from kdwatts.models.sharding import is_sharded, whole_state
from kdwatts.models.sharing import Sharing
from kdwatts.stages.pairing import PairedBlocks, paired_blocks
from kdwatts.stages.signal_readers import online_teacher, signal_source
from kdwatts.stages.teacher import training_schedule
from kdwatts.stages.work import (
    Work,
    compared_rows,
    end_tokens,
    frozen_dtype,
    plan_signals,
    text_shards,
)
from kdwatts.training.held_out_loss import HeldOut, held_out_of
from kdwatts.training.learner import Learner
from kdwatts.training.lora import add_adapters
from kdwatts.training.meeting import ranks_by_node
from kdwatts.training.objective import PairSizes, objective_of
from kdwatts.training.parallel import collected, rank
from kdwatts.training.rollout import Rollouts, Writer
from kdwatts.training.text_rows import TextRows


def rows_of_text(work: Work) -> TextRows:
    """The text, and the rows of it that each step trains on."""
    training, shards = work.config.training, text_shards(work)
    return TextRows(
        shards,
        training_schedule(work.config, shards),
        training.sequence_length,
        training.micro_batch,
        training.respect_documents,
    )


def fresh_learner(work: Work, text: TextRows) -> tuple[Learner, list[PairedBlocks]]:
    """The student before its first step, with what teaches it, and the pairs of blocks."""
    config, training = work.config, work.config.training
    student = read_once(
        lambda: fresh_student(config),
        lambda: fresh_student(config, weights=False),
        work.device,
        Sharing(training.parallel, training.precision, ranks_by_node()),
    )
    if training.gradient_checkpointing:
        recompute_blocks(student)
    teacher = online_teacher(work)
    # Measured pairs may differ by rounding from rank to rank.
    own = paired_blocks(work, student, teacher, text.shards, text.schedule)
    firsts, *_ = collected([asdict(pair) for pair in own])
    paired = [PairedBlocks(**pair) for pair in firsts]
    if paired and rank() == 0:
        add_to_manifest(work.run_dir, feature_pairs=[asdict(pair) for pair in paired])
    pairs = [(pair.student_block, pair.teacher_block) for pair in paired]
    plan = plan_signals(config, pairs)
    if training.is_compiled:
        # Now that blocks are measured. The first pass compiles.
        compile_body(student)
        if teacher and compiles_teacher(config):
            compile_body(teacher)
    source, teacher_head = signal_source(work, teacher, plan)
    mine = config.model.student.architecture
    theirs = config.model.teacher.architecture if config.model.teacher else mine
    objective = objective_of(
        config.paradigm,
        pairs,
        plan,
        sizes=PairSizes(compared_rows(config)[0], mine.hidden_size, theirs.hidden_size),
        chunk_rows=training.rows_at_once,
        teacher_head=teacher_head,
        seed=training.seed,
    ).to(work.device)
    return Learner(student, objective, source, work.device, training.precision), paired


def fresh_student(config: Config, *, weights: bool = True) -> nn.Module:
    """The student before its first step, on the CPU. It has adapters if these are trained.

    Without `weights` it is the same model on the device `meta`, and nothing is read.
    """
    training = config.training
    # Weights that adapters train around are only read.
    dtype = frozen_dtype(config) if training.lora else torch.float32
    if weights:
        student = load_student(config.model, dtype=dtype, seed=training.seed)
    else:
        student = without_weights(config.model.student, dtype=dtype)
    attend_by_rows(student)
    if training.lora:
        add_adapters(student, training.lora, seed=training.seed)
    return student


def whole_student(config: Config, student: nn.Module) -> nn.Module:
    """The student itself. Where ranks hold shards of it, the first rank gets all of it."""
    if not any(is_sharded(parameter) for parameter in student.parameters()):
        return student
    state = whole_state(student)
    if rank() == 0:
        student = fresh_student(config)
        student.load_state_dict(state)
    return student


def held_out_rows(config: Config, text: TextRows) -> HeldOut | None:
    """The rows on which the loss is read while training. None where no rows are held out."""
    batches = text.held_out()
    return held_out_of(batches, bytes_of_tokens(pair_tokenizer(config.model))) if batches else None


def student_rollouts(work: Work, student: nn.Module, text: TextRows) -> Rollouts | None:
    """What makes the student write its own rows. None where it writes none."""
    config, paradigm = work.config, work.config.paradigm
    if paradigm.text != "student":
        return None
    assert paradigm.generate and paradigm.on_policy, "Paradigm fills them in"
    end_ids = end_tokens(pair_tokenizer(config.model), student)
    return Rollouts(
        Writer(student, end_ids, compared_rows(config)[0], config.training.precision),
        text,
        paradigm.generate,
        paradigm.on_policy,
        seed=config.training.seed,
        directory=work.scratch_dir / "checkpoints",
        meter=work.meter,
    )
