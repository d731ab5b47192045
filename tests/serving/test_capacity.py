"""The search for the greatest rate that keeps an SLO, on loads whose shares are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kdwatts.config.serving import Slo
from kdwatts.records.serving_record import Figure, ServingPoint
from kdwatts.serving.capacity import find_capacity, keeps_slo
from kdwatts.serving.load.requests import Load
from tests.serving.measure.simulated_server import Server, served


def _point(
    rate: float, share: float, attempts: int = 1000, verdict: str = "steady"
) -> ServingPoint:
    figure = Figure(share)
    return ServingPoint("poisson", rate, verdict, completed=attempts, good_share=figure)


def _up_to(limit_per_s: float) -> Callable[[float], ServingPoint]:
    return lambda rate: _point(rate, 1.0 if rate <= limit_per_s else 0.5)


@pytest.mark.parametrize("limit_per_s", [1.0, 3.3, 7.0, 11.9, 15.0])
def test_the_capacity_is_within_5_percent_below_the_limit(limit_per_s):
    found = find_capacity(_up_to(limit_per_s), low_per_s=0.5, high_per_s=16, max_tries=12)
    assert found.verdict == "found"
    assert found.requests_per_s is not None and found.first_too_much_per_s is not None
    assert limit_per_s / 1.05 <= found.requests_per_s <= limit_per_s < found.first_too_much_per_s
    assert found.first_too_much_per_s <= 1.05 * found.requests_per_s


def test_the_search_doubles_then_bisects():
    """From the middle of 1 and 16: 4, 8, 16, then between 8 and 16."""
    found = find_capacity(_up_to(11.0), low_per_s=1, high_per_s=16, max_tries=5)
    assert [point.level for point in found.tried] == [4, 8, 16, 12, 10]
    assert (found.requests_per_s, found.first_too_much_per_s) == (10, 12)


def test_no_more_than_the_tries_are_used():
    found = find_capacity(_up_to(11.0), low_per_s=1, high_per_s=16)
    assert len(found.tried) <= 8


def test_a_server_that_keeps_every_rate_is_above():
    found = find_capacity(_up_to(99.0), low_per_s=1, high_per_s=16)
    assert (found.verdict, found.requests_per_s) == ("above", 16)
    assert found.first_too_much_per_s is None


def test_a_server_that_keeps_no_rate_has_no_capacity():
    found = find_capacity(_up_to(0.1), low_per_s=1, high_per_s=16)
    assert (found.verdict, found.requests_per_s, found.first_too_much_per_s) == ("none", None, 1)


def test_shares_that_few_requests_leave_open_decide_nothing():
    """All of 100 attempts: the lower bound is 0.970."""
    found = find_capacity(lambda rate: _point(rate, 1.0, 100), low_per_s=1, high_per_s=16)
    assert (found.verdict, found.requests_per_s) == ("undecided", None)
    assert found.first_too_much_per_s is None
    assert len(found.tried) == 1  # Lower rates would have fewer requests still.
    assert found.remark == (
        "100 requests ended in the window at 4 requests/s, but 299 are needed; give max_window_s "
        "of about 113 s"
    )


def test_a_search_below_a_curve_that_lacked_requests_measures_nothing():
    known = [_point(2, 1.0, 50), _point(1, 1.0, 25)]
    found = find_capacity(_up_to(5.0), low_per_s=0.125, high_per_s=4, known=known)
    assert (found.verdict, found.tried) == ("undecided", [])
    assert found.remark == (
        "50 requests ended in the window at 2 requests/s, but 299 are needed; give max_window_s "
        "of about 225 s"
    )


def test_rates_of_the_curve_that_decide_are_not_measured_again():
    known = [_point(4, 1.0), _point(8, 0.5), _point(6, 1.0, 100)]
    found = find_capacity(_up_to(5.0), low_per_s=1, high_per_s=16, max_tries=3, known=known)
    assert [point.level for point in found.tried] == [6, 5, 5.5]
    assert (found.requests_per_s, found.first_too_much_per_s) == (5, 5.5)


def test_an_open_rate_counts_as_not_kept():
    """7 of 1000 miss above 5: the bounds are 0.987 and 0.997. 8 is decided before they are seen."""

    def measure(rate: float) -> ServingPoint:
        return _point(rate, 1.0 if rate <= 5 else 0.993 if rate < 8 else 0.9)

    found = find_capacity(measure, low_per_s=1, high_per_s=16, max_tries=10)
    assert (found.verdict, found.first_too_much_per_s) == ("found", 8)
    assert 5 / 1.05 <= (found.requests_per_s or 0) <= 5


def test_a_good_rate_below_open_ones_alone_is_undecided():
    def measure(rate: float) -> ServingPoint:
        return _point(rate, 1.0 if rate <= 6 else 0.993)

    found = find_capacity(measure, low_per_s=1, high_per_s=16)
    assert (found.verdict, found.first_too_much_per_s) == ("undecided", None)
    assert found.requests_per_s is not None and found.requests_per_s <= 6


@pytest.mark.parametrize(("misses", "attempts", "kept"), [(0, 299, True), (0, 298, None)])
def test_299_attempts_without_a_miss_keep_the_slo(misses, attempts, kept):
    assert keeps_slo(_point(1.0, 1 - misses / attempts, attempts)) is kept


def test_half_a_miss_among_299_independent_attempts_is_not_rounded_away():
    """5 of 3000 attempts, which count as 299: the lower bound of 0.5 misses is 0.987."""
    point = replace(_point(1.0, 1 - 5 / 3000, 3000), independent_attempts=299)
    assert keeps_slo(point) is None
    assert keeps_slo(replace(point, good_share=Figure(1.0))) is True


@pytest.mark.parametrize(
    ("verdict", "kept"),
    [("saturated", False), ("failed", False), ("client_bound", None), ("unsteady", True)],
)
def test_a_queue_without_end_keeps_nothing_and_a_late_client_tells_nothing(verdict, kept):
    assert keeps_slo(_point(1.0, 1.0, verdict=verdict)) is kept


def test_a_window_in_which_nothing_was_due_tells_nothing():
    assert keeps_slo(ServingPoint("poisson", 0.01, "failed")) is None


def test_a_point_without_an_slo_is_undecided():
    assert keeps_slo(ServingPoint("poisson", 1.0, "steady", completed=1000)) is None


def test_rates_out_of_order_are_refused():
    with pytest.raises(ValueError, match="give 0 < low_per_s <= high_per_s and at least one try"):
        find_capacity(_up_to(1.0), low_per_s=2, high_per_s=1)


def test_a_computed_server_of_4_slots_is_found_below_what_its_slots_can_serve():
    """4 slots of 0.24 s serve 16.7 requests a second; waits below 0.5 s need somewhat less."""
    server, slo = Server(), Slo(ttft_p99_s=0.5)

    def measure(rate: float) -> ServingPoint:
        world = served(server, Load("poisson", rate), duration_s=150.0, seed=int(1000 * rate))
        return world.figures(slo)

    found = find_capacity(measure, low_per_s=1, high_per_s=64)
    assert found.verdict == "found"
    assert 8 < (found.requests_per_s or 0) < 16.7
    assert (found.first_too_much_per_s or 0) > (found.requests_per_s or 0)


def test_neighbours_that_wait_alike_do_not_make_a_rate_good():
    """A queue of one slot of 20 ms at 38 a second keeps 0.15 s to the first token in 0.980 of all
    cases. Counted as independent, 40 s of requests call that good for 35 of 100 seeds."""
    server = Server(slots=1, prefill_s=0.01, gap_s=0.005, output_tokens=lambda _: 3)
    kept = [
        keeps_slo(
            served(server, Load("poisson", 38), duration_s=40.0, seed=seed).figures(
                Slo(ttft_p99_s=0.15)
            )
        )
        for seed in range(30)
    ]
    assert kept.count(True) <= 2
    assert kept.count(None) > kept.count(True)


def test_a_queue_that_seldom_forms_is_decided_by_few_requests():
    server = Server(slots=1, prefill_s=0.01, gap_s=0.005, output_tokens=lambda _: 3)
    figures = served(server, Load("poisson", 15), duration_s=120.0, seed=1).figures(
        Slo(ttft_p99_s=0.15)
    )
    assert keeps_slo(figures) is True
    assert figures.independent_attempts and figures.independent_attempts >= 299
