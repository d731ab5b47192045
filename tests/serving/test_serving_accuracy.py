"""J/token under load against the power of the server; `tests.bench.serving_accuracy` prints it."""

from __future__ import annotations

import pytest

from tests.serving.accuracy_cases import cases
from tests.serving.known_power import LATENCY_S, OUTPUT_TOKENS, Result, measure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(nvml_dir, tmp_path_factory) -> dict[str, Result]:
    return measure(nvml_dir, tmp_path_factory.mktemp("accuracy") / "power", list(cases()))


def test_joules_per_token_are_within_1_percent_at_every_period_and_phase(measured):
    """But for tokens at the very edge of a window, which client and server put on other sides."""
    errors = {
        name: abs(one.point.j_per_token.value / one.true_j_per_token - 1) - one.share_at_edges
        for name, one in measured.items()
    }
    assert len(errors) == 18
    assert {name: error for name, error in errors.items() if error > 0.01} == {}


def test_joules_per_token_are_inside_the_stated_interval(measured):
    outside = {
        name: (one.point.j_per_token, one.true_j_per_token)
        for name, one in measured.items()
        if not one.point.j_per_token.low <= one.true_j_per_token <= one.point.j_per_token.high
    }
    assert outside == {}


def test_joules_per_request_are_over_the_requests_whose_end_is_in_the_servers_log(measured):
    wrong = {}
    for name, one in measured.items():
        from_s, to_s = one.sent[0].window_s
        # An answer is seen some milliseconds after its end: at most 20 before an edge.
        ends_s = [end_s for _, _, end_s in one.server["held"]]
        ended = sum(from_s <= end_s < to_s for end_s in ends_s)
        late = sum(0 < edge_s - end_s < 0.02 for edge_s in (from_s, to_s) for end_s in ends_s)
        requests = one.true_j(from_s, to_s) / one.point.j_per_request.value
        if abs(requests - ended) > late + 0.005 * ended:
            wrong[name] = (requests, ended, late)
    assert wrong == {}


def test_a_closed_loop_of_as_many_requests_as_slots_follows_the_closed_formula(measured):
    expected_j = (60 / 4 + 50) * LATENCY_S / OUTPUT_TOKENS
    closed = {name: one.point.j_per_output_token for name, one in measured.items() if "clo" in name}
    assert len(closed) == 6
    # The client's milliseconds between two requests leave a slot idle: they add P0's share of it.
    assert {
        name: figure.value for name, figure in closed.items() if figure.value < 0.99 * expected_j
    } == {}
    assert {
        name: figure.value for name, figure in closed.items() if figure.value > 1.02 * expected_j
    } == {}
    assert all(figure.low <= expected_j <= figure.high for figure in closed.values())


def test_mean_power_is_that_of_the_busy_slots(measured):
    wrong = {}
    for name, one in measured.items():
        from_s, to_s = one.sent[0].window_s
        expected_w = one.true_j(from_s, to_s) / (to_s - from_s)
        if one.point.power_w.value != pytest.approx(expected_w, rel=0.005):
            wrong[name] = (one.point.power_w.value, expected_w)
    assert wrong == {}
