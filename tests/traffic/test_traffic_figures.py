"""Figures of traffic, worked by hand."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from kdwatts.metrics.fleet import Stretch
from kdwatts.traffic.logged_request import LoggedRequest
from kdwatts.traffic.logs import summary
from kdwatts.traffic.traffic_figures import traffic_of
from kdwatts.traffic.traffic_summary import TokenLengths, TrafficSummary


def _traffic(*requests: LoggedRequest) -> TrafficSummary:
    return traffic_of(requests, log_format="kdwatts", sha256="", num_left_out=0)


def _at(*times_s: float) -> TrafficSummary:
    return _traffic(*(LoggedRequest(t_s, 1, 1) for t_s in times_s))


def test_the_summary_of_a_log_by_hand(tmp_path: Path):
    path = tmp_path / "log.csv"
    path.write_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type\n"
        "100,a,1,m,10,1,11,x\n102,b,1,m,20,2,22,x\n103,a,1,m,60,0,60,x\n106,a,1,m,60,6,66,x\n"
    )
    # 3 requests at 0, 2 and 6 s: a mean gap of 3 s, so 9 s. Gaps of 2 and 4 s deviate by sqrt(2).
    assert summary(path) == TrafficSummary(
        log_format="burstgpt",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        num_requests=3,
        num_left_out=1,
        span_s=9.0,
        hours=(Stretch(9.0, 3 / 9),),
        peak_rate_per_s=3 / 9,
        peak_span_s=9.0,
        dispersion=None,
        gap_cv=math.sqrt(2) / 3,
        prompt_tokens=TokenLengths(30.0, 20.0, 60.0, 60.0),
        output_tokens=TokenLengths(3.0, 2.0, 6.0, 6.0),
        num_sessions=2,
    )
    assert summary(path).rate_per_s == 3 / 9


def test_hours_add_up_to_all_requests_and_the_last_may_be_short():
    # 5 requests at 0 to 7200 s: a mean gap of 1800 s, so 9000 s in all.
    found = _at(0.0, 1.0, 3600.0, 7199.0, 7200.0)
    assert found.hours == (
        Stretch(3600.0, 2 / 3600),
        Stretch(3600.0, 2 / 3600),
        Stretch(1800.0, 1 / 1800),
    )


def test_three_requests_in_the_second_after_an_hour_are_no_busiest_hour():
    # One in 10 s for an hour, then 3 within 0.2 s: as an hour of their own they would be 0.3 a
    # second and more, where the busiest 300 s have 0.11.
    found = _at(*range(0, 3600, 10), 3600.0, 3600.1, 3600.2)
    span_s = 3600.2 * 363 / 362
    (hour,) = found.hours
    assert (hour.duration_s, hour.rate_per_s) == pytest.approx((span_s, 363 / span_s))
    assert hour.rate_per_s < found.peak_rate_per_s == 32 / 300


def test_the_peak_is_the_fullest_300_s_wherever_it_begins():
    # 290, 300 and 589.9 lie within 300 s; 590 does not.
    found = _at(0.0, 290.0, 300.0, 589.9, 590.0, 5000.0)
    assert (found.peak_span_s, found.peak_rate_per_s) == (300.0, 3 / 300)


def test_one_request_each_second_has_no_dispersion_and_bursts_have_a_known_one():
    assert _at(*range(31)).dispersion == 0.0
    # 41 s with 4, 0, 0, 0 ten times and then 1: mean 1, variance (10 x 9 + 30 x 1) / 40.
    bursts = [float(second) for second in range(0, 40, 4) for _ in range(4)]
    assert _at(*bursts, 40.0).dispersion == pytest.approx(3.0)


def test_poisson_arrivals_have_a_dispersion_and_a_gap_cv_of_1():
    times_s = np.random.default_rng(0).exponential(0.25, 20_000).cumsum()
    found = _at(*(times_s - times_s[0]).tolist())
    assert found.dispersion == pytest.approx(1.0, abs=0.05)
    assert found.gap_cv == pytest.approx(1.0, abs=0.05)


def test_a_day_whose_rate_changes_by_the_hour_does_not_come_in_bursts():
    """An hour of a request each 0.5 s and an hour of one each 2 s: their rates differ, no more."""
    busy, quiet = np.arange(0.0, 3600.0, 0.5), np.arange(3600.0, 7200.0, 2.0)
    found = _at(*busy.tolist(), *quiet.tolist())
    # 7,198 s: each of the busy ones has 2 requests, of the 3,598 quiet ones half have 1.
    assert found.dispersion == pytest.approx(3598 / 4 / (7198 - 2) / (8999 / 7198))
    # The rate of an hour is its requests over its seconds: the last one has 1,798 whole gaps.
    assert found.gap_cv == pytest.approx(0.0, abs=1e-3)


def test_what_the_log_does_not_say_is_none():
    found = _traffic(
        LoggedRequest(0.0, None, None, prompt="a"), LoggedRequest(1.0, None, None, prompt="b")
    )
    assert (found.prompt_tokens, found.output_tokens, found.num_sessions) == (None, None, None)
    assert found.gap_cv is None


def test_a_request_without_a_session_is_one_of_its_own_beside_others():
    requests = [LoggedRequest(float(t_s), 1, 1, name) for t_s, name in enumerate("aab")]
    assert _traffic(*requests, LoggedRequest(3.0, 1, 1)).num_sessions == 3


def test_requests_of_one_moment_have_no_rate():
    with pytest.raises(ValueError, match="2 requests of one moment"):
        _at(0.0, 0.0)


@pytest.mark.parametrize("last_s", [1.7e9, 1.7e18, math.inf])
def test_a_log_that_mixes_two_clocks_is_refused_before_its_seconds_are_counted(last_s: float):
    with pytest.raises(ValueError, match="more than ten years; give all moments by one clock"):
        _at(0.0, last_s)


def test_a_year_with_one_request_has_a_dispersion_of_1_or_nearly():
    # Of n counts all but one are 0: variance (1 - 1 / n) / (n - 1) is the mean, 1 / n.
    assert _at(0.0, 3.0e7).dispersion == pytest.approx(1.0)
