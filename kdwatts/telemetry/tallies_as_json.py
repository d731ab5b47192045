"""A meter's devices, and its edges, as JSON: what a host says about its own tallies.

A tally is what a device used since the meter started. It is read at a moment of its own host's
clock, and so is the edge. Whoever asks takes differences of two edges, as the meter itself does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from kdwatts.telemetry.energy import Tally
from kdwatts.telemetry.nvml import Device
from kdwatts.telemetry.readings import Sensor

PROTOCOL = 2
"""Number of these forms. A meter that states another one is not asked."""

_SUMS = (
    *("counted_j", "counted_s", "filled_j", "filled_s", "sampled_j", "sampled_s"),
    *("sampled_var_j2", "checked_counter_j", "checked_sampled_j"),
    *("num_resets", "num_refused", "still_s"),
)
"""Fields of a Tally that a difference takes. The others carry on the tally itself."""

_WITHOUT_END = ("limit_w", "max_gap_s")
"""Of a sensor that is a model these have no bound, which JSON writes as null."""


@dataclass(frozen=True)
class MeterAbout:
    """A meter on another host, as long as it runs."""

    meter_id: str
    """Drawn anew at each start: tallies of two starts have no difference."""
    host: str
    cpu: str
    gpus: list[Device]
    sensors: list[Sensor]
    """One for each device, in the order of the tallies."""
    absent: dict[str, str]
    """Component to the reason why it has no figure."""
    attributed: list[str]
    """Components of which the meter's job has a part of the node's."""
    idle_power_w: dict[str, float | None]
    idle_w_of_gpu: dict[str, float]
    """UUID to the W of that GPU while it was idle. Empty where that was not measured."""


class HostEdge(NamedTuple):
    """One moment of a host, and what its devices had used by then."""

    meter_id: str
    time_s: float
    """Monotonic seconds of that host."""
    utc: str
    """What its wall clock said, for a reader of the trace. Nothing is computed from it."""
    tallies: list[Tally]
    """In the order of the sensors. Of a silent device, what it had used when it last answered."""
    silent: list[int]
    """Numbers of the devices that gave no reading at this edge."""
    job_cpu_s: float
    """CPU seconds of the meter's job until then."""
    processes_cpu_s: float | None
    """CPU seconds of the processes that it was told; None without any, or where they ended."""
    notes: dict[str, str | None]
    """Component to who else uses it."""
    ended: str | None
    """Why nothing is sampled any more; None where something is."""
    power_w: float | None
    """What the devices drew at the last tick, together; None where that is not known."""


def about_to_json(about: MeterAbout) -> dict[str, Any]:
    """The meter in JSON's types."""
    values = {**asdict(about), "protocol": PROTOCOL}
    values["sensors"] = [_sensor_to_json(one) for one in about.sensors]
    return values


def about_from_json(values: Mapping[str, Any]) -> MeterAbout:
    """The meter of an answer. Raises ValueError, KeyError or TypeError for what is none."""
    if values["protocol"] != PROTOCOL:
        raise ValueError(f"it has protocol {values['protocol']}, and this version {PROTOCOL}")
    given = {one.name: values[one.name] for one in fields(MeterAbout)}
    given["gpus"] = [Device(**gpu) for gpu in values["gpus"]]
    given["sensors"] = [_sensor_from_json(one) for one in values["sensors"]]
    return MeterAbout(**given)


def edge_to_json(edge: HostEdge) -> dict[str, Any]:
    """The edge in JSON's types."""
    tallies = [{name: getattr(one, name) for name in _SUMS} for one in edge.tallies]
    return {**edge._asdict(), "tallies": tallies}


def edge_from_json(values: Mapping[str, Any]) -> HostEdge:
    """The edge of an answer. Raises KeyError or TypeError for what is none."""
    given = {name: values[name] for name in HostEdge._fields}
    given["tallies"] = [Tally(**{name: one[name] for name in _SUMS}) for one in values["tallies"]]
    return HostEdge(**given)


def _sensor_to_json(sensor: Sensor) -> dict[str, Any]:
    values = asdict(sensor)
    return {name: None if value == math.inf else value for name, value in values.items()}


def _sensor_from_json(values: Mapping[str, Any]) -> Sensor:
    given = dict(values)
    for name in _WITHOUT_END:
        given[name] = math.inf if given[name] is None else given[name]
    return Sensor(**given)
