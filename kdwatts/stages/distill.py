"""The trained student: the stage whose joules the project is about."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdwatts.artifacts.artifact import record_energy
from kdwatts.config.experiment import Config, to_dict
from kdwatts.config.paradigm import LAYER_MAPS
from kdwatts.losses.response import REVISIONS
from kdwatts.metrics.quantity import MISSING_J, Quantity, add, from_whole_sd
from kdwatts.metrics.window_energy import window_energy
from kdwatts.models.initial import student_ancestors, student_fingerprint
from kdwatts.models.load import (
    ENERGY_NAME,
    num_parameters,
    pair_tokenizer,
    read_training_energy,
    source_fingerprint,
    weights_fingerprint,
)
from kdwatts.records.files import write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime.ranks import Launch, own_launch
from kdwatts.stages.assembly import (
    fresh_learner,
    held_out_rows,
    rows_of_text,
    student_rollouts,
    whole_student,
)
from kdwatts.stages.attempts import earlier_attempts, note_attempt
from kdwatts.stages.pairing import PairedBlocks
from kdwatts.stages.work import Work, feature_pairs, shared_rows, teacher_source
from kdwatts.training.checkpoint import Progress
from kdwatts.training.loop import train
from kdwatts.training.lora import merge_adapters
from kdwatts.training.training_run import TrainingRun
from kdwatts.training.warm_up import is_due, warm_up

log = logging.getLogger(__name__)

NAME = "distill"
VERSION = 7
STUDENT_NAME = "student"
SUMMARY_NAME = "summary.json"
LOG_NAME = "train.jsonl"


def settings(config: Config, launch: Launch | None = None) -> dict[str, Any]:
    """What the student's bytes depend on. `launch` is None for that of this process.

    The hardware, on which joules depend, is added elsewhere.
    """
    paradigm = to_dict(config.paradigm)
    del paradigm["name"]
    # What made the teacher's signals is in their own key, a parent's.
    del paradigm["signals_engine"]
    if config.paradigm.text == "teacher":
        # The text's own key, a parent's, says how it was written.
        del paradigm["generate"]
    elif paradigm["generate"]:
        # A student writes by our loop alone.
        del paradigm["generate"]["engine"]
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
    feature = config.paradigm.feature
    # Those of an installed package's map, which is called here: before anything is built.
    is_plugged = feature is not None and feature.layers not in LAYER_MAPS
    # Shards were once gathered in float32, whose embedding and norms were not rounded.
    is_rounded = training["precision"] == "bf16" and config.training.shards_student
    return {
        **({"shards": "bf16"} if is_rounded and (launch or own_launch()).ranks > 1 else {}),
        **({"divergence_revision": revision} if revision else {}),
        **({"feature_pairs": feature_pairs(config)} if is_plugged else {}),
        "paradigm": paradigm,
        "training": training,
        "student": student_fingerprint(config.model),
        "teacher": source_fingerprint(teacher_source(config)) if needs_teacher else None,
        "one_vocabulary": config.model.one_vocabulary,
        **head,
        # Compiled code once had a mask, and the teacher was not compiled.
        **({"compiled_revision": 2} if config.training.is_compiled else {}),
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
    """Train beside the rank that builds. `work.out_dir` is not used, and nothing is written."""
    del artifact_dir
    _trained(work, lambda: MISSING_J)


def _trained(
    work: Work, own_energy: Callable[[], Quantity]
) -> tuple[nn.Module, Progress, list[PairedBlocks]]:
    """The trained student, whole on the first rank, how far it came, and which blocks were paired.

    All ranks of a launch call it together.
    """
    config, training = work.config, work.config.training
    text = rows_of_text(work)
    with work.meter.window("load"):
        learner, paired = fresh_learner(work, text)
    held_out = held_out_rows(config, text)
    if is_due(training, work.device):
        with work.meter.window("compile"):
            warm_up(learner, text.batch(text.micro_batches(0)[0]), held_out)
    with work.meter.window("train") as window:
        run = TrainingRun(
            learner,
            text,
            training,
            rollouts=student_rollouts(work, learner.student, text),
            held_out=held_out,
            own_energy=own_energy,
            meter=work.meter,
            window=window,
            checkpoint_dir=work.scratch_dir / "checkpoints",
            log_path=work.run_dir / LOG_NAME,
            attempt=work.attempt,
        )
        progress = train(run)
    work.window.tokens, work.window.steps = window.tokens, window.steps
    work.window.data_wait_s = window.data_wait_s
    return whole_student(config, learner.student), progress, paired


def _own_energy(work: Work) -> Callable[[], Quantity]:
    """What all attempts at this student, this one included, have drawn by now."""
    interval_s = work.config.telemetry.interval_s
    earlier = [
        window_energy(row)
        for row in earlier_attempts(
            work.scratch_dir, window=work.window.path, interval_s=interval_s
        )
    ]
    return lambda: add([*earlier, work.window.so_far()])


def _name_end_token(student: nn.Module, tokenizer: Any) -> None:
    """Tell a model that began from random weights where its texts begin and end."""
    for settings in (student.config, student.generation_config):
        settings.bos_token_id = tokenizer.bos_token_id  # pyright: ignore[reportAttributeAccessIssue]
        settings.eos_token_id = tokenizer.eos_token_id  # pyright: ignore[reportAttributeAccessIssue]


def trained_models(config: Config) -> dict[str, Quantity]:
    """The models that this student is made from and that we trained, by key, with their joules.

    What others spent on published weights is recorded nowhere and is not included.
    """
    sources = student_ancestors(config.model)
    if config.paradigm.needs_teacher:
        sources.append(teacher_source(config))
    return {
        f"model:{weights_fingerprint(source)}": from_whole_sd(
            trained["energy_j"],
            trained["uncertainty_j"],
            trained.get("shared_sd_j"),
            unit="J",
            quality=trained["quality"],
        )
        for source in sources
        if (trained := read_training_energy(source))
    }


def write_energy(
    config: Config, out_dir: Path, record: dict[str, Any], parents: list[dict[str, Any]]
) -> None:
    """Write the student's joules beside its weights, where they stay if it becomes a teacher.

    The sum includes its ancestors: artifacts, and models that we trained.
    """
    built = [record_energy(artifact) for artifact in [record, *parents]]
    energy = add([*built, *trained_models(config).values()])
    value = {
        "schema": SCHEMA,
        "energy_j": energy.value,
        "uncertainty_j": energy.sd,
        "quality": energy.quality,
        "shared_sd_j": energy.shared_sd,
        "key": record["key"],
        "time_utc": record["time_utc"],
    }
    write_json(out_dir / STUDENT_NAME / ENERGY_NAME, value)
