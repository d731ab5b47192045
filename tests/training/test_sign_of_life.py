"""Who is found lost, and who is not: ranks of threads on one store, time limits made short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from kdwatts.runtime.interrupt import Preempted, deferred
from kdwatts.runtime.ranks import Ranks
from kdwatts.telemetry.node_facts import NodeFacts, facts_of_this_node
from kdwatts.training import sign_of_life
from kdwatts.training.cause import Cause, RankFailed, is_of_connection
from kdwatts.training.company import Company
from kdwatts.training.sign_of_life import SignOfLife
from tests.waits import wait_until


class Silenced(SignOfLife):
    """A rank that can stop giving signs, as one whose machine is switched off."""

    is_silent = False

    def _sign(self, beat: int) -> dict[str, object]:
        return {"beat": 0} if self.is_silent else super()._sign(beat)


def node(number: int, host: str, ranks: list[int]) -> NodeFacts:
    facts = vars(facts_of_this_node([], ranks=ranks))
    return NodeFacts(**{**facts, "number": number, "host": host})


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> list[Company]:
    """Three ranks on two nodes, n1 and n2, and short limits."""
    monkeypatch.setattr(sign_of_life, "BEAT_EVERY_S", 0.05)
    monkeypatch.setattr(sign_of_life, "LOOK_EVERY_S", 0.05)
    store, nodes = HashStore(), [node(1, "n1", [0, 1]), node(2, "n2", [2])]
    return [Company(Ranks(rank, 3, 0), store, token="t", nodes=nodes) for rank in range(3)]


def watched(company: Company) -> tuple[Silenced, list[Cause]]:
    ends: list[Cause] = []
    signs = Silenced(company, ends.append)
    signs.start()
    return signs, ends


def test_every_rank_ends_with_the_name_of_the_one_that_fell_silent(
    ranks: list[Company], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sign_of_life, "LOST_AFTER_S", 3.0)
    found = [watched(company) for company in ranks]
    found[2][0].is_silent = True
    wait_until(lambda: all(ends for _, ends in found))
    cause = found[0][1][0]
    assert (cause.rank, cause.host, cause.is_lost) == (2, "n2", True)
    assert cause.sentence == "rank 2 on n2 gave no sign of life for 3 s"
    assert "for 3 s in the stage distill; look on n2 for what" in cause.in_stage("distill")
    assert [ends for _, ends in found] == [[cause]] * 3


def test_the_others_find_the_first_rank_lost_and_one_on_another_node_speaks_for_it(
    ranks: list[Company], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sign_of_life, "LOST_AFTER_S", 3.0)
    first, *others = [watched(company) for company in ranks]
    first[0].is_silent = True
    wait_until(lambda: all(ends for _, ends in others))
    assert {(end.rank, end.host) for _, (end,) in others} == {(0, "n1")}
    assert [company.is_deputy for company in ranks] == [False, False, True]


def test_a_rank_that_is_asked_to_end_names_the_one_that_was_killed_before_it_is_killed_too(
    ranks: list[Company], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sign_of_life, "ENDING_AFTER_S", 3.0)
    monkeypatch.setattr(sign_of_life, "LOST_AFTER_S", 3600.0)
    found = [watched(company) for company in ranks]
    found[2][0].is_silent = True
    time.sleep(0.5)
    assert not found[0][1]
    with deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: all(ends for _, ends in found[:2]))
    assert found[0][1][0].sentence == "rank 2 on n2 ended without a word"


def test_after_an_error_of_a_connection_the_silent_rank_is_named_long_before(
    ranks: list[Company], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sign_of_life, "GONE_AFTER_S", 3.0)
    monkeypatch.setattr(sign_of_life, "LOST_AFTER_S", 3600.0)
    found = [watched(company) for company in ranks]
    found[2][0].is_silent = True
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    cause = ranks[1].cause_behind(closed)
    assert cause and cause.sentence == "rank 2 on n2 ended without a word"
    assert ranks[0].cause_behind(closed) == cause


def test_a_message_of_a_stranger_ends_the_run_in_words_that_say_so(
    ranks: list[Company], monkeypatch: pytest.MonkeyPatch
):
    # The first rank lives on in this test, so the others find it silent, and no store gone.
    monkeypatch.setattr(sign_of_life, "LOST_AFTER_S", 3.0)
    first, *_ = found = [watched(company) for company in ranks]
    first[0]._company.channel._store.set("cause-0", "a stranger's")
    wait_until(lambda: all(ends for _, ends in found))
    ((cause,), *_) = [ends for _, ends in found]
    assert cause.rank == 0 and not cause.is_lost
    assert "(cause-0) is not signed with its token" in cause.sentence


def test_a_rank_that_said_why_it_fails_or_that_it_leaves_is_not_lost(
    ranks: list[Company], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sign_of_life, "LOST_AFTER_S", 0.3)
    _, ends = watched(ranks[0])
    for company in ranks[1:]:
        company.leave()
    time.sleep(1)
    assert ends == []
    ranks[0].blame(Cause(2, "n2", "rank 2 on n2: the disk is full"))
    wait_until(lambda: ends)
    assert ends == [Cause(2, "n2", "rank 2 on n2: the disk is full")]


def test_a_signal_to_ranks_that_all_live_is_no_failure(ranks: list[Company]):
    for company in ranks:
        watched(company)
    assert ranks[0].cause_behind(Preempted("stopped by SIGTERM")) is None


def test_of_several_causes_the_first_stays_and_what_follows_is_not_blamed(ranks: list[Company]):
    first, second, third = ranks
    assert third.cause_behind(KeyError("rows")) is None
    third.complain("the disk is full")
    second.complain("the connection was closed")
    cause = Cause(2, "n2", "rank 2 on n2: the disk is full")
    assert first.cause() == second.cause() == cause
    assert second.cause_behind(ValueError("no batch")) == cause
    assert first.cause_behind(RankFailed(cause)) == cause


def test_a_process_that_was_stopped_blames_nobody_when_it_goes_on(
    ranks: list[Company], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sign_of_life, "LOST_AFTER_S", 30.0)
    clock: Callable[[], float] = time.monotonic
    ahead_s = 0.0
    monkeypatch.setattr(sign_of_life.time, "monotonic", lambda: clock() + ahead_s)
    _, ends = watched(ranks[0])
    for company in ranks[1:]:
        watched(company)
    time.sleep(0.3)
    ahead_s = 3600.0
    time.sleep(0.5)
    assert ends == []


def test_errors_of_gloo_are_of_a_connection_also_as_causes_of_others():
    try:
        try:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
        except RuntimeError as error:
            raise ValueError("no batch") from error
    except ValueError as error:
        assert is_of_connection(error)
    assert not is_of_connection(RuntimeError("the disk is full"))


ENDS = """
import time
from torch.distributed import TCPStore
from kdwatts.runtime.ranks import Ranks
from kdwatts.telemetry.node_facts import facts_of_this_node
from kdwatts.training import sign_of_life
from kdwatts.training.company import Company

sign_of_life.BEAT_EVERY_S = sign_of_life.LOOK_EVERY_S = 0.0  # They are always inside torch.
nodes = [facts_of_this_node([], ranks=[0, 1])]
for _ in range(3):
    store = TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
    for rank in (0, 1):
        company = Company(Ranks(rank, 2, 0), store, token="t", nodes=nodes)
        sign_of_life.SignOfLife(company, print).start()
time.sleep(0.2)
"""


def test_a_process_ends_well_while_its_threads_ask_the_store():
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
