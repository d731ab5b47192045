"""Reading ahead changes when something is read and nothing else."""

from __future__ import annotations

import threading
import time

import pytest

from kdwatts.data.read_ahead import prefetched


def test_results_come_in_order_and_each_is_loaded_once():
    loaded = []

    def load(item: int) -> int:
        loaded.append(item)
        return item**2

    assert list(prefetched(range(5), load)) == [0, 1, 4, 9, 16]
    assert loaded == [0, 1, 2, 3, 4]
    assert list(prefetched([], load)) == []


def test_the_next_is_read_while_this_one_is_used_so_that_nobody_waits():
    """Loading takes 30 ms, using 60 ms: only the first load is waited for."""
    waited_s = []
    results = prefetched(range(5), lambda item: time.sleep(0.03) or item)
    while True:
        start_s = time.monotonic()
        if next(results, None) is None:
            break
        waited_s.append(time.monotonic() - start_s)
        time.sleep(0.06)
    assert waited_s[0] > 0.025
    assert sum(waited_s[1:]) < 0.06


def test_no_more_than_the_next_one_is_read_in_advance():
    loaded = []
    results = prefetched(range(100), loaded.append)
    next(results)
    time.sleep(0.05)
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
    before = threading.active_count()
    names = set()
    results = prefetched(range(100), lambda item: names.add(threading.current_thread().name))
    next(results)
    next(results)
    assert threading.active_count() == before + 1
    results.close()
    assert threading.active_count() == before
    assert len(names) == 1 and "prefetch" in names.pop()
