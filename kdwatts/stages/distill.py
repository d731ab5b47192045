"""The student, trained; the stage whose joules the project is about."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.artifact import record_energy
from kdwatts.config import Config, to_dict
from kdwatts.data.packing import Batch
from kdwatts.data.shards import TokenShards
from kdwatts.metrics import Energy, add_energies
from kdwatts.models.load import (
    ENERGY_NAME,
    head_weight,
    load_model,
    load_tokenizer,
    num_parameters,
    read_training_energy,
    source_fingerprint,
)
from kdwatts.records import COMPONENTS, SCHEMA, append_jsonl, read_jsonl, write_json
from kdwatts.stages.teacher import check_vocabularies, training_schedule
from kdwatts.stages.work import (
    Work,
    feature_pairs,
    frozen_dtype,
    plan_signals,
    shared_rows,
    teacher_source,
)
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.signals import Signals, compute_signals
from kdwatts.telemetry.recover import recover_components
from kdwatts.training.loop import SignalReader, train, warm_up
from kdwatts.training.objective import Objective

log = logging.getLogger(__name__)

VERSION = 5
STUDENT_NAME = "student"
SUMMARY_NAME = "summary.json"
ATTEMPTS_NAME = "attempts.jsonl"
LOG_NAME = "train.jsonl"


def settings(config: Config) -> dict[str, Any]:
    """What the student's bytes depend on; hardware, which joules depend on, is added outside."""
    paradigm = to_dict(config.paradigm)
    del paradigm["name"]
    if paradigm["response"]:
        del paradigm["response"]["teacher_temperatures"]
    training = to_dict(config.training)
    for name in ("log_every", "checkpoint_every_s"):
        del training[name]
    needs_teacher = config.paradigm.needs_teacher
    return {
        "paradigm": paradigm,
        "training": training,
        "student": source_fingerprint(config.model.student),
        "teacher": source_fingerprint(teacher_source(config)) if needs_teacher else None,
    }


def build(work: Work) -> None:
    """Train the student and leave it as an ordinary Hugging Face folder in `out_dir/student`."""
    config, device = work.config, work.device
    training = config.training
    work.scratch_dir.mkdir(exist_ok=True)
    attempt = {"schema": SCHEMA, "run_dir": str(work.run_dir), "attempt": work.attempt}
    append_jsonl(work.scratch_dir / ATTEMPTS_NAME, attempt)

    shards = TokenShards(work.inputs["shards"])
    schedule = training_schedule(config, shards)
    with work.meter.window("load"):
        student = load_model(config.model.student, dtype=torch.float32, seed=training.seed)
        student.to(device)
        if training.gradient_checkpointing:
            student.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
        read_signals, live_signals, teacher_head_VD = _signal_readers(work)
        objective = _objective(config, teacher_head_VD).to(device)
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
            meter=work.meter,
            window=window,
            checkpoint_dir=work.scratch_dir / "checkpoints",
            log_path=work.run_dir / LOG_NAME,
            attempt=work.attempt,
        )
    work.window.tokens, work.window.steps = window.tokens, window.steps
    work.window.data_wait_s = window.data_wait_s

    student_dir = work.out_dir / STUDENT_NAME
    tokenizer = load_tokenizer(config.model.tokenizer)
    if config.model.student.path is None:
        _name_end_token(student, tokenizer)
    student.save_pretrained(student_dir)  # pyright: ignore[reportCallIssue]
    tokenizer.save_pretrained(student_dir)
    # A run that reuses this student shows how it learned, too.
    shutil.copyfile(work.run_dir / LOG_NAME, work.out_dir / LOG_NAME)
    summary = {**asdict(progress), "student_params": num_parameters(student)}
    write_json(work.out_dir / SUMMARY_NAME, summary)


def _name_end_token(student: nn.Module, tokenizer: Any) -> None:
    """Tell a model that began from random weights where its texts begin and end."""
    for settings in (student.config, student.generation_config):
        settings.bos_token_id = tokenizer.bos_token_id  # pyright: ignore[reportAttributeAccessIssue]
        settings.eos_token_id = tokenizer.eos_token_id  # pyright: ignore[reportAttributeAccessIssue]


def trained_models(config: Config) -> dict[str, Energy]:
    """The models that this student stands on and that we trained, by key, with what each cost.

    What others spent on published weights is not recorded anywhere and is not in it.
    """
    sources = [config.model.student]
    if config.paradigm.needs_teacher:
        sources.append(teacher_source(config))
    return {
        f"model:{source_fingerprint(source)}": Energy(
            trained["energy_j"], trained["uncertainty_j"], trained["quality"]
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


def earlier_attempts(scratch_dir: Path, *, interval_s: float) -> list[dict[str, Any]]:
    """What earlier, unfinished attempts at this student drew: one record of components each.

    A window that was closed is read from the run's stages.jsonl; one that a kill left open is
    recovered from its telemetry, sampled every `interval_s` seconds. An attempt whose run folder is
    gone has missing components.
    """
    path = scratch_dir / ATTEMPTS_NAME
    if not path.is_file():
        return []
    records = []
    for attempt in read_jsonl(path):
        run_dir, number = Path(attempt["run_dir"]), attempt["attempt"]
        closed = [
            row
            for row in _rows(run_dir / "stages.jsonl")
            if row["window"] == "run/distill" and row["attempt"] == number
        ]
        if closed:
            records.append(closed[-1])
        else:
            records.append(_recovered(run_dir / "telemetry.jsonl", number, interval_s))
    return records


def _recovered(telemetry_path: Path, attempt: int, interval_s: float) -> dict[str, Any]:
    if telemetry_path.is_file():
        row = recover_components(telemetry_path, "run/distill", attempt, interval_s=interval_s)
        if row:
            return asdict(row)
    log.warning(
        "distill: no trace of attempt %d in %s; its energy is lost", attempt, telemetry_path
    )
    nothing = dict.fromkeys(COMPONENTS)
    quality = dict.fromkeys(COMPONENTS, "missing")
    return {"attempt": attempt, "energy_j": nothing, "quality": quality, "uncertainty_j": nothing}


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(path)) if path.is_file() else []


def _objective(config: Config, teacher_head_VD: Tensor | None) -> Objective:
    teacher = config.model.teacher
    student = config.model.student.architecture
    return Objective(
        config.paradigm,
        feature_pairs(config),
        plan_signals(config),
        vocabulary=shared_rows(config),
        student_width=student.hidden_size,
        teacher_width=teacher.architecture.hidden_size if teacher else student.hidden_size,
        chunk_rows=config.training.chunk_rows,
        teacher_head_VD=teacher_head_VD,
        seed=config.training.seed,
    )


def _signal_readers(work: Work) -> tuple[SignalReader, SignalReader, Tensor | None]:
    """How a batch gets its teacher signals: from the cache, live, and the head for dense logits."""

    def nothing(batch: Batch) -> Signals | None:
        return None

    config, device = work.config, work.device
    plan = plan_signals(config)
    if not config.paradigm.needs_teacher:
        return nothing, nothing, None
    if "teacher" in work.inputs:
        cache = SignalCache(work.inputs["teacher"])
        head_VD = cache.head_weight() if plan.final_hidden else None
        return lambda batch: cache.read(batch.rows, device), nothing, head_VD
    check_vocabularies(config)
    teacher = load_model(teacher_source(config), dtype=frozen_dtype(config))
    teacher.to(device).requires_grad_(False)

    def live(batch: Batch) -> Signals | None:
        return compute_signals(teacher, batch.input_BT, plan)

    return nothing, live, head_weight(teacher).detach() if plan.final_hidden else None
