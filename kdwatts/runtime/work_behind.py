"""Calls that a thread works off, one after another, while this thread goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

Later = Callable[..., None]
"""Takes a function and its arguments, to be called in the thread."""


@contextmanager
def work_behind(most_waiting: int) -> Generator[Later, None, None]:
    """What hands calls to one thread. At most `most_waiting` of them wait or run at a time.

    A call that is one too many waits for the oldest. An exception of a call is raised in this
    thread, at the next call that waits for it or at the end. However the context ends, every call
    that was taken is worked off before, and the thread is gone.
    """
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="behind") as pool:

        def later(function: Callable[..., None], *arguments: Any) -> None:
            while len(waiting) >= most_waiting:
                waiting.popleft().result()
            waiting.append(pool.submit(function, *arguments))

        yield later
        while waiting:
            waiting.popleft().result()
