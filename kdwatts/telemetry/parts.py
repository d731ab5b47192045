"""One component of one window: its energy, how it was obtained, and what is wrong with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kdwatts.metrics.quantity import Quantity
from kdwatts.metrics.window_energy import window_energy
from kdwatts.records.schema import COMPONENTS
from kdwatts.telemetry.energy import Span
from kdwatts.telemetry.readings import MAX_DELTA_S, most_w
from kdwatts.telemetry.uncertainty import gap_s, uncertainty_j

log = logging.getLogger(__name__)
_error_once = lru_cache(log.error)

QUALITY = {
    "nvml_counter": "measured",
    "nvml_samples": "measured",
    "rapl": "measured",
    "attributed": "attributed",
    "tdp_model": "estimated",
}

CALIBRATION = {
    # arXiv 2312.02741: 0.2-6 % on most GPUs.
    "nvml_counter": 0.05,
    "nvml_samples": 0.05,
    # Intel and AMD state no figure: taken as wide as the GPUs'.
    "rapl": 0.05,
    # Busy seconds of two jobs may differ in power by about a factor of two (vector units, memory
    # traffic, clock): a uniform error of half the figure either way has this deviation.
    "attributed": 0.3,
    # Deliberately wide: idle power, boost and instruction mix of the true CPU are unknown, and a
    # busy thread of an otherwise empty package draws far more than its share of the TDP.
    "tdp_model": 0.5,
}
"""Relative error of each method: one standard deviation."""

AGREEMENT = 0.02
"""Counter and power samples differ by less than this over 10 s or more. More is flagged."""

MIN_NVML_WINDOW_S = 2.0
"""Shorter windows get no energy. On an A100 the sd against an external meter is 28 % at 1 s."""

SHORT_NVML_WINDOW_S = 5.0
"""Shorter windows are flagged. On an A100 the sd is 18 % at 2 s and 1.7 % at 4 s."""

MIN_RAPL_COVERAGE = 0.99
"""With less coverage RAPL is missing: no power limit bounds what was not read."""

MAX_UNREAD_SHARE = 0.1
"""Of a window in which one GPU of a server was not read. With more the server has no joules."""


@dataclass(frozen=True)
class Part:
    """Energy of one component in one window, in J."""

    energy_j: float | None
    method: str | None
    quality: str
    uncertainty_j: float | None
    coverage: float | None
    sampled_energy_j: float | None = None
    net_energy_j: float | None = None
    """The energy less what the idle device would have drawn. None where idle power is unknown."""
    reason: str | None = None
    """Why it is missing or flagged."""
    shared_uncertainty_j: float | None = None
    """The part of `uncertainty_j` that all windows of this meter share: its calibration."""


def missing(reason: str) -> Part:
    """A component that was not measured."""
    return Part(None, None, "missing", None, None, reason=reason)


def component(
    spans: Sequence[Span],
    duration_s: float,
    *,
    idle_power_w: float | None = None,
    note: str | None = None,
) -> Part:
    """The energy of all devices of one kind between two moments, in J.

    Time that was not covered adds no energy. It widens the uncertainty and lowers `coverage`.
    `note` is a remark for every window, such as a shared GPU.
    """
    methods = {one.sensor.method for one in spans}
    doubts = _doubts(spans)
    method = "nvml_samples" if "nvml_samples" in methods else min(methods)
    is_nvml = method.startswith("nvml")
    if is_nvml and duration_s < MIN_NVML_WINDOW_S:
        return missing(
            f"window of {duration_s:.2f} s is shorter than {MIN_NVML_WINDOW_S:.0f} s, "
            "too short for the GPU's sensor"
        )
    gaps_s = [gap_s(one, duration_s) for one in spans]
    coverage = 1.0 if duration_s <= 0 else 1 - sum(gaps_s) / (len(spans) * duration_s)
    if not any(one.covered_s > 0 for one in spans):
        return missing(joined(f"{_labels(spans)} gave no valid readings in this window", *doubts))
    if method == "rapl" and coverage < MIN_RAPL_COVERAGE:
        uncovered = f"{_gaps(spans, gaps_s)} of {duration_s:.1f} s; RAPL has no limit to bound them"
        return missing(joined(uncovered, *doubts))
    believed, flag = cross_check(spans, duration_s) if is_nvml else (True, None)
    if not believed:
        _error_once(
            "telemetry: the counter of %s has the wrong unit, so its energy is not used",
            _labels(spans),
        )
        return missing(flag or "")
    remarks = [note, flag]
    if is_nvml and duration_s < SHORT_NVML_WINDOW_S:
        remarks.append(
            f"window below {SHORT_NVML_WINDOW_S:.0f} s: an A100's sensor errs by 18 % at 2 s"
        )
    if any(gaps_s):
        remarks.append(f"{_gaps(spans, gaps_s)} of {duration_s:.1f} s, not in energy_j")
    remarks += doubts
    sampled = any(one.sampled_s > 0 for one in spans)
    energy_j = sum(one.energy_j for one in spans)
    coverage = max(0.0, min(1.0, coverage))
    net_j = None if idle_power_w is None else energy_j - idle_power_w * coverage * duration_s
    return Part(
        energy_j=energy_j,
        method=method,
        quality=QUALITY[method],
        uncertainty_j=uncertainty_j(
            spans, duration_s, calibration=CALIBRATION[method], idle_power_w=idle_power_w
        ),
        coverage=coverage,
        sampled_energy_j=sum(one.sampled_j for one in spans) if sampled else None,
        # An idle window may draw less than the baseline. Its net energy is then 0.
        net_energy_j=None if net_j is None else max(0.0, net_j),
        reason=joined(*remarks) or None,
        shared_uncertainty_j=CALIBRATION[method] * energy_j,
    )


def of_window(
    spans: Mapping[str, Sequence[Span]],
    duration_s: float,
    *,
    absent: Mapping[str, str],
    attributed_kinds: Collection[str] = (),
    idle_power_w: Mapping[str, float | None] | None = None,
    notes: Mapping[str, str | None] | None = None,
    remark: str | None = None,
) -> dict[str, Part]:
    """Every component of one window, from the spans of its devices.

    `absent` says why a component has no device. Of `attributed_kinds` the job has a part, and the
    whole node stands beside it as `node_cpu`. `notes` are remarks on one component, `remark` is one
    on all of them.
    """

    def part(kind: str) -> Part:
        if not spans.get(kind):
            return missing(absent.get(kind, "not measured"))
        return component(
            spans[kind],
            duration_s,
            idle_power_w=(idle_power_w or {}).get(kind),
            note=(notes or {}).get(kind),
        )

    components: dict[str, Part] = {}
    for kind in COMPONENTS:
        one = part(kind)
        if kind in attributed_kinds:
            node = components[f"node_{kind}"] = part(f"node_{kind}")
            one = attributed(one, node)
        components[kind] = remarked(one, remark)
    return components


def of_every_gpu(part: Part, spans: Sequence[Span], duration_s: float) -> Part:
    """The joules of several GPUs, missing where one of them was not read: not those of the others.

    What a server draws on two GPUs would else be halved.
    """
    unread = [
        one.sensor.label
        for one in spans
        if gap_s(one, duration_s) > MAX_UNREAD_SHARE * duration_s or one.covered_s <= 0
    ]
    if part.energy_j is None or not unread:
        return part
    return missing(
        f"{', '.join(unread)} could not be read for a part of the window, and the joules of the "
        "other GPUs would pass for all"
    )


def skewed(part: Part, duration_s: float, skews_s: Sequence[float]) -> Part:
    """The part of a window whose edges another host's clock states, each within its skew in s.

    Up to P times the skew lies on the wrong side of an edge: u^2 += (P skew)^2 for each. It is a
    random error, and no calibration.
    """
    if part.energy_j is None or part.uncertainty_j is None or duration_s <= 0:
        return part
    power_w = part.energy_j / duration_s
    wrong_j = [power_w * skew_s for skew_s in skews_s]
    return replace(part, uncertainty_j=math.hypot(part.uncertainty_j, *wrong_j))


def remarked(part: Part, remark: str | None) -> Part:
    """The part with one more reason."""
    return replace(part, reason=joined(part.reason, remark)) if remark else part


def joined(*remarks: str | None) -> str:
    """The remarks as one text. Empty without any."""
    return "; ".join(remark for remark in remarks if remark)


def _doubts(spans: Sequence[Span]) -> list[str]:
    """What sensors said that is not believed."""
    doubts = [
        f"{one.num_refused} power sample{'s' * (one.num_refused > 1)} of {one.sensor.label} "
        f"refused: not between 0 and {most_w(one.sensor.limit_w):.4g} W"
        for one in spans
        if one.num_refused
    ]
    doubts += [
        f"counter of {one.sensor.label} stood still for {one.still_s:.1f} s, which is not counted"
        for one in spans
        if one.still_s > 0
    ]
    if resets := sum(one.num_resets for one in spans):
        doubts.append(f"reset: {resets} counter differences refused")
    return doubts


def cross_check(spans: Sequence[Span], duration_s: float) -> tuple[bool, str | None]:
    """Whether the counters can be believed, and what to say when power samples disagree.

    A difference of more than 2 % in windows of 10 s or more is flagged (5 % in shorter ones). A
    factor near 1000 is an error of units, and the figure is refused. Counters and samples are never
    averaged, because an A100's sensor sees only 25 of every 100 ms.
    """
    counter_j = sum(one.checked_counter_j for one in spans)
    sampled_j = sum(one.checked_sampled_j for one in spans)
    # Two updates may be under way.
    unseen_j = sum(2 * MAX_DELTA_S * most_w(one.sensor.limit_w) for one in spans)
    if counter_j <= 0 and sampled_j > unseen_j:
        return False, (
            f"counter does not move while power samples say {sampled_j:.4g} J over the same time; "
            "report the GPU and its driver"
        )
    if counter_j <= 0 or sampled_j <= 0:
        return True, None
    ratio = sampled_j / counter_j
    if not 1 / 500 < ratio < 500:
        return False, (
            f"counter says {counter_j:.4g} J, power samples {sampled_j:.4g} J over the same time: "
            "a factor near 1000 is an error of units; report the GPU and its driver"
        )
    tolerance = AGREEMENT if duration_s >= 10 else 0.05
    if abs(ratio - 1) > tolerance:
        return True, (
            f"power samples are {100 * (ratio - 1):+.1f} % off the counter "
            f"(more than {100 * tolerance:.0f} %)"
        )
    return True, None


def _labels(spans: Sequence[Span]) -> str:
    return ", ".join(one.sensor.label for one in spans)


def _gaps(spans: Sequence[Span], gaps_s: Sequence[float]) -> str:
    gaps = zip(spans, gaps_s, strict=True)
    return "not covered: " + ", ".join(
        f"{one.sensor.label} {gap:.1f} s" for one, gap in gaps if gap
    )


def attributed(share: Part, node: Part) -> Part:
    """The job's share of a component of the node. It is known no better than the node's whole."""
    if node.energy_j is None or share.energy_j is None:
        return missing(node.reason or share.reason or "")
    reason = joined(node.reason, share.reason) or None
    return replace(share, coverage=node.coverage, reason=reason)


def columns(parts: Mapping[str, Part]) -> dict[str, Any]:
    """The fields of a StageRow that hold one value per component.

    `node_cpu` is the whole node's CPU.
    """
    own = {kind: part for kind, part in parts.items() if kind in COMPONENTS}
    return {
        "energy_j": {kind: part.energy_j for kind, part in own.items()},
        "method": {kind: part.method for kind, part in own.items()},
        "quality": {kind: part.quality for kind, part in own.items()},
        "uncertainty_j": {kind: part.uncertainty_j for kind, part in own.items()},
        "shared_uncertainty_j": {kind: part.shared_uncertainty_j for kind, part in own.items()},
        "coverage": {kind: part.coverage for kind, part in own.items()},
        "sampled_energy_j": {kind: part.sampled_energy_j for kind, part in own.items()},
        "net_energy_j": {kind: part.net_energy_j for kind, part in own.items()},
        "node_energy_j": {
            kind.removeprefix("node_"): part.energy_j
            for kind, part in parts.items()
            if kind not in COMPONENTS
        },
        "reason": {kind: part.reason for kind, part in own.items() if part.reason},
    }


def total(parts: Mapping[str, Part]) -> Quantity:
    """Joules of the job's measured components together.

    Where none is measured, of the estimated ones.
    """
    return window_energy(columns(parts))
