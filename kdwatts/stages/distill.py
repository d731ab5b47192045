"""The student, trained; the stage whose joules the project is about."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.artifacts.artifact import record_energy
from kdwatts.artifacts.manifest import add_to_manifest
from kdwatts.config.experiment import Config, to_dict
from kdwatts.data.packing import IGNORE, Schedule, load_batch
from kdwatts.data.shards import TokenShards
from kdwatts.data.text_size import bytes_of_tokens
from kdwatts.losses.response import REVISIONS
from kdwatts.metrics.energy import MISSING, Energy, add_energies, total_energy
from kdwatts.models.initial import load_student, student_ancestors, student_fingerprint
from kdwatts.models.layers import LayerPairs
from kdwatts.models.load import (
    ENERGY_NAME,
    num_parameters,
    pair_tokenizer,
    read_training_energy,
    recompute_blocks,
    source_fingerprint,
    weights_fingerprint,
)
from kdwatts.models.sharding import is_sharded, place, whole_state
from kdwatts.records.files import write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.stages.attempts import earlier_attempts, note_attempt
from kdwatts.stages.pairing import PairedBlocks, paired_blocks
from kdwatts.stages.reading import online_teacher, signal_readers
from kdwatts.stages.teacher import training_schedule
from kdwatts.stages.work import (
    Work,
    compared_rows,
    end_tokens,
    frozen_dtype,
    plan_signals,
    shared_rows,
    teacher_source,
    text_shards,
)
from kdwatts.teacher.signals import SignalPlan
from kdwatts.training.checkpoint import Progress
from kdwatts.training.heldout import HeldOut
from kdwatts.training.loop import train, warm_up
from kdwatts.training.lora import add_adapters, merge_adapters
from kdwatts.training.objective import Objective
from kdwatts.training.parallel import collected, rank
from kdwatts.training.rollout import Rollouts

log = logging.getLogger(__name__)

NAME = "distill"
VERSION = 7
STUDENT_NAME = "student"
SUMMARY_NAME = "summary.json"
LOG_NAME = "train.jsonl"


def settings(config: Config) -> dict[str, Any]:
    """What the student's bytes depend on; hardware, which joules depend on, is added outside."""
    paradigm = to_dict(config.paradigm)
    del paradigm["name"]
    if config.paradigm.text == "teacher":
        # The text's own key, a parent's, says how it was written.
        del paradigm["generate"]
    if paradigm["response"]:
        del paradigm["response"]["teacher_temperatures"]
    training = to_dict(config.training)
    for name in ("log_every", "checkpoint_every_s"):
        del training[name]
    needs_teacher = config.paradigm.needs_teacher
    response = config.paradigm.response
    revision = REVISIONS.get(response.divergence) if response else None
    # Its head was once cut to the rows of a teacher that nobody asks.
    rows, whole = shared_rows(config), config.model.student.architecture.vocab_size
    head = {"head_rows": whole} if not needs_teacher and rows < whole else {}
    return {
        **({"divergence_revision": revision} if revision else {}),
        "paradigm": paradigm,
        "training": training,
        "student": student_fingerprint(config.model),
        "teacher": source_fingerprint(teacher_source(config)) if needs_teacher else None,
        "one_vocabulary": config.model.one_vocabulary,
        **head,
    }


def build(work: Work) -> None:
    """Train the student and leave it as an ordinary Hugging Face folder in `out_dir/student`."""
    config = work.config
    training = config.training
    own_energy = _own_energy(work)
    note_attempt(work)
    student, progress, paired = _trained(work, own_energy)

    if progress.stopped_by == "budget_kj":
        log.info("distill: training.budget_kj=%g ended training", training.budget_kj)
    trained_params = sum(p.numel() for p in student.parameters() if p.requires_grad)
    if training.lora:
        merge_adapters(student)
    student_dir = work.out_dir / STUDENT_NAME
    tokenizer = pair_tokenizer(config.model)
    if config.model.student.path is None:
        _name_end_token(student, tokenizer)
    student.save_pretrained(student_dir)  # pyright: ignore[reportCallIssue]
    tokenizer.save_pretrained(student_dir)
    # A run that reuses this student shows how it learned, too.
    shutil.copyfile(work.run_dir / LOG_NAME, work.out_dir / LOG_NAME)
    summary = {
        **asdict(progress),
        "student_params": num_parameters(student),
        "trained_params": trained_params,
        "feature_pairs": [asdict(pair) for pair in paired],
    }
    write_json(work.out_dir / SUMMARY_NAME, summary)


def assist(work: Work, artifact_dir: Path) -> None:
    """Train beside the rank that builds; `work.out_dir` is not used, nothing is written."""
    del artifact_dir
    _trained(work, lambda: MISSING)


def _trained(
    work: Work, own_energy: Callable[[], Energy]
) -> tuple[nn.Module, Progress, list[PairedBlocks]]:
    """The trained student, whole on the first rank, how far it came, and which blocks were paired.

    All ranks of a launch call it together.
    """
    config, device = work.config, work.device
    training = config.training
    shards = text_shards(work)
    schedule = training_schedule(config, shards)
    with work.meter.window("load"):
        student = _fresh_student(config)
        if training.gradient_checkpointing:
            recompute_blocks(student)
        place(student, device, sharded=training.parallel == "fsdp")
        teacher = online_teacher(work)
        # Measured pairs may differ by rounding from rank to rank.
        paired, *_ = collected(paired_blocks(work, student, teacher, shards, schedule))
        pairs = [(pair.student_block, pair.teacher_block) for pair in paired]
        if paired and rank() == 0:
            add_to_manifest(work.run_dir, feature_pairs=[asdict(pair) for pair in paired])
        plan = plan_signals(config, pairs)
        read_signals, live_signals, teacher_head = signal_readers(work, teacher, plan)
        objective = _objective(config, pairs, plan, teacher_head).to(device)
    held_out = _held_out(config, shards, schedule)
    if training.compile:
        with work.meter.window("compile"):
            # The objective calls the body and does the head itself.
            student.get_submodule("model").compile()
            warm_up(
                student,
                objective,
                schedule,
                shards,
                training,
                device=device,
                read_signals=read_signals,
                live_signals=live_signals,
                held_out=held_out,
            )
    with work.meter.window("train") as window:
        progress = train(
            student,
            objective,
            schedule,
            shards,
            training,
            device=device,
            read_signals=read_signals,
            live_signals=live_signals,
            rollouts=_rollouts(work, student, shards, schedule),
            held_out=held_out,
            own_energy=own_energy,
            meter=work.meter,
            window=window,
            checkpoint_dir=work.scratch_dir / "checkpoints",
            log_path=work.run_dir / LOG_NAME,
            attempt=work.attempt,
        )
    work.window.tokens, work.window.steps = window.tokens, window.steps
    work.window.data_wait_s = window.data_wait_s
    if any(is_sharded(parameter) for parameter in student.parameters()):
        state = whole_state(student)
        if rank() == 0:
            student = _fresh_student(config)
            student.load_state_dict(state)
    return student, progress, paired


def _fresh_student(config: Config) -> nn.Module:
    """The student as training begins, with adapters if they are what is trained; on the CPU."""
    training = config.training
    # Weights that adapters train around are only read.
    dtype = frozen_dtype(config) if training.lora else torch.float32
    student = load_student(config.model, dtype=dtype, seed=training.seed)
    if training.lora:
        add_adapters(student, training.lora, seed=training.seed)
    return student


def _own_energy(work: Work) -> Callable[[], Energy]:
    """What all attempts at this student, this one included, have drawn by now."""
    interval_s = work.config.telemetry.interval_s
    earlier = [
        total_energy(row["energy_j"], row["quality"], row["uncertainty_j"])
        for row in earlier_attempts(
            work.scratch_dir, window=work.window.path, interval_s=interval_s
        )
    ]
    return lambda: add_energies([*earlier, work.window.so_far()])


def _held_out(config: Config, shards: TokenShards, schedule: Schedule) -> HeldOut | None:
    """The rows on which the loss is read while training; None where none are held out."""
    training = config.training
    if not len(schedule.heldout):
        return None
    batches = [
        load_batch(
            shards, rows, training.sequence_length, respect_documents=training.respect_documents
        )
        for rows in schedule.heldout.reshape(-1, training.micro_batch)
    ]
    sizes = bytes_of_tokens(pair_tokenizer(config.model))
    num_bytes = None
    if sizes is not None:
        targets = [batch.target_BT[batch.target_BT != IGNORE].numpy() for batch in batches]
        num_bytes = sum(int(sizes[ids].sum()) for ids in targets)
    return HeldOut(batches, num_bytes)


def _rollouts(
    work: Work, student: nn.Module, shards: TokenShards, schedule: Schedule
) -> Rollouts | None:
    """What has the student write its own rows; None where it writes none."""
    config, paradigm = work.config, work.config.paradigm
    if paradigm.text != "student":
        return None
    assert paradigm.generate and paradigm.on_policy, "Paradigm fills them in"
    return Rollouts(
        student,
        shards,
        schedule,
        paradigm.generate,
        paradigm.on_policy,
        sequence_length=config.training.sequence_length,
        seed=config.training.seed,
        end_ids=end_tokens(pair_tokenizer(config.model), student),
        vocabulary=compared_rows(config)[0],
        precision=config.training.precision,
        directory=work.scratch_dir / "checkpoints",
        meter=work.meter,
    )


def _name_end_token(student: nn.Module, tokenizer: Any) -> None:
    """Tell a model that began from random weights where its texts begin and end."""
    for settings in (student.config, student.generation_config):
        settings.bos_token_id = tokenizer.bos_token_id  # pyright: ignore[reportAttributeAccessIssue]
        settings.eos_token_id = tokenizer.eos_token_id  # pyright: ignore[reportAttributeAccessIssue]


def trained_models(config: Config) -> dict[str, Energy]:
    """The models that this student stands on and that we trained, by key, with what each cost.

    What others spent on published weights is not recorded anywhere and is not in it.
    """
    sources = student_ancestors(config.model)
    if config.paradigm.needs_teacher:
        sources.append(teacher_source(config))
    return {
        f"model:{weights_fingerprint(source)}": Energy(
            trained["energy_j"],
            trained["uncertainty_j"],
            trained["quality"],
            trained.get("shared_sd_j"),
        )
        for source in sources
        if (trained := read_training_energy(source))
    }


def write_energy(
    config: Config, out_dir: Path, record: dict[str, Any], parents: list[dict[str, Any]]
) -> None:
    """Put what the student cost beside its weights, so that it travels when it becomes a teacher.

    Its ancestors are in the sum, artifacts and models that we trained alike.
    """
    built = [record_energy(artifact) for artifact in [record, *parents]]
    energy = add_energies([*built, *trained_models(config).values()])
    value = {
        "schema": SCHEMA,
        **asdict(energy),
        "key": record["key"],
        "time_utc": record["time_utc"],
    }
    write_json(out_dir / STUDENT_NAME / ENERGY_NAME, value)


def _objective(
    config: Config, pairs: LayerPairs, plan: SignalPlan, teacher_head: dict[str, Tensor]
) -> Objective:
    teacher = config.model.teacher
    student = config.model.student.architecture
    return Objective(
        config.paradigm,
        pairs,
        plan,
        vocabulary=compared_rows(config)[0],
        student_width=student.hidden_size,
        teacher_width=teacher.architecture.hidden_size if teacher else student.hidden_size,
        chunk_rows=config.training.chunk_rows,
        teacher_head_VD=teacher_head.get("head"),
        teacher_bias_V=teacher_head.get("bias"),
        seed=config.training.seed,
    )
