"""Joules per token, request and good request of computed servers whose truth is known."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from kdwatts.config.serving import Slo
from kdwatts.metrics.quantity import MISSING_J, Quantity
from kdwatts.metrics.student_t import to_half_width
from kdwatts.records.serving_record import UNKNOWN, Figure, ServingPoint
from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.figures import is_enough
from kdwatts.serving.measure.slices import Slice
from tests.serving.measure.simulated_server import BEGIN_S, Server, World, served

SEEDS = 100


def _random_length(random: np.random.Generator) -> int:
    """1 to 31 tokens, 16 on average."""
    return int(random.integers(1, 32))


SERVER = Server(output_tokens=_random_length)
SERVICE_S = SERVER.prefill_s + 15 * SERVER.gap_s


def _holds(figure: Figure, truth: float) -> bool:
    """Whether the interval without the meter's calibration, which is exact here, holds it."""
    degrees = np.inf if figure.degrees is None else figure.degrees
    half = to_half_width(figure.random_sd, degrees)
    return abs((figure.value or 0.0) - truth) <= half


@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize(
    ("load", "busy_slots"),
    [(Load("closed", 2), 2.0), (Load("closed", 8), 4.0), (Load("poisson", 10), 10 * SERVICE_S)],
)
def test_joules_per_token_hold_the_truth_in_93_of_100_runs_at_any_phase(load, busy_slots, period_s):
    """In the long run P0 + e x busy slots watts write 16 tokens in each service time of a slot."""
    tokens_per_s = busy_slots / SERVICE_S * (16 + SERVER.prompt_tokens)
    truth = (SERVER.idle_w + SERVER.slot_w * busy_slots) / tokens_per_s
    held = 0
    for seed in range(SEEDS):
        world = served(SERVER, load, seed=seed, period_s=period_s)
        found = world.figures(counter_period_s=period_s)
        window = world.true_j(found) / (found.output_tokens + found.prompt_tokens)
        assert found.j_per_token.value == pytest.approx(window, rel=0.01)
        assert _holds(found.j_per_token, window)
        held += _holds(found.j_per_token, truth)
    assert held >= 93


def test_decode_of_busy_slots_costs_their_share_of_idle_power_and_their_own():
    """(P0 / c + e) g joules a token where prompts take no time: (60 / 4 + 25) 0.01 = 0.4 J."""
    server = Server(prefill_s=0.01)
    found = served(server, Load("closed", 4), duration_s=80.0).figures()
    assert found.j_per_output_token.value == pytest.approx(0.4, rel=0.01)
    assert found.power_w.value == pytest.approx(160.0, rel=0.001)
    assert found.verdict == "steady"
    assert found.mean_in_flight == pytest.approx(4.0, rel=0.01)


def test_figures_of_one_window_agree_with_each_other():
    found = served(Server(), Load("closed", 4)).figures()
    joules = found.energy_j["gpu"]
    assert joules is not None and found.duration_s is not None
    assert found.j_per_request.value == pytest.approx(joules / found.completed)
    assert found.requests_per_s.value == pytest.approx(found.completed / found.duration_s)
    assert found.output_tokens_per_s.value == pytest.approx(found.output_tokens / found.duration_s)
    assert found.energy_j["cpu"] is None
    assert found.server_cpu_s == pytest.approx(found.duration_s / 2)
    assert found.j_per_token.shared_sd == pytest.approx(0.05 * (found.j_per_token.value or 0))


def test_a_warm_up_that_draws_twice_the_power_is_cut():
    """10 s at 200 W more, while a compiler runs: 5 % of a mean that keeps them."""
    world = served(Server(), Load("closed", 4), duration_s=80.0)
    hot = [
        replace(one, energy=replace(one.energy, value=one.energy.number + 400.0))
        if one.start_s < BEGIN_S + 10
        else one
        for one in world.slices
    ]
    found = replace(world, slices=hot).figures()
    assert found.warm_up_s is not None and found.warm_up_s >= 10
    assert found.power_w.value == pytest.approx(160.0, rel=0.001)


def test_the_window_begins_after_each_slot_of_a_closed_loop_ended_a_request():
    """8 at once on 1 slot of 1.04 s: the eighth ends after 8.3 s."""
    server = Server(slots=1, prefill_s=0.85)
    found = served(server, Load("closed", 8), duration_s=90.0).figures()
    assert found.warm_up_s is not None and found.warm_up_s >= 8 * 1.04


def test_a_meter_that_errs_by_more_than_batches_show_makes_the_interval_wider():
    """Slices that each err by 20 J of 320 say 20 sqrt(K) of the sum; batches here hardly differ."""
    world = served(Server(), Load("closed", 4))
    vague = [replace(one, energy=replace(one.energy, random_sd=20.0)) for one in world.slices]
    sharp, found = world.figures(), replace(world, slices=vague).figures()
    slices = round((found.duration_s or 0) / 2)
    assert found.power_w.random_sd == pytest.approx(20 * slices**0.5 / (2 * slices))
    assert found.power_w.degrees is None
    assert (sharp.power_w.random_sd or 0) < (found.power_w.random_sd or 0)


def _with_failures(world: World, every: int, kind: str) -> World:
    """Each so many-th request fails at its end instead."""
    outcomes = [
        replace(o, failure=kind, output_tokens=None, prompt_tokens=None)
        if o.number % every == 0 and o.failure is None
        else o
        for o in world.outcomes
    ]
    return replace(world, outcomes=outcomes)


def test_failed_work_stays_in_the_joules_and_never_in_the_tokens():
    world = served(Server(), Load("closed", 4))
    whole, found = world.figures(), _with_failures(world, 4, "bad_stream").figures()
    assert found.energy_j == whole.energy_j
    assert found.output_tokens == pytest.approx(0.75 * whole.output_tokens, rel=0.02)
    assert found.j_per_token.value == pytest.approx((whole.j_per_token.value or 0) / 0.75, rel=0.02)
    assert found.failures == {"bad_stream": found.failed}
    assert "the stream was no valid UTF-8, JSON or event stream" in str(found.remarks)


def test_requests_under_way_at_the_end_count_the_tokens_that_came():
    """All tokens that arrive while the server is full: 4 slots x 100 a second."""
    server = Server(prefill_s=0.01, output_tokens=lambda _: 2000)
    found = served(server, Load("closed", 4), duration_s=90.0).figures()
    assert found.output_tokens_per_s.value == pytest.approx(400.0, rel=0.01)
    world = served(server, Load("closed", 4), duration_s=90.0)
    unfinished = [o for o in world.outcomes if o.failure == "unfinished"]
    assert len(unfinished) == 4
    assert "4 requests were under way at the end" in str(found.remarks)


def test_chunks_of_requests_under_way_have_as_many_tokens_as_those_of_the_others():
    """A server that states its counts at the end alone writes 3 tokens a chunk.

    All requests take 10 s, and the last 4 are cut short: a chunk of theirs is known to hold one.
    """
    server = Server(prefill_s=0.01, output_tokens=lambda _: 1000)
    world = served(server, Load("closed", 4), duration_s=65.0)
    told = [
        o
        if o.output_tokens is None
        else replace(o, output_tokens=3000, chunks=[(time_s, 3) for time_s, _ in o.chunks])
        for o in world.outcomes
    ]
    assert sum(o.failure == "unfinished" for o in told) == 4
    found = replace(world, outcomes=told).figures()
    assert found.output_tokens_per_s.value == pytest.approx(1200.0, rel=0.01)


def test_a_window_that_is_too_short_is_not_steady_and_says_so():
    world = served(SERVER, Load("closed", 4))
    assert world.figures().verdict == "steady"
    short = world.figures(min_window_s=300.0)
    assert short.verdict == "unsteady"
    assert [one for one in short.remarks if one.startswith("The window has")]


def test_joules_per_good_request_are_those_of_the_window_over_requests_within_the_slo():
    """Lengths of 1 to 31 tokens end within 0.05 s + 15 x 0.01 s in 16 of 31 cases."""
    world = served(SERVER, Load("closed", 4))
    found = world.figures(Slo(e2e_p99_s=0.2001))
    joules, good = found.energy_j["gpu"] or 0.0, found.good_share.value or 0.0
    assert good == pytest.approx(16 / 31, rel=0.05)
    assert found.j_per_good_request.value == pytest.approx(joules / (good * found.completed))
    assert found.goodput_per_s.value == pytest.approx(good * (found.requests_per_s.value or 0))
    assert world.figures().j_per_good_request == UNKNOWN


def test_the_share_of_good_requests_is_over_attempts_and_not_over_completions():
    world = _with_failures(served(Server(), Load("closed", 4)), 10, "timeout")
    found = world.figures(Slo(ttft_p99_s=10.0))
    assert found.good_share.value == pytest.approx(
        found.completed / (found.completed + found.failed)
    )
    assert 0.85 < (found.good_share.low or 0) < 0.9 < (found.good_share.high or 0) < 0.95


def test_an_slo_that_nothing_keeps_has_no_joules_per_good_request():
    found = served(Server(), Load("closed", 4)).figures(Slo(ttft_p99_s=0.001))
    assert (found.j_per_good_request.value, found.goodput_per_s.value) == (None, 0.0)
    assert "No request kept the SLO." in found.remarks


def test_without_joules_there_are_latencies_and_no_joules():
    world = served(Server(), Load("closed", 4))
    slices = [replace(one, energy=MISSING_J, energy_j={"gpu": None}) for one in world.slices]
    found = replace(world, slices=slices).figures()
    assert (found.energy_quality, found.energy_j) == ("missing", {"gpu": None})
    assert found.j_per_token == Figure(None, quality="missing")
    assert found.power_w.value is None
    assert found.ttft_s.p50.value == pytest.approx(0.05)
    assert (found.verdict, found.output_tokens_per_s.value) == (
        "steady",
        pytest.approx(333.3, 0.02),
    )


def test_a_slice_without_the_gpu_leaves_no_joules_of_the_cpu_in_its_place():
    """A GPU of 100 W beside a CPU of 60 W; in one slice the GPU gave no reading."""
    world = served(Server(slot_w=0.0), Load("closed", 4))
    slices = [
        replace(one, energy=Quantity(320.0, 0.1, 8.0, "J"), energy_j={"gpu": 200.0, "cpu": 120.0})
        for one in world.slices
    ]
    assert replace(world, slices=slices).figures().power_w.value == pytest.approx(160.0)
    cpu = replace(slices[-3], energy=Quantity(120.0, 0.1, 6.0, "J"))
    slices[-3] = replace(cpu, energy_j={"gpu": None, "cpu": 120.0})
    found = replace(world, slices=slices).figures()
    assert (found.power_w.value, found.j_per_token.value) == (None, None)
    assert (found.energy_quality, found.energy_j["gpu"]) == ("missing", None)
    assert "Joules were not measured in a part of the window" in str(found.remarks)


def _no_figures(found: ServingPoint) -> bool:
    names = [name for name in asdict(found) if name.startswith(("j_per", "prefill_j", "decode_j"))]
    rates = ["requests_per_s", "goodput_per_s", "good_share", "output_tokens_per_s"]
    latencies = [found.ttft_s, found.tpot_s, found.e2e_s]
    figures = [getattr(found, name) for name in (*names, *rates)]
    figures += [p for three in latencies for p in (three.p50, three.p90, three.p99)]
    return all(figure.value is None for figure in figures)


def test_a_server_that_only_fails_keeps_its_joules_and_has_no_figure():
    found = _with_failures(served(Server(), Load("closed", 4)), 1, "server_error").figures()
    assert found.verdict == "failed"
    assert (found.energy_j["gpu"] or 0) > 0
    assert _no_figures(found)
    assert found.remarks[-1].endswith("the server answered HTTP 5xx.")
    assert "No request ended well in the" in found.remarks[-1]


def test_a_server_that_never_answers_has_no_figure():
    server = Server(prefill_s=1000.0)
    found = served(server, Load("closed", 4)).figures()
    assert (found.verdict, found.completed, found.failed) == ("failed", 0, 0)
    assert _no_figures(found)
    assert "No request ended in the" in found.remarks[-1]


def test_a_server_that_restarts_is_refused():
    world = served(Server(), Load("closed", 4))
    last = world.slices[-1]
    fallen = replace(last, counters={"output_tokens": -5000.0})
    found = replace(world, slices=[*world.slices[:-1], fallen]).figures()
    assert found.verdict == "failed"
    assert _no_figures(found)
    assert "The engine's counter output_tokens fell" in found.remarks[0]


def test_no_slice_gives_no_figure():
    world = served(Server(), Load("closed", 4))
    found = replace(world, slices=[]).figures()
    assert (found.verdict, found.duration_s) == ("failed", None)
    assert _no_figures(found)


def test_one_slice_has_figures_without_an_interval():
    world = served(Server(), Load("closed", 4), duration_s=6.0)
    found = replace(world, slices=world.slices[-1:]).figures()
    assert found.power_w.value == pytest.approx(160.0, rel=0.01)
    assert (found.power_w.low, found.power_w.high, found.power_w.random_sd) == (None, None, None)
    assert "The window has one batch, so figures have no interval." in found.remarks
    assert "The window has 2 s, and 30 s are needed: raise max_window_s." in found.remarks


def _with_counter(world: World, factor: float) -> World:
    slices = [
        replace(one, counters={"output_tokens": factor * one.counters["output_tokens"]})
        for one in world.slices
    ]
    return replace(world, slices=slices)


def test_answers_that_state_a_token_in_100_too_much_are_remarked():
    world = served(Server(), Load("closed", 4))
    assert world.figures().usage_error == pytest.approx(0.0, abs=1e-4)
    assert "counter" not in str(world.figures().remarks)
    found = _with_counter(world, 1 / 1.01).figures()
    assert found.usage_error == pytest.approx(0.01, rel=0.01)
    assert "Tokens of the answers are +1 % off the engine's own counter" in str(found.remarks)


def test_an_end_token_without_a_chunk_counts_as_usage_says():
    """20 tokens came in chunks, and usage says 21."""
    world = served(Server(), Load("closed", 4))
    more = [
        o if o.output_tokens is None else replace(o, output_tokens=o.output_tokens + 1)
        for o in world.outcomes
    ]
    found = replace(world, outcomes=more).figures()
    assert found.output_tokens == pytest.approx(21 / 20 * world.figures().output_tokens, rel=0.001)


def _until(world: World, end_s: float) -> tuple[Load, list[Outcome], list, list[Slice]]:
    """What was seen until a moment."""
    return (
        world.load,
        [o for o in world.outcomes if o.ended_s <= end_s and o.failure is None],
        [second for second in world.seconds if second.time_s <= end_s],
        [one for one in world.slices if one.end_s <= end_s],
    )


def test_a_load_is_enough_after_30_steady_seconds_and_with_an_slo_after_299_requests():
    world = served(Server(prefill_s=0.4), Load("closed", 1), duration_s=400.0)  # 1.7 requests/s.
    options = {"min_window_s": 30.0, "counter_period_s": 0.02}
    no_limit, limit = Slo(), Slo(ttft_p99_s=1.0)
    moments = np.arange(10.0, 400.0, 5.0)
    first = {
        slo.is_set: next(
            moment
            for moment in moments
            if is_enough(*_until(world, BEGIN_S + moment), slo=slo, **options)
        )
        for slo in (no_limit, limit)
    }
    assert 30 < first[False] <= 90
    assert 299 / 1.7 < first[True] <= 395


def test_200_periods_of_a_slow_counter_and_10_latencies_are_needed():
    world = served(Server(), Load("closed", 4), duration_s=60.0)
    seen = _until(world, BEGIN_S + 60)
    options = {"slo": Slo(), "min_window_s": 2.0}
    assert is_enough(*seen, counter_period_s=0.02, **options)
    assert not is_enough(*seen, counter_period_s=0.5, **options)
    slow = served(Server(prefill_s=6.0), Load("closed", 4), duration_s=60.0)
    assert not is_enough(*_until(slow, BEGIN_S + 60), counter_period_s=0.02, **options)


def test_nothing_is_enough_before_the_first_slice_or_answer():
    world = served(Server(), Load("closed", 4))
    options = {"slo": Slo(), "min_window_s": 2.0, "counter_period_s": 0.02}
    assert not is_enough(world.load, [], [], [], **options)
    assert not is_enough(world.load, [], world.seconds, world.slices, **options)


def test_a_load_far_beyond_the_server_is_enough_as_soon_as_its_queue_is_seen_to_grow():
    server = Server(slots=1, prefill_s=0.1, output_tokens=lambda _: 1)
    world = served(server, Load("poisson", 40), duration_s=80.0)
    seen = _until(world, BEGIN_S + 80)
    assert is_enough(*seen, slo=Slo(), min_window_s=30.0, counter_period_s=0.02)
    assert world.figures().verdict == "saturated"
