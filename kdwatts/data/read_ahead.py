"""What the next step reads, read while this one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetched(
    items: Iterable[Item], load: Callable[[Item], Loaded], *, ahead: int = 1
) -> Generator[Loaded, None, None]:
    """`load(item)` for each item in order; one thread is at most `ahead` of them in advance.

    All calls of `load` happen in that thread, one after the other, so what they give does not
    depend on timing. What one raises is raised where its result would have come. The thread ends
    with the iterator: exhaust or close it.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting: deque[Future[Loaded]] = deque()
        try:
            waiting.extend(pool.submit(load, item) for item in islice(remaining, ahead))
            while waiting:
                loaded = waiting.popleft().result()
                waiting.extend(pool.submit(load, item) for item in islice(remaining, 1))
                yield loaded
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
