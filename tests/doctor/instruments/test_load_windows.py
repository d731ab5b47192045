"""What the counter of a window is worth, from its edges."""

from __future__ import annotations

import pytest

from kdwatts.doctor.instruments.load_windows import Joules, LoadWindow, _closed, joules
from kdwatts.metrics.quantity import Quantity
from kdwatts.telemetry.energy import Tally, advance
from kdwatts.telemetry.open_window import OpenWindow
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import Reading, Sensor
from kdwatts.telemetry.window_edges import Edge

SENSOR = Sensor("gpu", "GPU-1", "nvml_counter", limit_w=700, delta_s=0.02, max_gap_s=0.3)


PROBE = Probe(SENSOR, 0, lambda: Reading(0.0, 0.0), lambda: Reading(0.0, 0.0))


def window_of(start: Edge, end: Edge) -> LoadWindow:
    return LoadWindow("run/full", 1.0, start, end, 0, 0.0, None)


def of_2_s_at_500_w(*, looked_late_s: float, others_s: float = 0.0) -> Joules:
    """A window whose second edge was looked at late; other GPUs move both edges."""
    start = advance(Tally(), Reading(10.0, 1000.0, 500.0), SENSOR)
    end = advance(start, Reading(12.0 + looked_late_s, 2000.0, 500.0), SENSOR)
    edges = Edge(10.0 + others_s, {PROBE: start}), Edge(12.0 + others_s, {PROBE: end})
    found = joules(window_of(*edges), [PROBE])
    assert found is not None
    return found


def test_a_late_look_at_an_edge_is_in_the_deviation_and_an_edge_shifted_by_others_is_not():
    # P delta / sqrt(6)
    assert of_2_s_at_500_w(looked_late_s=0.0).counter_sd_j == pytest.approx(500 * 0.02 / 6**0.5)
    # Anywhere within 0.1 s: P w / sqrt(3) beside it.
    late = of_2_s_at_500_w(looked_late_s=0.1)
    assert late.counter_sd_j == pytest.approx(500 * (0.02**2 / 6 + 0.1**2 / 3) ** 0.5)
    both = of_2_s_at_500_w(looked_late_s=0.0, others_s=0.08)
    assert both.counter_sd_j == pytest.approx(500 * 0.02 / 6**0.5)


def test_a_device_that_was_silent_until_a_window_s_end_did_not_answer_in_it():
    """Its first answer stands for both edges: that is no counter that stood still."""
    answer = advance(Tally(), Reading(12.0, 1000.0, 500.0), SENSOR)
    silent = window_of(Edge(10.0, {PROBE: answer}), Edge(12.0, {PROBE: answer}))
    assert joules(silent, [PROBE]) is None
    stuck = advance(answer, Reading(14.0, 1000.0, 500.0), SENSOR)
    still = joules(window_of(Edge(12.0, {PROBE: answer}), Edge(14.0, {PROBE: stuck})), [PROBE])
    assert still is not None and still.counter_j == 0


def test_products_are_those_of_all_of_a_window_also_while_its_edge_waits():
    opened = OpenWindow("run/short", None, None, lambda edge: Quantity(0.0, unit="J"))
    opened.start, opened.end = Edge(10.0, {}), Edge(12.5, {})
    window = _closed(opened, 1.0, 2.0, 1300, 8.0, 0.004, has_clock=True)
    assert (window.num_done, window.busy_s) == (1625, 10.0)
    assert window.sampler_cpu_s == pytest.approx(0.005)


def test_a_counter_that_stood_still_or_fell_is_not_believed():
    window = of_2_s_at_500_w(looked_late_s=0.0)
    assert window.believed.counter_w == pytest.approx(500.0)
    for counter_j in (0.0, -5.0):
        lie = Joules(window.window, counter_j, 1000.0, 1.0, 1.0)
        assert (lie.believed.counter_j, lie.believed.sampled_j) == (None, 1000.0)
