"""The energy counters of the CPU (RAPL), or what stands in for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from kdwatts.config.machine import Telemetry
from kdwatts.doctor.instruments.counter_verdicts import LONGER, judged, signed, too_wide
from kdwatts.doctor.instruments.fast_looks import Changes, period_of
from kdwatts.doctor.instruments.load_windows import Joules
from kdwatts.doctor.instruments.noise_verdicts import idle_power
from kdwatts.metrics.student_t import mean_and_sd, to_half_width
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry.rapl import DELTA_S, Zone
from kdwatts.telemetry.readings import ACCEPTED_OVER_LIMIT

BENT_PCT, WRONG_BENT_PCT = 25.0, 50.0
"""Of full load. Cores that are few have higher clocks, so half of them draws more than half."""

WHOLE_SHARE = 0.5
"""Of the CPUs. A load on fewer, as a job's quota allows, may add less than what all draw idle."""

SLOW_S = 10 * DELTA_S
"""A counter this slow errs by more than the meter states for RAPL."""


def without_rapl(telemetry: Telemetry, reason: str, *, is_gpu_alone: bool) -> Iterator[Verdict]:
    """The verdicts where no counter of the CPU can be read. A GPU's joules may be enough alone."""
    remedy = "quote no joules of this CPU as measured; a host that shows RAPL would measure them"
    if "permission" in reason:
        remedy = "let the job read RAPL, as the verdict rapl says"
    yield Verdict("rapl_under_load", None, f"not looked at: {reason}")
    if telemetry.cpu_estimate == "tdp":
        yield Verdict(
            "cpu_energy",
            "attention",
            f"estimated, not measured: CPU time times {telemetry.cpu_tdp_w:.0f} W over "
            f"{telemetry.cpu_tdp_threads} threads ({telemetry.cpu_tdp_source})",
            "an energy counter; an estimate may be wrong by half",
            remedy,
        )
        return
    word = None if is_gpu_alone else "attention"
    found = "no energy of the CPU is known, measured or estimated"
    yield Verdict("cpu_energy", word, found, remedy=remedy)


def rapl_idle_power(idle: Sequence[Joules], full: Sequence[Joules], *, num_cpus: int) -> Verdict:
    """The verdict on the power of all packages without a load; `num_cpus` are those of the node."""
    verdict = idle_power(idle, full, name="rapl_idle_power")
    busy = [one.window.busy_s / one.window.duration_s for one in full]
    if verdict.verdict != "attention" or sum(busy) >= WHOLE_SHARE * num_cpus * len(busy):
        return verdict
    found = f"{verdict.found}, which kept {sum(busy) / len(busy):.1f} of {num_cpus} CPUs busy"
    return replace(verdict, verdict=None, found=found, against=None, remedy=None)


def rapl_period(changes: Changes) -> Verdict:
    """The verdict on the time between two updates of a counter."""
    period = period_of(changes)
    half_s = None if period is None else period.random_half_width
    if period is None or half_s is None:
        said = f"not known: the counter was seen to change {len(changes.times_s)} times"
        return Verdict("rapl_period", None, said)
    value, low, high = (
        1e3 * one for one in (period.number, period.number - half_s, period.number + half_s)
    )
    is_right = low <= 1e3 * SLOW_S
    return Verdict(
        "rapl_period",
        "right" if is_right else "attention",
        f"updated each {value:.1f} ms, as far as looks at it show",
        f"about 1 ms (Intel SDM vol. 3, section on RAPL), and {1e3 * SLOW_S:.0f} ms for attention",
        None if is_right else "give windows more time: each edge errs by up to one period",
        value=value,
        low=low,
        high=high,
        unit="ms",
    )


def rapl_linearity(
    idle: Sequence[Joules], half: Sequence[Joules], full: Sequence[Joules]
) -> Verdict:
    """The verdict on package power beside busy core-seconds of the node.

    It must rise with them, and half of the threads must lie near the line from none to all.
    """
    name = "rapl_linearity"
    against = f"rises with busy cores, within {BENT_PCT:.0f} % of full of a straight line"
    if not (idle and half and full) or any(one.counter_j is None for one in (*idle, *half, *full)):
        return Verdict(name, None, "not known: a package did not answer in some window")
    remedy = "do not trust this CPU's joules: it may be virtual; look at dmesg for RAPL"
    if any(one.counter_j == 0 for one in (*half, *full)):
        found = "the counter is stuck: it stood still for a whole window under load"
        return Verdict(name, "wrong", found, against, remedy)
    points = []
    for windows in (idle, half, full):
        cores = [one.window.busy_s / one.window.duration_s for one in windows]
        powers_w = [one.counter_w or 0.0 for one in windows]
        points.append((math.fsum(cores) / len(cores), math.fsum(powers_w) / len(powers_w)))
    (idle_cores, idle_w), (half_cores, half_w), (full_cores, full_w) = points
    levels = ", ".join(f"{power_w:.1f} W at {cores:.1f} busy cores" for cores, power_w in points)
    _, sd_w = mean_and_sd([one.counter_w or 0.0 for one in full])
    if full_cores - idle_cores < 0.5 or not half_cores > idle_cores:
        return Verdict(name, None, f"not known: other work kept the cores busy ({levels})")
    # Of one window; all levels are taken to spread alike.
    degrees = max(1, len(full) - 1)
    error_w = to_half_width((sd_w or 0.0) * math.sqrt(len(full)), degrees)
    if full_w + error_w < idle_w or half_w + error_w < idle_w - error_w:
        return Verdict(name, "wrong", f"falls while cores are busy: {levels}", against, remedy)
    line_w = idle_w + (full_w - idle_w) * (half_cores - idle_cores) / (full_cores - idle_cores)
    off_pct, error_pct = (100 * one / full_w for one in (half_w - line_w, 1.5 * error_w))
    low, high = off_pct - error_pct, off_pct + error_pct
    word = judged(off_pct, low, high, right=BENT_PCT, wrong=WRONG_BENT_PCT)
    found = f"half of the threads is {signed(off_pct)} % of full off the line: {levels}"
    if word is None:
        found, remedy = f"{found}; {too_wide(low, high)}", LONGER
    return Verdict(
        name,
        word,
        found,
        against,
        None if word == "right" else remedy,
        value=off_pct,
        low=low,
        high=high,
        unit="% of full load",
    )


def rapl_power(full: Sequence[Joules], zones: Sequence[Zone]) -> Verdict:
    """The verdict on package power under full load beside the limit of all packages."""
    name = "rapl_power"
    powers_w = [power_w for one in full if (power_w := one.counter_w) is not None]
    limits_w = [_limit_w(zone) for zone in zones if zone.kind == "cpu"]
    if not powers_w:
        return Verdict(name, None, "not known: no package answered")
    power_w = sum(powers_w) / len(powers_w)
    known_w = [limit_w for limit_w in limits_w if limit_w]
    if not known_w or len(known_w) < len(limits_w):
        found = f"{power_w:.1f} W under full load; the kernel states no limit of the packages"
        return Verdict(name, None, found, value=power_w, unit="W")
    limit_w = sum(known_w)
    word = "right" if power_w <= limit_w else "attention"
    if power_w > ACCEPTED_OVER_LIMIT * limit_w:
        word = "wrong"
    return Verdict(
        name,
        word,
        f"{power_w:.1f} W under full load of {limit_w:.0f} W",
        f"the packages' power limit, the higher of the long-term and the short-term one, and "
        f"{ACCEPTED_OVER_LIMIT:g} times it for wrong",
        None if word == "right" else "compare with a meter at the wall, or with the BMC's power",
        value=power_w,
        unit="W",
    )


def _limit_w(zone: Zone) -> float | None:
    """The higher of the zone's first two constraints in W; None where the first is not stated.

    They are the long-term and the short-term limit (Linux powercap). Intel lets the short-term one,
    often twice the other, last for up to a minute.
    """
    limits_w = []
    for number in (0, 1):
        path = zone.energy_path.parent / f"constraint_{number}_power_limit_uw"
        try:
            limits_w.append(float(path.read_text("utf-8")) * 1e-6)
        except (OSError, ValueError):
            break
    return max(limits_w, default=None)
