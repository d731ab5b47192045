"""The real loop over a tiny pair on the pretended device: what its steps and readings wait for.

Imported in the process of the pretended device alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from kdwatts.config.generation import Generate, OnPolicy
from kdwatts.config.machine import Telemetry
from kdwatts.config.paradigm import Paradigm
from kdwatts.config.training import Lora, Training
from kdwatts.data.packing import Batch, make_schedule
from kdwatts.data.shards import NO_TARGET, TokenShards, write_shards
from kdwatts.metrics.quantity import MISSING_J
from kdwatts.models.load import recompute_blocks
from kdwatts.models.row_attention import attend_by_rows
from kdwatts.records.files import read_jsonl
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cache_record import Form
from kdwatts.teacher.cross_tokenizer import Spelling, spelling, universal_signals
from kdwatts.teacher.signals import Signals
from kdwatts.telemetry.meter import Meter
from kdwatts.training import loop
from kdwatts.training.held_out_loss import HeldOut, held_out_losses
from kdwatts.training.learner import Learner
from kdwatts.training.lora import add_adapters
from kdwatts.training.micro_batch import SignalSource
from kdwatts.training.rollout import Rollouts, Writer
from kdwatts.training.text_rows import TextRows
from kdwatts.training.training_run import TrainingRun
from tests.pretend_cuda.counted_loop import counting_a_step
from tests.pretend_cuda.ledger import counted
from tests.teacher.test_cross_tokenizer import NUMBERS, PROSE, trained
from tests.teacher.whole_cache import write_cache
from tests.training.pair import llama, make_objective, signals_of

SHIPPED_DIR = Path(__file__).resolve().parents[2] / "conf" / "paradigm"
SMALLER = {
    "response": {"k": 5},
    "relational": {"group_size": 4, "tokens": 4, "relation_heads": 2},
}
"""What fits the tiny pair and its rows."""
LENGTH, MICRO_BATCH, NUM_STEPS, TEACHER_WIDTH = 12, 4, 3, 24


@dataclass(frozen=True)
class Case:
    """How a paradigm is trained."""

    cached: bool = False
    documents: bool = False
    checkpointing: bool = False
    lora: bool = False
    precision: str = "bf16"
    log_every: int = 1000


def steps(paradigm: str, case: dict[str, Any]) -> float:
    """The loss of the last of three steps of two micro-batches. The second step is counted."""
    with _run(_shipped(paradigm), Case(**case)) as run:
        with counting_a_step():
            loop.train(run)
        *_, last = read_jsonl(run.log_path)
        return last["loss"]


def reading(paradigm: str, case: dict[str, Any]) -> dict[str, float]:
    """The losses on two held-out micro-batches. All of the reading is counted."""
    with _run(_shipped(paradigm), Case(**case)) as run:
        batches = [run.text.batch(rows) for rows in run.text.micro_batches(0)]
        with counted():
            return held_out_losses(run.learner, HeldOut(batches, 100))


def _shipped(name: str) -> Paradigm:
    """The paradigm of this file in conf/, in sizes for the tiny pair."""
    given = OmegaConf.merge(
        OmegaConf.structured(Paradigm), OmegaConf.load(SHIPPED_DIR / f"{name}.yaml")
    )
    paradigm = OmegaConf.to_object(given)
    assert isinstance(paradigm, Paradigm)
    for part, sizes in SMALLER.items():
        if term := getattr(paradigm, part):
            setattr(paradigm, part, replace(term, **sizes))
    return paradigm


@contextmanager
def _run(paradigm: Paradigm, case: Case) -> Iterator[TrainingRun]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        meter = stack.enter_context(Meter(folder / "run", Telemetry(), use_gpus=False))
        training = Training(
            target_tokens=2 * MICRO_BATCH * LENGTH * NUM_STEPS,
            sequence_length=LENGTH,
            micro_batch=MICRO_BATCH,
            accumulation=2,
            learning_rate=1e-2,
            precision=case.precision,
            log_every=case.log_every,
        )
        response = paradigm.response
        by_rank = response is not None and response.divergence == "universal"
        ranks = _spellings() if by_rank else None
        text = _text(folder / "shards", ranks, documents=case.documents)
        learner = _learner(paradigm, case, text, folder / "cache", ranks)
        window = stack.enter_context(meter.window("train"))
        yield TrainingRun(
            learner,
            text,
            training,
            rollouts=_rollouts(learner, text, folder, meter)
            if paradigm.text == "student"
            else None,
            held_out=None,
            own_energy=lambda: MISSING_J,
            meter=meter,
            window=window,
            checkpoint_dir=folder / "checkpoints",
            log_path=folder / "train.jsonl",
            attempt=1,
        )


def _text(directory: Path, ranks: tuple[Spelling, Spelling] | None, *, documents: bool) -> TextRows:
    """Documents of unequal length, in each of which the first tokens are no targets."""
    directory.mkdir()
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 40, size=40)
    if ranks:
        known = np.array(ranks[0].tokenizer(PROSE * 40)["input_ids"], dtype=np.uint32)
        tokens = [known[place : place + size] for place, size in enumerate(sizes)]
    else:
        tokens = [generator.integers(64, size=size).astype(np.uint32) for size in sizes]
    for document in tokens:
        document[:3] |= NO_TARGET
    write_shards(directory, tokens, shard_tokens=5000, source={})
    shards = TokenShards(directory)
    rows_per_step = 2 * MICRO_BATCH
    schedule = make_schedule(
        shards,
        sequence_length=LENGTH,
        target_tokens=1,
        rows_per_step=rows_per_step,
        seed=0,
        respect_documents=documents,
    )
    schedule = replace(
        schedule, rows=np.arange((shards.num_tokens - 1) // LENGTH), num_steps=NUM_STEPS
    )
    return TextRows(shards, schedule, LENGTH, MICRO_BATCH, documents)


def _learner(
    paradigm: Paradigm,
    case: Case,
    text: TextRows,
    cache_dir: Path,
    ranks: tuple[Spelling, Spelling] | None,
) -> Learner:
    vocabulary, teachers = (320, 330) if ranks else (70, 64)
    student = llama(0, vocabulary=vocabulary, width=16, num_layers=2, tied=True)
    teacher = llama(1, vocabulary=teachers, width=TEACHER_WIDTH, num_layers=3, tied=False)
    teacher.eval().requires_grad_(False)
    attend_by_rows(student)
    attend_by_rows(teacher)
    if case.lora:
        add_adapters(student, Lora(rank=3), seed=0)
    if case.checkpointing:
        recompute_blocks(student)
    objective = make_objective(paradigm, teacher)
    if ranks:
        heads = replace(
            objective.head_terms,
            vocabulary=vocabulary,
            plan=replace(objective.head_terms.plan, vocabulary=teachers),
        )
        objective = replace(objective, head_terms=heads)
    source = SignalSource()
    if paradigm.needs_signals and case.cached:
        plan = objective.head_terms.plan
        form = Form(plan, LENGTH, width=TEACHER_WIDTH)
        write_cache(
            cache_dir,
            text.schedule.rows,
            form,
            lambda rows: signals_of(objective, teacher, text.batch(rows)),
        )
        cache = SignalCache(cache_dir)
        source = SignalSource(cached=lambda batch: cache.read(batch.rows))
    elif paradigm.needs_signals:
        source = SignalSource(live=_live(objective, teacher, ranks))
    device = torch.device("cuda", 0)
    student.to(device)
    teacher.to(device)
    return Learner(student, objective.to(device), source, device, case.precision)


def _live(
    objective: Any, teacher: Any, ranks: tuple[Spelling, Spelling] | None
) -> Callable[[Batch], Signals]:
    if ranks is None:
        return lambda batch: signals_of(objective, teacher, batch)
    student, reader = ranks
    plan = objective.head_terms.plan
    return lambda batch: universal_signals(teacher, plan, batch, student=student, reader=reader)


def _spellings() -> tuple[Spelling, Spelling]:
    return (
        spelling(trained(PROSE, 320, begin=None, end="<end>"), subject="student"),
        spelling(trained(NUMBERS, 330, begin="<s>", end="</s>"), subject="teacher"),
    )


def _rollouts(learner: Learner, text: TextRows, folder: Path, meter: Meter) -> Rollouts:
    return Rollouts(
        Writer(learner.student, (7,), vocabulary=64, precision=learner.precision),
        text,
        Generate(prompt_tokens=3, new_tokens=6, batch_size=4),
        OnPolicy(0.5, NUM_STEPS),
        seed=0,
        directory=folder / "checkpoints",
        meter=meter,
    )
