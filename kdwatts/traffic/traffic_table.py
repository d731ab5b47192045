"""A summary of a log in plain lines, as `python -m kdwatts.traffic` prints it."""

from __future__ import annotations

from kdwatts.runtime.streams import aligned
from kdwatts.traffic.traffic_summary import TokenLengths, TrafficSummary


def traffic_table(found: TrafficSummary) -> str:
    """What a log says of its traffic: counts, rates, bursts, lengths, and a line for each hour."""
    left_out = f", {found.num_left_out:,} rows left out" if found.num_left_out else ""
    sessions = "none" if found.num_sessions is None else f"{found.num_sessions:,}"
    about = [
        ("format", found.log_format),
        ("requests", f"{found.num_requests:,}{left_out}"),
        ("sessions", sessions),
        ("time", f"{found.span_s:,.6g} s"),
        ("mean rate", f"{found.rate_per_s:.4g} requests/s"),
        ("peak rate", f"{found.peak_rate_per_s:.4g} requests/s over {found.peak_span_s:.4g} s"),
        ("variance over mean of a second", _number(found.dispersion, "fewer than 30 s")),
        ("deviation over mean of gaps", _number(found.gap_cv, "fewer than 3 requests")),
        ("prompt tokens", _lengths(found.prompt_tokens, "the log has text alone")),
        ("output tokens", _lengths(found.output_tokens, "the log does not say")),
    ]
    hours = [
        (f"{number}", f"{one.duration_s:,.4g}", f"{one.rate_per_s:.4g}")
        for number, one in enumerate(found.hours, start=1)
    ]
    return f"{aligned(about)}\n\n{aligned([('hour', 'seconds', 'requests/s'), *hours])}"


def _number(value: float | None, why_none: str) -> str:
    return f"not known ({why_none})" if value is None else f"{value:.3g} (Poisson: 1)"


def _lengths(found: TokenLengths | None, why_none: str) -> str:
    if found is None:
        return f"not known ({why_none})"
    return f"mean {found.mean:,.4g}, p50 {found.p50:,g}, p95 {found.p95:,g}, p99 {found.p99:,g}"
