import threading

import pytest

from kdwatts.runtime.work_behind import work_behind
from tests.waits import wait_until


def test_calls_run_in_their_order_in_one_other_thread_and_all_before_the_end():
    seen: list[tuple[int, int]] = []
    with work_behind(2) as later:
        for number in range(20):
            later(lambda number: seen.append((number, threading.get_ident())), number)
    assert [number for number, _ in seen] == list(range(20))
    (thread,) = {thread for _, thread in seen}
    assert thread != threading.get_ident()


def test_no_more_calls_wait_than_may():
    may_end, taken = threading.Event(), []

    def take() -> None:
        with work_behind(2) as later:
            for number in range(4):
                later(may_end.wait, 30)
                taken.append(number)

    caller = threading.Thread(target=take)
    caller.start()
    wait_until(lambda: len(taken) >= 2)
    caller.join(0.2)
    assert taken == [0, 1] and caller.is_alive()
    may_end.set()
    caller.join(30)
    assert taken == [0, 1, 2, 3]


def test_an_exception_of_a_call_is_raised_where_the_calls_come_from():
    def fail() -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), work_behind(2) as later:
        later(fail)


def test_what_was_taken_is_worked_off_when_the_caller_is_stopped():
    may_begin, done = threading.Event(), []
    with pytest.raises(KeyboardInterrupt), work_behind(2) as later:
        later(may_begin.wait, 30)
        later(done.append, "second")
        may_begin.set()
        raise KeyboardInterrupt
    assert done == ["second"]
