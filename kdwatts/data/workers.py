"""Processes that apply one function to batches: results in order, few batches in memory at a time.

A process is started only where there is enough work for it, and the next one when the work has
grown by as much again. Each holds what the function needs. The processes import no torch, so their
function must be in a module that imports none. They are started anew and not forked, since this
process has threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from kdwatts.runtime.interrupt import SIGNALS
from kdwatts.telemetry import cgroup

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")
Batch = tuple[Kept, list[Any], int]
"""What stays here, the items to work on, and their size in characters."""

CHARACTERS_PER_WORKER = 8_000_000
"""About 3 s of tokenizing. Starting a process takes 0.7 s."""
BATCH_CHARACTERS = 500_000
BATCHES_PER_WORKER = 2
"""Two at a time: one in work, and one that is ready when it is done."""

_SCRIPT = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from kdwatts.data.workers import serve; serve()"
)
_ENVIRONMENT = {
    # There is one process per core, so a process uses one thread.
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # A warning that a library prints once would come once per process.
    "TRANSFORMERS_VERBOSITY": "error",
}


class Workers:
    """The results of `function(items, *fixed)`, a list with one for each item, of batches in order.

    With one core, or little work, there are no processes and the function is called here. Leave the
    context to end the processes. They also end with this process, however it ends.
    """

    def __init__(
        self,
        function: Callable[..., list[Any]],
        *fixed: Any,
        stage: str,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        """`stage` is what messages begin with; `on_start` is told of new processes."""
        self._function = function
        self._stage = stage
        self._fixed = fixed
        self._on_start = on_start
        self._limit = job_cpus()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(self._limit, thread_name_prefix="worker")
        self._size = 0
        """Characters of all batches so far."""
        self._set_up = b""

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            assert process.stdin and process.stdout
            # What was not sent yet is dropped on purpose.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
            # From here on its CPU time counts as this process's.
            process.wait()

    def in_order(
        self, batches: Iterable[Batch[Kept]], *, share: float = 1.0
    ) -> Iterator[tuple[Kept, Iterator[Any]]]:
        """What stays here of each batch, and the results of its items, in the order of `batches`.

        `share` is the part of all work that these batches are. It decides how far they are read
        ahead. An exception of the function for an item is raised in the place of that item's
        result.
        """
        remaining = iter(batches)
        waiting: deque[tuple[Kept, list[Any], Future[list[Any] | None] | None]] = deque()
        while True:
            while not self._is_enough(len(waiting), share):
                batch = next(remaining, None)
                if batch is None:
                    break
                kept, items, size = batch
                self._grow(size)
                waiting.append((kept, items, None))
            if self._processes:
                waiting = deque(
                    (kept, items, future or self._submitted(items))
                    for kept, items, future in waiting
                )
            if not waiting:
                return
            kept, items, future = waiting.popleft()
            yield kept, self._results(items, future)

    def _submitted(self, items: list[Any]) -> Future[list[Any] | None] | None:
        return self._threads.submit(self._results_of_one, items) if items else None

    def _is_enough(self, num_waiting: int, share: float) -> bool:
        """Whether no more need be read ahead now."""
        if self._limit == 1:
            return num_waiting >= 1
        # Read until processes are due: only then is it known how much work there is.
        wanted = math.ceil(BATCHES_PER_WORKER * len(self._processes) * share)
        return bool(self._processes) and num_waiting >= max(BATCHES_PER_WORKER, wanted)

    def _results(self, items: list[Any], future: Future[list[Any] | None] | None) -> Iterator[Any]:
        found = _tried(self._function, items, self._fixed) if future is None else future.result()
        if found is not None:
            yield from found
            return
        # One item fails: the results before it count, and the error is raised in its place.
        for item in items:
            yield from self._function([item], *self._fixed)

    def _grow(self, size: int) -> None:
        self._size += size
        num_due = min(self._limit, self._size // CHARACTERS_PER_WORKER)
        if num_due < 2 or num_due <= len(self._processes):
            return
        if not self._processes:
            self._set_up = pickle.dumps(sys.path) + pickle.dumps((self._function, self._fixed))
            log.info("%s: uses up to %d processes", self._stage, self._limit)
        while len(self._processes) < num_due:
            process = _started()
            self._processes.append(process)
            # The pipe may hold less than the message.
            self._threads.submit(self._prepare, process)
        self._on_start()

    def _prepare(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        # Whoever asks a process that has ended raises the sentence about it.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._set_up)
        self._idle.put(process)

    def _results_of_one(self, items: list[Any]) -> list[Any] | None:
        """The results of one batch; None where the function failed in it."""
        process = self._idle.get()
        assert process.stdin and process.stdout
        try:
            pickle.dump(items, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise RuntimeError(
                f"{self._stage}: a process that works on the text ended with exit code "
                f"{process.wait()}, as it does when it is killed for lack of memory; ask for more "
                "memory or fewer CPUs, and run the same command to continue"
            ) from None
        finally:
            self._idle.put(process)


def _started() -> subprocess.Popen[bytes]:
    # This process answers signals to stop. Its processes inherit that they wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve() -> None:
    """Run as a worker: read once what it needs, then answer batches until there are no more."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: none outlives its parent.
    # What a library prints must not be read as an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function, fixed = pickle.load(sys.stdin.buffer)
    while True:
        try:
            items = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_tried(function, items, fixed), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _tried(
    function: Callable[..., list[Any]], items: list[Any], fixed: Sequence[Any]
) -> list[Any] | None:
    try:
        return function(items, *fixed)
    # The caller repeats the items one by one, and the one at fault raises again.
    except Exception:
        return None


def job_cpus(environment: Mapping[str, str] = os.environ, cgroup_root: Path = cgroup.ROOT) -> int:
    """Number of CPUs that this job may use, limited by Slurm and by quotas."""
    granted = [len(os.sched_getaffinity(0))]
    on_node = environment.get("SLURM_CPUS_ON_NODE", "")
    if on_node.isdigit():
        granted.append(int(on_node))
    quota = cgroup.quota_cpus(cgroup_root)
    if quota is not None:
        granted.append(int(quota))
    return max(1, min(granted))
