"""Power without a load, the spread of equal windows, and the window that one per cent takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import chdtri

from kdwatts.doctor.instruments.load_windows import NUM_EQUAL, Joules
from kdwatts.metrics.significant_digits import significant
from kdwatts.records.doctor_record import Verdict

NOISE_PCT, NOISE_S = 2.0, 4.0
"""Standard deviation of equal windows of so many seconds: an A100 has 1.7 % against an external
meter (arXiv 2312.02741). Shorter windows have more: the limit is that of white noise."""

ONE_PCT_WINDOW_S = 10.0
"""The window that docs/explanation/energy.md has for one per cent."""


def idle_power(idle: Sequence[Joules], full: Sequence[Joules], *, name: str) -> Verdict:
    """The verdict on the power without a load, beside that with one."""

    def mean_w(windows: Sequence[Joules]) -> float | None:
        powers_w = [
            one.sampled_w if one.sampled_w is not None else one.counter_w for one in windows
        ]
        known = [power_w for power_w in powers_w if power_w is not None]
        return sum(known) / len(known) if known else None

    idle_w, full_w = mean_w(idle), mean_w(full)
    if idle_w is None:
        return Verdict(name, None, "not known: no reading")
    if full_w is None:
        return Verdict(name, None, f"{idle_w:.4g} W", value=idle_w, unit="W")
    is_low = idle_w < full_w / 2
    return Verdict(
        name,
        "right" if is_low else "attention",
        f"{idle_w:.4g} W, and {full_w:.4g} W under full load",
        "half of the power under full load",
        None if is_low else "look for other processes on it, or for a load on another device",
        value=idle_w,
        unit="W",
    )


def noise(equal: Sequence[Joules], *, prefix: str, delta_s: float, least_s: float) -> list[Verdict]:
    """The spread of equal windows under full load, and the shortest window for one per cent.

    The standard deviation has the interval of chi-square: s sqrt((n-1) / q). Under white noise it
    falls as one over the root of the time, t = t0 (s / 1 %)^2. The counter's steps leave
    P delta / sqrt(6) whatever the time, so t is at least delta / (sqrt(6) 1 %).
    The meter tells nothing of a window below `least_s`.
    """
    names = f"{prefix}equal_windows_noise", f"{prefix}shortest_window_for_1_pct"
    counter_w, sampled_w = ([one.counter_w for one in equal], [one.sampled_w for one in equal])
    # Never some by the counter and some by samples.
    powers_w = [one for one in (counter_w if all(counter_w) else sampled_w) if one]
    if len(powers_w) < NUM_EQUAL:
        said = f"not known: {len(powers_w)} of {NUM_EQUAL} windows have joules"
        return [Verdict(name, None, said) for name in names]
    degrees, mean_w = len(powers_w) - 1, sum(powers_w) / len(powers_w)
    sd_pct = 100 / mean_w * math.sqrt(sum((one - mean_w) ** 2 for one in powers_w) / degrees)
    low, high = (
        sd_pct * math.sqrt(degrees / float(chdtri(degrees, beyond))) for beyond in (0.025, 0.975)
    )
    length_s = sum(one.window.duration_s for one in equal) / len(equal)
    steps_s = delta_s / math.sqrt(6) / 0.01

    def needed_s(pct: float) -> float:
        return max(length_s * pct**2, steps_s, least_s)

    limit_pct = NOISE_PCT * math.sqrt(NOISE_S / length_s)
    is_quiet = low <= limit_pct
    shortest_s = needed_s(sd_pct)
    word = "right" if shortest_s <= ONE_PCT_WINDOW_S else None
    return [
        Verdict(
            names[0],
            "right" if is_quiet else "attention",
            f"{NUM_EQUAL} windows of {length_s:.1f} s under full load have a standard deviation of "
            f"{sd_pct:.2g} % ({low:.2g} to {high:.2g} %)",
            f"{limit_pct:.2g} %, which is {NOISE_PCT:.0f} % at {NOISE_S:.0f} s; an A100 has 1.7 % "
            "there against an external meter (arXiv 2312.02741)",
            None if is_quiet else "look for other work on this machine, and take longer windows",
            value=sd_pct,
            low=low,
            high=high,
            unit="%",
        ),
        Verdict(
            names[1],
            word if is_quiet else "attention",
            f"a standard deviation of 1 % takes {significant(shortest_s, 2)} s "
            f"({significant(needed_s(low), 2)} to {significant(needed_s(high), 2)} s), if noise is "
            "white",
            f"{ONE_PCT_WINDOW_S:.0f} s, which docs/explanation/energy.md says 1 % takes",
            None if word else f"give windows at least {significant(shortest_s, 2)} s",
            value=shortest_s,
            low=needed_s(low),
            high=needed_s(high),
            unit="s",
        ),
    ]
