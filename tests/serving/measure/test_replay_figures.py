"""Figures of a replay: its window is all of it, and its load may change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.load.replayed_log import Part
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.replay_remarks import (
    Asked,
    left_over_remark,
    replay_remarks,
    request_remarks,
)
from kdwatts.serving.measure.steady_start import latency_s
from tests.serving.measure.simulated_server import BEGIN_S, Server, World, served

REPLAY = Load("replay", 8.0)


def as_replay(world: World) -> World:
    return replace(world, load=replace(REPLAY, level=world.load.level))


def two_rates(first_per_s: float, second_per_s: float, server: Server = Server()) -> World:  # noqa: B008
    """A minute at one rate, then a minute at another, whose first second comes a second after."""
    slow = served(server, Load("poisson", first_per_s), duration_s=60.0)
    fast = served(server, Load("poisson", second_per_s), duration_s=60.0, seed=1)

    def later(outcome: Outcome) -> Outcome:
        return replace(
            outcome,
            number=outcome.number + len(slow.outcomes),
            scheduled_s=outcome.scheduled_s + 59,
            sent_s=(outcome.sent_s or 0.0) + 59,
            ended_s=outcome.ended_s + 59,
            chunks=[(at_s + 59, tokens) for at_s, tokens in outcome.chunks],
        )

    last = slow.seconds[-1]
    seconds = [
        replace(
            one,
            time_s=one.time_s + 59,
            sent=one.sent + last.sent,
            ended=one.ended + last.ended,
            output_tokens=one.output_tokens + last.output_tokens,
        )
        for one in fast.seconds
    ]
    moved = slow.slices[-1].end_s - fast.slices[0].start_s
    slices = [
        replace(one, start_s=one.start_s + moved, end_s=one.end_s + moved) for one in fast.slices
    ]
    return World(
        REPLAY,
        [*slow.outcomes, *map(later, fast.outcomes)],
        [*slow.seconds, *seconds],
        [*slow.slices, *slices],
        server,
        slow.busy,
    )


def test_the_window_of_a_replay_begins_after_five_median_latencies_and_cuts_nothing_else():
    world = two_rates(1.0, 10.0)
    found = world.figures()
    latencies_s = sorted(latency_s(one) for one in world.outcomes if one.failure is None)
    five_s = 5 * latencies_s[len(latencies_s) // 2]
    starts_s = [one.start_s - BEGIN_S for one in world.slices]
    assert found.warm_up_s == pytest.approx(min(s for s in starts_s if s >= five_s))
    # As a load of its own, the slow minute is cut off as what comes before the steady part.
    other = replace(world, load=Load("poisson", 8.0)).figures()
    assert (other.warm_up_s or 0.0) > 50.0


def test_a_replay_whose_rate_grows_tenfold_is_neither_unsteady_nor_saturated():
    found = two_rates(1.0, 10.0).figures()
    assert found.verdict == "steady"
    assert not any("steady" in remark for remark in found.remarks)


def test_joules_per_request_of_a_replay_are_those_of_its_window_over_what_ended_in_it():
    world = as_replay(served(Server(), Load("poisson", 8.0)))
    found = world.figures()
    assert found.completed > 300
    assert found.j_per_request.value == pytest.approx(
        (found.energy_j["gpu"] or 0.0) / found.completed
    )
    low, high = found.j_per_request.low, found.j_per_request.high
    assert low is not None and high is not None
    assert low < world.true_j(found) / found.completed < high
    assert (found.load, found.level, found.speed) == ("replay", 8.0, 1.0)


def test_a_replay_that_ends_with_more_than_the_server_can_take_is_saturated():
    # A request holds one of 4 slots for 0.24 s: 16.7 a second are all it can do.
    assert two_rates(1.0, 20.0).figures().verdict == "saturated"


def test_a_short_replay_says_that_more_of_the_log_is_needed():
    world = as_replay(served(Server(), Load("poisson", 8.0), duration_s=20.0))
    found = world.figures()
    assert found.verdict == "steady"
    needed = [remark for remark in found.remarks if "30 s are needed" in remark]
    assert len(needed) == 1 and needed[0].endswith("are needed: replay more of the log.")


ASKED = Asked(4, is_forced=True, is_cut=False, is_repeated=False, due_s=None)


def outcome(number: int, scheduled_s: float, output_tokens: int = 4) -> Outcome:
    return Outcome(number, scheduled_s, scheduled_s, scheduled_s + 1, output_tokens=output_tokens)


def test_remarks_count_what_was_cut_repeated_forced_in_vain_late_and_unsent():
    outcomes = [outcome(0, 0.0), outcome(1, 3.5, output_tokens=2), outcome(2, 4.0, 3)]
    asked = {
        0: replace(ASKED, is_cut=True, due_s=0.0),
        1: replace(ASKED, is_repeated=True, due_s=1.0),
        2: replace(ASKED, is_forced=False, due_s=4.0),
    }
    assert request_remarks(outcomes, asked) == [
        "1 of 2 answers have another length than the one that was forced.",
        "1 of 3 requests were cut to fit the context of the model.",
        "1 of 3 prompts were sent to this server in a load before: what it kept of them in its "
        "cache, it did not read again.",
    ]
    assert replay_remarks(Part(4, 1.0, 5.0, 20.0), outcomes, asked) == [
        "The first 25 % of the stretch of the log were replayed, 5 of 20 s: raise max_window_s.",
        "1 of 3 requests were sent later than the log says, up to 2.5 s, as the turn before them "
        "had not ended.",
        "1 of 4 requests were not sent before the replay ended: the turn before them had not "
        "ended, or our client was too slow.",
    ]
    assert replay_remarks(Part(3, 1.0, 5.0, 5.0), outcomes[:1], {0: ASKED})[1:] == []


def test_a_replay_says_how_many_requests_are_left_over_where_they_are_over_a_twentieth():
    def sent_each_second(answer_s: list[float]) -> list[Outcome]:
        return [
            Outcome(number, float(number), float(number), number + seconds)
            for number, seconds in enumerate(answer_s)
        ]

    # 101 requests in 100 s. Each takes 10 s, so 10 are under way at 50 and at 100 s.
    assert left_over_remark(sent_each_second([10.0] * 101)) == []
    # Those of the second half take 13 s, so 13 are: 3 of 50 more.
    (sentence,) = left_over_remark(sent_each_second([10.0] * 51 + [13.0] * 50))
    assert sentence.startswith(
        "13 requests were under way at the last one and 10 at the half of the replay, of 50 that"
    )
    # 12 are 2 more, under a twentieth of 50.
    assert left_over_remark(sent_each_second([10.0] * 51 + [12.0] * 50)) == []


def test_a_server_that_answers_five_of_six_requests_of_a_short_replay_says_so():
    """Of 4 slots with 0.24 s a request. Times to first token do not surely rise in a minute."""
    found = [
        bool(
            left_over_remark(as_replay(served(Server(), Load("poisson", 20.0), seed=seed)).outcomes)
        )
        for seed in range(10)
    ]
    assert all(found)
    calm = [
        bool(
            left_over_remark(as_replay(served(Server(), Load("poisson", 8.0), seed=seed)).outcomes)
        )
        for seed in range(10)
    ]
    assert not any(calm)
