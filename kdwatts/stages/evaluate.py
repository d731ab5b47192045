"""Scores of one subject, student or teacher, by the harness."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdwatts.config import Config, to_dict
from kdwatts.evaluation.lm_eval import evaluate, task_files
from kdwatts.fingerprint import sha256_file
from kdwatts.models.load import (
    load_model,
    load_tokenizer,
    source_fingerprint,
    tokenizer_fingerprint,
)
from kdwatts.records import write_json
from kdwatts.schema import ModelSource
from kdwatts.stages.distill import STUDENT_NAME
from kdwatts.stages.work import Work, frozen_dtype, teacher_source

VERSION = 2
SCORES_NAME = "eval.json"


def subject_settings(config: Config, subject: str) -> dict[str, Any]:
    """The weights measured: the teacher by its own key, the student through its parent artifact."""
    teacher = source_fingerprint(teacher_source(config)) if subject == "teacher" else None
    return {
        "subject": subject,
        "teacher": teacher,
        "precision": config.training.precision,
        "tokenizer": tokenizer_fingerprint(config.model.tokenizer),
    }


def settings(config: Config, subject: str) -> dict[str, Any]:
    """What the scores and their joules depend on, besides hardware."""
    tasks = config.eval.tasks
    return {
        **subject_settings(config, subject),
        "tasks": [to_dict(task) for task in tasks],
        "files": [[sha256_file(path) for path in task_files(task.name)] for task in tasks],
        "batch_size": config.eval.batch_size,
        "apply_chat_template": config.eval.apply_chat_template,
    }


def load_subject(work: Work, subject: str) -> nn.Module:
    """The model to measure, on its device, in the precision it is served in."""
    config = work.config
    source = (
        teacher_source(config) if subject == "teacher" else _student_source(config, work.inputs)
    )
    with work.meter.window("load"):
        return load_model(source, dtype=frozen_dtype(config)).to(work.device)


def _student_source(config: Config, inputs: dict[str, Path]) -> ModelSource:
    student_dir = inputs["distill"] / STUDENT_NAME
    return ModelSource(str(student_dir), None, config.model.student.architecture)


def build(work: Work, subject: str) -> None:
    """Run every task and write the scores to `work.out_dir`."""
    config = work.config
    scores = evaluate(
        load_subject(work, subject),
        load_tokenizer(config.model.tokenizer),
        config.eval.tasks,
        subject=subject,
        batch_size=config.eval.batch_size,
        apply_chat_template=config.eval.apply_chat_template,
        meter=work.meter,
    )
    write_json(work.out_dir / SCORES_NAME, [asdict(score) for score in scores])
