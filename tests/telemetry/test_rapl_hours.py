"""Hours of RAPL on a fake tree whose time is the test's own: exact, or null with a reason."""

import math
import random

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.telemetry import discovery
from kdwatts.telemetry.energy import span
from kdwatts.telemetry.node_share import Allocation
from kdwatts.telemetry.parts import Part, component

RANGE_J = 262_143.328850
"""Of the packages of most servers; at 400 W it is passed every 11 minutes."""
HOUR_S = 3600


class Node:
    """Two sockets with memory, on a clock that the test turns."""

    def __init__(self, powercap, monkeypatch) -> None:
        self.time_s = 0.0
        self.tree = powercap
        self.energy_j = {"intel-rapl:0": 262_000.0, "intel-rapl:1": 5.0}
        self.energy_j |= {"intel-rapl:0:0": 17.0, "intel-rapl:1:0": 100_000.0}
        self.drawn_j = dict.fromkeys(self.energy_j, 0.0)
        for zone, energy_j in self.energy_j.items():
            name = f"package-{zone[-1]}" if len(zone) == 12 else "dram"
            powercap.add(zone, name, energy_j=energy_j, range_j=RANGE_J)
        powercap.add("intel-rapl:0:1", "core", energy_j=1.0, range_j=RANGE_J)
        powercap.add("intel-rapl:2", "psys", energy_j=1.0, range_j=RANGE_J)
        monkeypatch.setattr(discovery.time, "monotonic", lambda: self.time_s)
        settings = Telemetry(interval_s=1.0, rapl_root=str(powercap.root))
        found = discovery.find_probes([], settings, Allocation(2, 2))
        self.probes = found.devices
        self.read()
        self.starts = {probe: probe.tally for probe in self.probes}

    def pass_s(self, elapsed_s: float, power_w: dict[str, float]) -> None:
        self.time_s += elapsed_s
        for zone, zone_w in power_w.items():
            # Whole microjoules, so that the sum of the steps is the counter's.
            step_j = round(zone_w * elapsed_s, 6)
            self.drawn_j[zone] += step_j
            self.energy_j[zone] = (self.energy_j[zone] + step_j) % RANGE_J
            self.tree.set(zone, self.energy_j[zone])
        for zone in ("intel-rapl:0:1", "intel-rapl:2"):
            self.tree.set(zone, (1 + 500 * self.time_s) % RANGE_J)

    def read(self) -> None:
        for probe in self.probes:
            probe.update()

    def part(self, kind: str) -> Part:
        spans = [
            span(probe.sensor, self.starts[probe], probe.tally)
            for probe in self.probes
            if probe.sensor.kind == kind
        ]
        return component(spans, self.time_s)

    def close(self) -> None:
        for probe in self.probes:
            probe.close()


@pytest.fixture
def node(powercap, monkeypatch):
    node = Node(powercap, monkeypatch)
    yield node
    node.close()


def powers_w(time_s: float) -> dict[str, float]:
    """A day's swing on two sockets, never the same on both, and memory beside them."""
    return {
        "intel-rapl:0": 300 + 200 * math.sin(time_s / 700),
        "intel-rapl:1": 250 + 150 * math.cos(time_s / 300),
        "intel-rapl:0:0": 20.0,
        "intel-rapl:1:0": 25.0,
    }


def test_three_hours_with_tens_of_wraps_and_read_errors_are_exact_to_a_millijoule(node):
    chance = random.Random(0)
    package = node.tree.root / "intel-rapl:1" / "energy_uj"
    for second in range(0, 3 * HOUR_S, 2):
        node.pass_s(2.0, powers_w(second))
        if chance.random() < 0.05:
            held = package.read_bytes()
            package.write_bytes(b"")
            node.read()
            package.write_bytes(held)
        else:
            node.read()
    node.read()
    num_wraps = sum(drawn_j // RANGE_J for drawn_j in node.drawn_j.values())
    assert num_wraps > 20
    cpu, dram = node.part("cpu"), node.part("dram")
    packages_j = node.drawn_j["intel-rapl:0"] + node.drawn_j["intel-rapl:1"]
    assert cpu.energy_j == pytest.approx(packages_j, abs=1e-3)
    assert dram.energy_j == pytest.approx(
        node.drawn_j["intel-rapl:0:0"] + node.drawn_j["intel-rapl:1:0"], abs=1e-3
    )
    assert (cpu.quality, cpu.coverage, cpu.reason) == ("measured", 1, None)


def test_a_silence_in_which_the_counter_may_have_wrapped_twice_is_null_with_the_reason(node):
    for second in range(600):
        node.pass_s(1.0, powers_w(second))
        node.read()
    # Twenty minutes at 400 W pass the range nearly twice: nobody can tell how often.
    node.pass_s(20 * 60, dict.fromkeys(node.energy_j, 400.0))
    for second in range(600):
        node.pass_s(1.0, powers_w(second))
        node.read()
    part = node.part("cpu")
    assert part.energy_j is None
    assert part.quality == "missing"
    assert "intel-rapl:0 package-0" in (part.reason or "")
    assert "1201.0 s" in (part.reason or "")


def test_a_jump_past_belief_is_left_out_and_said(node):
    for second in range(201):
        jumps = {"intel-rapl:0": 50_000.0} if second == 100 else powers_w(second)
        node.pass_s(1.0, jumps)
        node.read()
    cpu = node.part("cpu")
    packages_j = node.drawn_j["intel-rapl:0"] + node.drawn_j["intel-rapl:1"]
    assert cpu.energy_j == pytest.approx(packages_j - 50_000, abs=1e-3)
    assert "reset: 1 counter differences refused" in (cpu.reason or "")
    assert "intel-rapl:0 package-0 1.0 s" in (cpu.reason or "")
    assert (cpu.coverage or 1) < 1
