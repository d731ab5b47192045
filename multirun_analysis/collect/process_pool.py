"""Many folders at once: one process per processor, where there is enough work for them."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from types import ModuleType

from multirun_analysis.collect.run_folder import Job, Reading, read_run

WORTH_BYTES = 64 << 20
WORTH_RUNS = 64
"""Below both, reading takes less than starting processes."""


def read_runs(
    jobs: Sequence[Job], *, num_bytes: int, num_workers: int | None = None
) -> Iterator[Reading]:
    """A Reading for each job, in order. `num_bytes` is the size of all their files.

    Raises the first job's ValueError, with the sentence that a single process would raise.
    """
    if num_workers is None:
        worth = num_bytes >= WORTH_BYTES or len(jobs) >= WORTH_RUNS
        num_workers = _num_processors() if worth else 1
    num_workers = min(num_workers, len(jobs))
    if num_workers <= 1:
        yield from map(read_run, jobs)
        return
    # A fork of a process with threads, as pyarrow's, may stand still for ever.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context)
    try:
        with _no_main():
            readings = pool.map(read_run, jobs, chunksize=_chunk(len(jobs), num_workers))
        yield from readings
    finally:
        pool.shutdown(cancel_futures=True)


def _num_processors() -> int:
    """Processors that this process may use; macOS does not tell its own from all."""
    ours = getattr(os, "sched_getaffinity", None)
    return len(ours(0)) if ours else os.cpu_count() or 1


def _chunk(num_jobs: int, num_workers: int) -> int:
    """Jobs that are sent at once: few enough that all workers end together."""
    return max(1, min(8, num_jobs // (8 * num_workers)))


@contextmanager
def _no_main() -> Iterator[None]:
    """Hides the program from new processes, which would run it again to find what they do.

    They need this package alone, and a script or notebook need not be guarded for our sake.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
