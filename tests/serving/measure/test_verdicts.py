"""When figures are those of a queue, of a drift, or of our own client."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.batches import batch_ratio
from kdwatts.serving.measure.latencies import ttft_s
from kdwatts.serving.measure.steady_start import steady_window
from tests.serving.measure.simulated_server import BEGIN_S, Server, World, served

SERVICE_S = 0.05
M_D_1 = Server(slots=1, prefill_s=SERVICE_S, output_tokens=lambda _: 1)


def _verdicts(rho: float, *, seeds: int, duration_s: float) -> Counter[str]:
    load = Load("poisson", rho / SERVICE_S)
    return Counter(
        served(M_D_1, load, seed=seed, duration_s=duration_s).figures().verdict
        for seed in range(seeds)
    )


def test_a_steady_queue_at_70_percent_is_called_saturated_in_at_most_5_of_100_runs():
    verdicts = _verdicts(0.7, seeds=100, duration_s=60.0)
    assert verdicts["saturated"] <= 5
    assert verdicts["steady"] >= 90


def test_a_queue_that_gets_10_percent_more_than_it_can_serve_is_saturated():
    assert _verdicts(1.1, seeds=20, duration_s=180.0)["saturated"] >= 19


def test_a_closed_loop_is_never_saturated_however_long_its_queue():
    found = served(M_D_1, Load("closed", 50), duration_s=90.0).figures()
    assert found.verdict == "steady"
    assert found.ttft_s.p50.value == pytest.approx(50 * SERVICE_S, rel=0.01)


def test_the_mean_wait_of_m_d_1_lies_in_its_interval():
    """L s^2 / (2 (1 - L s)), Pollaczek and Khinchine, at L s = 0.5."""
    rate = 0.5 / SERVICE_S
    truth = rate * SERVICE_S**2 / (2 * (1 - rate * SERVICE_S))
    held = 0
    for seed in range(40):
        world = served(M_D_1, Load("poisson", rate), seed=seed, duration_s=300.0)
        wait = _mean_wait(world)
        assert wait.value is not None and wait.random_half_width is not None
        held += abs(wait.value - truth) <= wait.random_half_width
    assert held >= 36


def _mean_wait(world: World):
    window = steady_window(world.load, world.outcomes, world.seconds, world.slices)
    assert window is not None
    edges_s = [*(one.start_s for one in window.slices), window.end_s]
    done = [o for o in world.outcomes if o.failure is None and window.holds(o.ended_s)]
    ended_s = [o.ended_s for o in done]
    waits_s = [(ttft_s(o) or 0.0) - SERVICE_S for o in done]
    sums, _ = np.histogram(ended_s, edges_s, weights=waits_s)
    counts, _ = np.histogram(ended_s, edges_s)
    return batch_ratio(sums.tolist(), counts.tolist(), unit="s")


def test_requests_in_the_system_follow_little():
    """Mean number under way is rate x mean time from sending to end."""
    world = served(Server(), Load("poisson", 8), duration_s=200.0)
    found = world.figures()
    ended = [o for o in world.outcomes if o.failure is None]
    mean_s = np.mean([o.ended_s - (o.sent_s or 0.0) for o in ended])
    assert found.mean_in_flight == pytest.approx((found.requests_per_s.value or 0) * mean_s, 0.05)


def test_a_client_that_sends_30_ms_late_made_the_figures():
    """The median first token takes 80 ms; 5 % of it is less than 10 ms."""
    found = served(Server(), Load("poisson", 4), lag_s=0.030).figures()
    assert found.verdict == "client_bound"
    assert found.send_lag_p99_s == pytest.approx(0.030)
    assert found.remarks[0].startswith("1 % of the requests were sent over 30 ms late")


@pytest.mark.parametrize(("prefill_s", "verdict"), [(0.5, "client_bound"), (0.7, "steady")])
def test_a_lag_of_5_percent_of_the_median_first_token_is_no_matter(prefill_s, verdict):
    """30 ms are more than 5 % of 0.53 s, and less than 5 % of 0.73 s."""
    server = Server(slots=50, prefill_s=prefill_s)
    assert served(server, Load("poisson", 4), lag_s=0.030).figures().verdict == verdict


def test_a_request_that_was_never_sent_lagged_until_it_was_given_up():
    world = served(Server(), Load("poisson", 4))
    end_s = BEGIN_S + 60
    stuck = [
        replace(o, sent_s=None, ended_s=end_s, chunks=[], failure="unfinished")
        if o.scheduled_s > end_s - 5
        else o
        for o in world.outcomes
    ]
    found = replace(world, outcomes=stuck).figures()
    assert found.verdict == "client_bound"
    assert (found.send_lag_p99_s or 0) > 1


def test_a_client_that_is_stopped_in_a_closed_loop_made_the_figures():
    world = served(Server(), Load("closed", 4))
    stopped = [s for s in world.seconds if not BEGIN_S + 45 < s.time_s < BEGIN_S + 50]
    found = replace(world, seconds=stopped).figures()
    assert found.verdict == "client_bound"
    assert found.remarks[0].startswith("Our client stood still for 4 s of the window")


def test_a_client_that_stands_still_until_the_window_ends_made_the_figures():
    world = served(Server(), Load("closed", 4))
    last_s = world.slices[-1].end_s
    seconds = [s for s in world.seconds if s.time_s < last_s - 5]
    late = replace(world.seconds[-1], time_s=last_s + 20)
    for told in (seconds, [*seconds, late]):
        found = replace(world, seconds=told).figures()
        assert found.verdict == "client_bound"
        assert found.remarks[0].startswith("Our client stood still for ")


def test_halves_that_differ_are_unsteady():
    """The GPU is throttled: 20 W less in the second half of the window."""
    world = served(Server(), Load("closed", 4), duration_s=90.0)
    throttled = [
        replace(one, energy=replace(one.energy, value=one.energy.number - 40.0))
        if one.start_s > BEGIN_S + 67
        else one
        for one in world.slices
    ]
    found = replace(world, slices=throttled).figures()
    assert found.verdict == "unsteady"
    assert "Tokens a second or watts changed during the window." in found.remarks
    assert world.figures().verdict == "steady"


def test_halves_that_differ_by_less_than_1_percent_are_alike():
    """The server is so regular that its error is far below 0.6 %."""
    world = served(Server(), Load("closed", 4), duration_s=90.0)
    drifted = [
        replace(one, energy=replace(one.energy, value=one.energy.number * 0.994))
        if one.start_s > BEGIN_S + 70
        else one
        for one in world.slices
    ]
    assert replace(world, slices=drifted).figures().verdict == "steady"


def test_a_load_whose_slots_never_ended_a_request_is_not_steady():
    """The second of 2 requests at once is stuck: the others are those of the second half."""
    world = served(Server(slots=2), Load("closed", 2))
    stuck = Outcome(1, BEGIN_S, BEGIN_S, BEGIN_S + 60, failure="unfinished")
    outcomes = [world.outcomes[0], stuck, *world.outcomes[2:]]
    found = replace(world, outcomes=outcomes).figures()
    assert found.verdict == "unsteady"
    assert found.warm_up_s == pytest.approx(30, abs=2)
    assert found.remarks[0].startswith("The load did not become steady")


def test_requests_as_regular_as_a_clock_are_not_saturated():
    """All waits and numbers under way are equal, up to the rounding of their moments."""
    world = served(Server(), Load("closed", 1))
    assert replace(world, load=Load("constant", 4.0)).figures().verdict == "steady"


def test_requests_of_one_queue_count_as_fewer_for_the_interval_of_their_median():
    """The median time in an M/D/1 system at 70 % is 86.5 ms for a service of 50 ms (2,000,000
    requests by Lindley's recursion). If requests counted as independent, 58 of 100 would hold it.
    """
    held = 0
    for seed in range(100):
        world = served(M_D_1, Load("poisson", 0.7 / SERVICE_S), seed=seed, duration_s=60.0)
        p50 = world.figures().ttft_s.p50
        held += (p50.low or 0.0) <= 0.0865 <= (p50.high or 9.0)
    assert held >= 80
