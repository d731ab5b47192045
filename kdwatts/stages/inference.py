"""Energy per token served by one subject, student or teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from kdwatts.config.experiment import Config, to_dict
from kdwatts.data.shards import TokenShards
from kdwatts.models.load import pair_tokenizer, tokenizer_fingerprint
from kdwatts.models.serving_shape import depends_on_text, serving_shape, student_configuration
from kdwatts.records.files import write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime.fingerprint import sha256_file
from kdwatts.serving.eager_loop import serving_costs
from kdwatts.serving.serving_text import (
    Prompts,
    prompts_file,
    prompts_of_corpus,
    prompts_of_file,
)
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.evaluate import load_subject
from kdwatts.stages.measured_subject import subject_settings, tokenizer_path
from kdwatts.stages.work import Work

NAME = "inference"
VERSION = 2
COST_NAME = "inference.json"


def settings(config: Config, subject: str) -> dict[str, Any]:
    """What the joules of a token depend on, besides hardware.

    Greedy serving at fixed lengths does the same work whatever the weights are. So a student is
    known by its architecture, and paradigms and seeds with one architecture share the measurement.
    A teacher is known by its weights, as it always was.
    """
    grid = config.eval.inference
    assert grid
    path = prompts_file(grid)
    asked = to_dict(grid) | {"prompts": sha256_file(path) if path else None}
    # How often it is measured and which point is reported change no measurement.
    del asked["measurements"], asked["loop_point"]
    if not _is_alike(config, subject):
        return {**subject_settings(config, subject), "grid": asked}
    return {
        "subject": subject,
        "architecture": serving_shape(student_configuration(config.model.student)),
        "precision": config.training.precision,
        "tokenizer": tokenizer_fingerprint(config.model, tokenizer_path(config, subject)),
        "libraries": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "transformers": transformers.__version__,
        },
        "grid": asked,
    }


def stands_on(config: Config, subject: str) -> tuple[list[str], list[str]]:
    """The nodes that serving a subject is built from: those in its key, and the others.

    The student's weights are in the key only where its joules depend on them. The corpus is in the
    key where prompts are cut from it, and in a teacher's key as it always was.
    """
    grid = config.eval.inference
    assert grid
    if subject == "teacher":
        return ["shards"], []
    if not _is_alike(config, subject):
        return ["shards", "distill"], []
    return ([], ["shards", "distill"]) if prompts_file(grid) else (["shards"], ["distill"])


def _is_alike(config: Config, subject: str) -> bool:
    """Whether other weights of the same architecture cost the same joules to serve."""
    return subject == "student" and not depends_on_text(student_configuration(config.model.student))


def check(config: Config) -> None:
    """Raise ValueError for a file of prompts that cannot be read or is too short.

    Otherwise it would be opened only after the student was trained.
    """
    grid = config.eval.inference
    if grid and prompts_file(grid):
        _cut_all(config, None)


def check_corpus(config: Config, shards_dir: Path) -> None:
    """Raise ValueError, before training, for a corpus that is too short to cut prompts from."""
    grid = config.eval.inference
    if grid and not prompts_file(grid):
        _cut_all(config, shards_dir)


def _cut_all(config: Config, shards_dir: Path | None) -> None:
    """Cut the largest batch of the longest prompts for each subject."""
    grid = config.eval.inference
    assert grid
    for subject in ("student", "teacher") if config.model.teacher else ("student",):
        prompts = _prompts(config, subject, shards_dir)
        prompts(max(grid.batch_sizes), max(grid.prompt_lengths))


def build(work: Work, subject: str) -> None:
    """Serve every point of the grid and write the joules of each to `work.out_dir`."""
    note_attempt(work)
    grid = work.config.eval.inference
    assert grid
    prompts = _prompts(work.config, subject, work.inputs["shards"])
    # What does not fit the text fails before a model is loaded.
    prompts(max(grid.batch_sizes), max(grid.prompt_lengths))
    model = load_subject(work, subject)
    costs = serving_costs(
        model,
        lambda batch, length: prompts(batch, length).to(work.device),
        grid,
        meter=work.meter,
        synchronize=synchronizer(work.device),
        subject=subject,
    )
    write_json(
        work.out_dir / COST_NAME,
        [{"schema": SCHEMA, "subject": subject, **asdict(cost)} for cost in costs],
    )


def _prompts(config: Config, subject: str, shards_dir: Path | None) -> Prompts:
    """The same text for both subjects, in the tokens of each."""
    grid = config.eval.inference
    assert grid
    own = tokenizer_path(config, subject)
    path = prompts_file(grid)
    if path:
        return prompts_of_file(path, pair_tokenizer(config.model, own))
    assert shards_dir, "without a file the text is the corpus's"
    shards = TokenShards(shards_dir)
    if own == config.model.tokenizer:
        return prompts_of_corpus(shards)
    return prompts_of_corpus(
        shards, read_by=pair_tokenizer(config.model, own), written_by=pair_tokenizer(config.model)
    )


def synchronizer(device: torch.device):
    """A function that returns when the device has finished all of its work.

    A GPU without any work is left alone: a CUDA context would keep it from its idle power while the
    run waits for what another run builds.
    """

    def synchronize() -> None:
        if device.type == "cuda" and torch.cuda.is_initialized():
            torch.cuda.synchronize(device)

    return synchronize
