"""Reading ahead changes when something is read and nothing else."""

from __future__ import annotations

import threading
import time

import pytest

from kdwatts.data.read_ahead import prefetched
from tests.waits import wait_until


def test_results_come_in_order_and_each_is_loaded_once():
    loaded = []

    def load(item: int) -> int:
        loaded.append(item)
        return item**2

    assert list(prefetched(range(5), load)) == [0, 1, 4, 9, 16]
    assert loaded == [0, 1, 2, 3, 4]
    assert list(prefetched([], load)) == []


def test_the_next_is_read_while_this_one_is_used_so_that_nobody_waits():
    """Each is used until the next one was read: who reads only when asked would never end."""
    loaded = []
    results = prefetched(range(5), lambda item: loaded.append(item) or item)
    for item in results:
        wait_until(lambda item=item: item == 4 or loaded[-1] == item + 1)
    assert loaded == [0, 1, 2, 3, 4]


def test_no_more_than_the_next_one_is_read_in_advance():
    loaded = []
    results = prefetched(range(100), loaded.append)
    next(results)
    wait_until(lambda: len(loaded) >= 2)
    time.sleep(0.1)
    assert loaded == [0, 1]
    results.close()


def test_an_error_comes_where_its_result_would_have_come():
    def load(item: int) -> int:
        if item == 2:
            raise ValueError("row 2 was never cached")
        return item

    results = prefetched(range(5), load)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="row 2 was never cached"):
        next(results)


def test_one_thread_loads_and_it_ends_with_the_iterator():
    before = set(threading.enumerate())
    names = set()
    results = prefetched(range(100), lambda item: names.add(threading.current_thread().name))
    next(results)
    next(results)
    assert len(set(threading.enumerate()) - before) == 1
    results.close()
    assert set(threading.enumerate()) <= before
    assert len(names) == 1 and "prefetch" in names.pop()
