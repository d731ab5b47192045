"""The meter's sampler: what it costs, and whether it is let run when it is due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from kdwatts.doctor.instruments.load_windows import LoadPass, LoadWindow
from kdwatts.metrics.binomial import share_interval
from kdwatts.metrics.student_t import mean_and_half_width
from kdwatts.records.doctor_record import Verdict

COST_MS_PER_S = 10.0
"""1 % of a core. docs/benchmarks.md has 0.4 to 0.55 %, with counter, power and two RAPL zones."""

LOST_SHARE, STARVED_SHARE = 0.05, 0.2
"""Of the ticks that were due. The meter draws no line over three periods without a sample; at a
fifth lost at random, that is one gap in 125."""

REMEDY = (
    "give the job a core more than its threads (Slurm: --cpus-per-task), look at its CPU quota, "
    "and at code that keeps Python's lock"
)


def sampling(found: LoadPass, *kinds: str) -> Iterator[Verdict]:
    """The verdicts on the sampler, by the first device of these kinds that each tick reads."""
    yield sampler_cost(found.windows)
    probe = next((one for one in found.probes(*kinds) if one.every_tick), None)
    rows = [] if probe is None else found.rows(probe.sensor.kind)
    mine = [row for row in rows if probe and row["device_index"] == probe.index]
    yield sampler_rate([row["monotonic_s"] for row in mine], found.interval_s)


def sampler_cost(windows: Sequence[LoadWindow]) -> Verdict:
    """The verdict on the CPU time of the sampler's thread."""
    costs = [
        1e3 * one.sampler_cpu_s / one.duration_s
        for one in windows
        if one.sampler_cpu_s is not None and one.duration_s > 0
    ]
    if not costs:
        return Verdict("sampler_cost", None, "not known: the thread's CPU clock cannot be read")
    mean, half = mean_and_half_width(costs)
    low = None if half is None else max(0.0, mean - half)
    high = None if half is None else mean + half
    is_cheap = (mean if low is None else low) <= COST_MS_PER_S
    interval = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return Verdict(
        "sampler_cost",
        "right" if is_cheap else "attention",
        f"{mean:.1f} ms of CPU a second{interval}, {mean / 10:.2f} % of a core",
        f"{COST_MS_PER_S:.0f} ms/s; docs/benchmarks.md has 4 to 5.5",
        None
        if is_cheap
        else "set telemetry.interval_s=0.5, or look for slow queries of the driver",
        value=mean,
        low=low,
        high=high,
        unit="ms/s",
    )


def sampler_rate(times_s: Sequence[float], interval_s: float) -> Verdict:
    """The verdict on ticks that were lost, from the times in s at which one device was read."""
    if len(times_s) < 10:
        return Verdict(
            "sampler_rate", None, "not looked at: there is no sensor that is read at every tick"
        )
        return
    watched_s = times_s[-1] - times_s[0]
    num_due = max(1, round(watched_s / interval_s))
    num_lost = max(0, num_due - (len(times_s) - 1))
    apart_s = [after - before for before, after in pairwise(times_s)]
    num_late = sum(one_s > 1.5 * interval_s for one_s in apart_s)
    share = num_lost / num_due
    low, high = share_interval(num_lost, num_due) or (0.0, 1.0)
    word = "right"
    if low > STARVED_SHARE:
        word = "wrong"
    elif low > LOST_SHARE:
        word = "attention"
    return Verdict(
        "sampler_rate",
        word,
        f"{(num_due - num_lost) / watched_s:.1f} samples a second of {1 / interval_s:.0f}; "
        f"{num_lost} of {num_due} were lost, {100 * share:.1f} % ({100 * low:.1f} to "
        f"{100 * high:.1f} %), {num_late} were late, and the longest time without one was "
        f"{1e3 * max(apart_s):.0f} ms",
        f"{100 * LOST_SHARE:.0f} % lost, and {100 * STARVED_SHARE:.0f} % for wrong",
        None if word == "right" else REMEDY,
        value=100 * share,
        low=100 * low,
        high=100 * high,
        unit="%",
    )
