"""What ranks tell each other beside the computations, on a real store in one process."""

from __future__ import annotations

import math
import threading

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from kdwatts.runtime.ranks import Ranks
from kdwatts.training import parallel
from kdwatts.training.parallel import Company


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[Company]:
    """Three ranks; a wait for one of them that never speaks again would never end."""
    monkeypatch.setattr(parallel, "LAST_PATIENCE_S", math.inf)
    store = HashStore()
    return [Company(Ranks(rank, 3, rank), store, []) for rank in range(3)]


def test_the_first_rank_does_not_wait_for_one_that_has_left_and_never_hears_the_end(three):
    first, second, third = three
    second.leave()  # As by Preempted.
    told = threading.Thread(target=first.tell_last, args=("preempted",), daemon=True)
    told.start()
    assert third.hear() == "preempted"
    told.join(0.2)
    assert told.is_alive()
    third.leave()
    told.join(30)
    assert not told.is_alive()


def test_each_run_of_a_sweep_has_an_end_of_its_own(three):
    first, *others = three
    for run in range(3):
        ends = [threading.Thread(target=first.tell_last, args=(run,), daemon=True)]
        ends[0].start()
        assert [other.hear() for other in others] == [run, run]
        for other in others:
            other.leave()
        ends[0].join(30)
        assert not ends[0].is_alive()


def test_an_answer_of_every_rank_is_waited_for_except_of_one_that_has_left(three):
    first, second, third = three
    first.tell("prepare")
    waits = threading.Thread(target=first.wait_for_answers, daemon=True)
    waits.start()
    assert second.hear() == third.hear() == "prepare"
    second.answer()
    waits.join(0.2)
    assert waits.is_alive()
    third.leave()
    waits.join(30)
    assert not waits.is_alive()


def test_a_rank_that_is_busy_or_dead_is_waited_for_in_vain_but_not_for_ever(three, monkeypatch):
    monkeypatch.setattr(parallel, "LAST_PATIENCE_S", 0.05)
    three[0].tell_last("done")
