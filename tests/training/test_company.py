"""What ranks tell each other beside the computations, on a real store in one process."""

from __future__ import annotations

import math
import threading

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from kdwatts.runtime.ranks import Ranks
from kdwatts.telemetry.node_facts import facts_of_this_node
from kdwatts.training import company
from kdwatts.training.cause import Cause
from kdwatts.training.company import Company


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[Company]:
    """Three ranks; a wait for one of them that never speaks again would never end."""
    monkeypatch.setattr(company, "LAST_PATIENCE_S", math.inf)
    store = HashStore()
    nodes = [facts_of_this_node([], ranks=range(3))]
    return [Company(Ranks(rank, 3, rank), store, token="t", nodes=nodes) for rank in range(3)]


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
    monkeypatch.setattr(company, "LAST_PATIENCE_S", 0.05)
    three[0].tell_last("done")


def test_answers_come_with_the_ranks_that_gave_them(three):
    first, second, third = three
    first.tell("measure")
    second.hear(), third.hear()
    second.answer({"url": "http://10.0.0.2:9400"})
    third.answer()
    assert first.wait_for_answers() == {1: {"url": "http://10.0.0.2:9400"}, 2: None}


def test_a_message_with_another_token_or_under_another_name_is_refused():
    store, nodes = HashStore(), [facts_of_this_node([], ranks=range(2))]
    first = Company(Ranks(0, 2, 0), store, token="mine", nodes=nodes)
    first.tell("prepare")
    with pytest.raises(RuntimeError, match="not signed with its token"):
        Company(Ranks(1, 2, 1), store, token="stranger's", nodes=nodes).hear()
    second = Company(Ranks(1, 2, 1), store, token="mine", nodes=nodes)
    assert second.hear() == "prepare"
    store.set("told-1", store.get("told-0"))  # Sent again by who has no token.
    with pytest.raises(RuntimeError, match="not signed"):
        second.hear()


@pytest.mark.parametrize("written", [b"", b"\x80\x04K\x01.", b"[]", b'{"mac": 1, "body": "2"}'])
def test_what_is_no_signed_json_is_refused_and_never_unpickled(three, written: bytes):
    _, second, _ = three
    second.channel._store.set("told-0", written)
    with pytest.raises(RuntimeError, match="not signed"):
        second.hear()


def test_the_first_rank_raises_the_sentence_of_a_rank_that_failed(three):
    first, second, third = three
    first.tell("prepare")
    second.complain("the tokenizer cannot be read")
    second.leave()
    third.hear()
    third.answer()
    with pytest.raises(RuntimeError, match=r"^rank 1: the tokenizer cannot be read$"):
        first.wait_for_answers()
    assert third.cause() == Cause(1, None, "rank 1: the tokenizer cannot be read")
