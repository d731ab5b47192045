"""Teacher signals for the rows that training will visit, computed once and kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from kdwatts.config.device_choices import compiles_teacher
from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.data.packing import Batch, Schedule, load_batch, make_schedule
from kdwatts.data.shards import TokenShards
from kdwatts.losses.chunks import ROWS_PER_FORWARD
from kdwatts.models.align import check_same_tokens
from kdwatts.models.load import (
    head_bias,
    head_weight,
    load_model,
    pair_tokenizer,
    source_fingerprint,
    tokenizer_fingerprint,
)
from kdwatts.models.quantization import on_device
from kdwatts.models.row_attention import attend_by_rows, compile_body
from kdwatts.runtime import interrupt
from kdwatts.runtime.fingerprint import fingerprint
from kdwatts.runtime.ranks import launched
from kdwatts.stages import signals_engine
from kdwatts.stages.attempts import ATTEMPTS_NAME, note_attempt
from kdwatts.stages.work import (
    Work,
    frozen_dtype,
    plan_signals,
    shared_rows,
    teacher_source,
    text_shards,
)
from kdwatts.teacher.cache_parts import (
    HEAD_NAME,
    SignalsOf,
    complete_parts,
    finish,
    missing_parts,
    num_parts,
    write_parts,
)
from kdwatts.teacher.cache_record import Form
from kdwatts.teacher.signals import Signals, compute_signals
from kdwatts.training.autocast import autocast
from kdwatts.training.rollout import targets_kept
from kdwatts.training.warm_up import builds_code

log = logging.getLogger(__name__)

NAME = "teacher"
VERSION = 2
PATIENCE_S = 300.0
"""How long ranks that make a cache together wait for a sign of life of each other."""
_SAVED = "finished parts of the teacher's signals are kept"


def settings(config: Config) -> dict[str, Any]:
    """What the bytes of the signals depend on. Seeds and the student are not part of it."""
    training = config.training
    return {
        **signals_engine.settings(config),
        "teacher": source_fingerprint(teacher_source(config)),
        "plan": asdict(plan_signals(config)),
        "sequence_length": training.sequence_length,
        "target_tokens": training.target_tokens,
        "rows_per_step": training.micro_batch * training.accumulation,
        "precision": training.precision,
        "respect_documents": training.respect_documents,
        # What auto decides follows from the GPU and the student: neither is in this key.
        **({"compiled": True} if training.compiles_by_choice and compiles_teacher(config) else {}),
        "heldout": [training.heldout_tokens, training.micro_batch] * bool(training.heldout_every),
    }


def training_schedule(config: Config, shards: TokenShards) -> Schedule:
    """The rows and steps of this configuration's training run."""
    training = config.training
    return make_schedule(
        shards,
        sequence_length=training.sequence_length,
        target_tokens=_targets_of_corpus(config, shards),
        rows_per_step=training.micro_batch * training.accumulation,
        seed=training.seed,
        respect_documents=training.respect_documents,
        heldout_tokens=training.heldout_tokens if training.heldout_every else 0,
        heldout_multiple=training.micro_batch,
    )


def _targets_of_corpus(config: Config, shards: TokenShards) -> int:
    """Targets that the rows in use bear in the corpus, for `training.target_tokens` to be borne.

    Rows that the student writes bear fewer, so that more of them are needed.
    """
    training, paradigm = config.training, config.paradigm
    if paradigm.text != "student":
        return training.target_tokens
    assert paradigm.generate and paradigm.on_policy, "Paradigm fills them in"
    per_row = training.sequence_length * shards.num_targets / shards.num_tokens
    _, new_tokens = paradigm.generate.sizes(training.sequence_length)
    share = targets_kept(per_row, new_tokens, fraction=paradigm.on_policy.fraction)
    return math.ceil(training.target_tokens / share)


def check_vocabularies(config: Config) -> None:
    """Raise ValueError unless student and teacher share their token ids.

    A teacher without tokenizer files of its own, such as one that we trained, uses the pair's.
    """
    teacher = teacher_tokenizer(config)
    check_same_tokens(pair_tokenizer(config.model), teacher, rows=shared_rows(config))


def teacher_tokenizer(config: Config) -> Any:
    """The teacher's own tokenizer. Raises ValueError where it has none."""
    path = teacher_source(config).path
    assert path
    try:
        return pair_tokenizer(config.model, path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model={config.model.name}: the teacher {path} has no readable tokenizer ({error}); "
            "save one beside its weights so that the vocabularies can be compared"
        ) from None


def build(work: Work) -> None:
    """Write the teacher's signals for the rows in use, held-out ones too, to `work.out_dir`.

    They are written in parts. Each rank of a torchrun or Slurm launch makes its share. Finished
    parts stay in `work.scratch_dir` until all are there, so a killed build can continue.
    """
    note_attempt(work)
    with ExitStack() as stack:
        with work.meter.window("load"):
            job = stack.enter_context(_job(work))
        _make_all(work, job)


def _make_all(work: Work, job: _Job) -> None:
    config = work.config
    parts_dir, num_rows = _parts_dir(work.scratch_dir), len(job.rows)
    num, num_missing = (
        num_parts(num_rows, job.form),
        len(missing_parts(parts_dir, num_rows, job.form)),
    )
    if num_missing < num:
        log.info("teacher: resumed after %d/%d parts", num - num_missing, num)
    if num_missing and job.teacher and builds_code(config.training, work.device):
        with work.meter.window("compile"):
            job.signals_of(job.rows[:ROWS_PER_FORWARD])

    def signals_of(rows: NDArray[np.int64]) -> Signals:
        work.window.tokens += len(rows) * config.training.sequence_length
        return job.signals_of(rows)

    ranks = launched()
    write_parts(
        parts_dir,
        job.rows,
        job.form,
        signals_of,
        rank=ranks.rank,
        num_ranks=ranks.world,
        not_finite=job.not_finite,
    )
    complete_parts(
        parts_dir,
        job.rows,
        job.form,
        signals_of,
        patience_s=PATIENCE_S,
        check=lambda: interrupt.stop_if_requested(_SAVED),
        not_finite=job.not_finite,
    )
    if job.form.plan.final_hidden:
        assert job.teacher, "an engine gives no hidden states"
        head = dense_head(job.teacher, job.form.plan.vocabulary)
        copies = {name: tensor.cpu().contiguous().clone() for name, tensor in head.items()}
        save_file(copies, work.out_dir / HEAD_NAME)
    finish(parts_dir, work.out_dir, job.rows, job.form, sources=_sources(work))


def assist(work: Work, artifact_dir: Path) -> None:
    """Make this rank's share of the parts of a build that another rank leads.

    The leader begins when it notes its attempt. When it does not do so within PATIENCE_S, or the
    artifact exists already, nothing is made. The caller waits for the artifact as it does in every
    other stage. `work.out_dir` is not used.
    """
    attempts, since_s = work.scratch_dir / ATTEMPTS_NAME, time.monotonic()
    while not attempts.is_file():
        if artifact_dir.is_dir() or time.monotonic() - since_s > PATIENCE_S:
            return
        interrupt.stop_if_requested(_SAVED)
        time.sleep(0.2)
    ranks = launched()
    with _job(work) as job:
        try:
            write_parts(
                _parts_dir(work.scratch_dir),
                job.rows,
                job.form,
                job.signals_of,
                rank=ranks.rank,
                num_ranks=ranks.world,
                not_finite=job.not_finite,
            )
        except FileNotFoundError:
            # The leader took our last parts over and is done: the folder they are made in is gone.
            if not artifact_dir.is_dir():
                raise


@dataclass(frozen=True)
class _Job:
    """All that making a part takes."""

    teacher: nn.Module | None
    """None where an engine has it."""
    rows: NDArray[np.int64]
    form: Form
    signals_of: SignalsOf
    not_finite: str
    """What is said where a number of the teacher's is not finite."""


@contextmanager
def _job(work: Work) -> Iterator[_Job]:
    """The teacher in this process, or behind an engine, for as long as the context lasts."""
    config, training = work.config, work.config.training
    check_vocabularies(config)
    shards, source = text_shards(work), teacher_source(config)
    form = Form(plan_signals(config), training.sequence_length, source.architecture.hidden_size)
    is_ours = config.paradigm.signals_engine == "loop"
    # Another number of rows would be compiled anew, so the last row is repeated.
    least = ROWS_PER_FORWARD if is_ours and builds_code(training, work.device) else 0

    def signals_of(rows: NDArray[np.int64]) -> Signals:
        interrupt.stop_if_requested(_SAVED)
        asked = np.pad(rows, (0, max(0, least - len(rows))), mode="edge")
        batch = load_batch(
            shards, asked, training.sequence_length, respect_documents=training.respect_documents
        )
        return read(batch).first(len(rows), of=len(asked))

    rows = training_schedule(config, shards).taught_rows
    bad = not_finite(source, training.precision)
    if is_ours:
        teacher = on_device(load_model(source, dtype=frozen_dtype(config)), work.device)
        attend_by_rows(teacher)
        if training.is_compiled and compiles_teacher(config):
            compile_body(teacher)
        read = partial(_computed, work, teacher)
        yield _Job(teacher, rows, form, signals_of, bad)
        return
    with signals_engine.engine_running(work) as server:
        read = partial(signals_engine.signals_of_engine, config, server, kept=_SAVED)
        yield _Job(None, rows, form, signals_of, bad)


def _computed(work: Work, teacher: nn.Module, batch: Batch) -> Signals:
    """What our own forward pass says of a batch."""
    batch = batch.to(work.device)
    with autocast(work.config.training.precision, work.device):
        return compute_signals(
            teacher,
            batch.input_BT,
            plan_signals(work.config),
            rows=batch.rows,
            valid_BT=batch.valid_BT,
            position_BT=batch.position_BT,
        )


def not_finite(source: ModelSource, precision: str) -> str:
    """One sentence that a teacher gives NaN. It is raised before any of its signals is kept."""
    precise = "" if precision == "fp32" else " or use training.precision=fp32"
    return (
        f"teacher: what the teacher {source.path} says is not finite (NaN or infinite); its "
        f"weights may be damaged: check its files{precise}"
    )


def _parts_dir(scratch_dir: Path) -> Path:
    return scratch_dir / "parts"


def dense_head(teacher: nn.Module, vocabulary: int) -> dict[str, Tensor]:
    """The head that makes dense logits of final states: `head` [V, D], and `bias` [V] if any.

    Raises RuntimeError where one is not finite.
    """
    parts = {"head": head_weight(teacher), "bias": head_bias(teacher)}
    head = {name: part.detach()[:vocabulary] for name, part in parts.items() if part is not None}
    for name, part in head.items():
        if not part.isfinite().all():
            raise RuntimeError(
                f"teacher: the {name} of the teacher's output is not finite (NaN or infinite); its "
                "weights are damaged: check the files of model.teacher"
            )
    return head


def _sources(work: Work) -> dict[str, str]:
    """What the signals were made of, by content: a cache that was copied says where it belongs."""
    model = work.config.model
    return {
        "teacher": source_fingerprint(teacher_source(work.config)),
        "tokenizer": tokenizer_fingerprint(model),
        "data": fingerprint(text_shards(work).index["shards"]),
    }
