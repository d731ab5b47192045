import math
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from pynvml import NVML_ERROR_TIMEOUT, NVMLError

from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import Reading, Sensor
from kdwatts.telemetry.window_edges import find_edge

GPU = Sensor("gpu", "GPU-0", "nvml_counter", limit_w=700, delta_s=0.06, max_gap_s=1)
PACKAGE = Sensor("cpu", "package-0", "rapl", limit_w=500, delta_s=0.001, max_gap_s=1)
PERIOD_S = 0.06


def gpu(
    *,
    query_s: float = 0.0,
    silent: Callable[[float], bool] = lambda _: False,
    looks_s: list[float] | None = None,
) -> Probe:
    """1 J more at every multiple of PERIOD_S; `looks_s` gets the moments of all looks."""
    looks_s = [] if looks_s is None else looks_s

    def read() -> Reading:
        asked_s = time.monotonic()
        time.sleep(query_s)
        now_s = time.monotonic()
        if silent(now_s):
            raise NVMLError(NVML_ERROR_TIMEOUT)
        looks_s.append((asked_s + now_s) / 2)
        return Reading(looks_s[-1], float(math.floor(now_s / PERIOD_S)))

    return Probe(GPU, index=0, read=read, read_edge=read)


def package() -> Probe:
    def read() -> Reading:
        return Reading(time.monotonic(), 0.0)

    return Probe(PACKAGE, index=0, read=read, read_edge=read)


@pytest.mark.parametrize(("query_s", "error_s"), [(0.0, 0.006), (0.015, 0.02)])
def test_an_edge_is_the_moment_of_the_counters_update(query_s, error_s):
    looks_s: list[float] = []
    probe, rapl = gpu(query_s=query_s, looks_s=looks_s), package()
    edge_s, tallies = find_edge([probe, rapl], threading.Lock())
    counter = tallies[probe].counter
    assert counter is not None and counter.energy_counter_j is not None
    # On a busy machine even the closest looks around an update may be further apart, and a look's
    # moment is the middle of its query, up to half of which is one more error.
    apart_s = min(b - a for a, b in pairwise(looks_s) if a <= edge_s <= b)
    error_s = max(error_s, 2 * apart_s)
    assert edge_s == pytest.approx(counter.energy_counter_j * PERIOD_S, abs=error_s)
    package_counter = tallies[rapl].counter
    assert package_counter is not None
    assert edge_s - error_s <= package_counter.time_s <= edge_s + error_s + 0.25


def test_a_gpu_that_fails_for_a_moment_is_waited_for():
    until_s = time.monotonic() + 0.1
    probe = gpu(silent=lambda now_s: now_s < until_s)
    probe.update()
    probe._tally = type(probe.tally)(counter=Reading(until_s - 0.2, 0.0))
    edge_s, tallies = find_edge([probe], threading.Lock())
    assert probe in tallies
    assert until_s < edge_s < until_s + 2 * PERIOD_S + 0.5


def test_a_gpu_that_is_lost_is_asked_once():
    asked: list[float] = []
    probe = gpu(silent=lambda now_s: asked.append(now_s) is None)
    begin_s = time.monotonic()
    edge_s, tallies = find_edge([probe], threading.Lock())
    assert len(asked) == 1
    assert tallies == {}
    assert begin_s <= edge_s < begin_s + 0.5
