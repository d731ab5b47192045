"""The data of the next step, read while this step computes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetched(
    items: Iterable[Item], load: Callable[[Item], Loaded]
) -> Generator[Loaded, None, None]:
    """`load(item)` for each item in order. One thread works at most one item ahead.

    All calls of `load` happen in that thread, one after the other. So the results do not depend on
    timing. An exception of a call is raised where its result would have come. The thread ends with
    the iterator: use it up, or close it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        futures = (pool.submit(load, item) for item in items)
        try:
            waiting = next(futures, None)
            while waiting:
                loaded = waiting.result()
                waiting = next(futures, None)
                yield loaded
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
