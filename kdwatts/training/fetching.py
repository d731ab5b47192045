"""Micro-batches of every step, read ahead, with the teacher signals that a cache holds."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace

from kdwatts.data.read_ahead import prefetched
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.parallel import num_ranks, rank
from kdwatts.training.training_run import TrainingRun


def steps_from(run: TrainingRun, first: int) -> Generator[list[MicroBatch], None, None]:
    """This rank's micro-batches on the device, step after step. Close it to end its thread.

    Rank r of R takes the micro-batches r, r + R, r + 2 R and so on. So neither data nor schedule
    depends on R. Once given, a step's micro-batches are no longer held here.
    """
    steps = range(first, run.num_steps)
    with closing(prefetched(steps, lambda step: _read(run, step))) as fetched:
        for step in steps:
            if run.rollouts:
                run.rollouts.prepare(step)
            yield _on_device(run, step, _awaited(run, fetched))


def _read(run: TrainingRun, step: int) -> list[MicroBatch]:
    """The micro-batches of a step from the files; all calls are made in one thread."""
    mine = run.text.micro_batches(step)[rank() :: num_ranks()]
    micro_batches = [run.learner.source.read(run.text.batch(rows)) for rows in mine]
    if run.learner.device.type == "cuda":
        return [one.pinned() for one in micro_batches]
    return micro_batches


def _awaited(run: TrainingRun, fetched: Iterator[list[MicroBatch]]) -> list[MicroBatch]:
    """What was read while the step before computed; the rest of reading counts as waiting."""
    start_s = time.monotonic()
    micro_batches = next(fetched)
    run.window.data_wait_s += time.monotonic() - start_s
    return micro_batches


def _on_device(run: TrainingRun, step: int, micro_batches: list[MicroBatch]) -> list[MicroBatch]:
    """The micro-batches where the student computes, with its own text where that is due."""
    if run.rollouts:
        write = run.rollouts.write
        micro_batches = [replace(one, batch=write(one.batch, step)) for one in micro_batches]
    return [one.to(run.learner.device) for one in micro_batches]
