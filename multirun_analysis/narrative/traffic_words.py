"""A log of requests in sentences: rates, lengths, bursts. Nothing of its texts is in them."""

from __future__ import annotations

from kdwatts.traffic.traffic_summary import TokenLengths, TrafficSummary
from multirun_analysis.values import units


def traffic_words(traffic: TrafficSummary) -> list[str]:
    """How many requests came and when, how long they are, and whether they come in bursts."""
    left_out = ""
    if traffic.num_left_out:
        left_out = f"; {units.count(traffic.num_left_out, 'row')} of it are left out as no requests"
    sessions = ""
    if traffic.num_sessions is not None:
        sessions = f" in {units.count(traffic.num_sessions, 'session')}"
    return [
        f"The log ({traffic.log_format}, sha256 {traffic.sha256[:12]}) has "
        f"{units.count(traffic.num_requests, 'request')}{sessions} in "
        f"{units.duration(traffic.span_s)}{left_out}.",
        f"That is {units.significant(traffic.rate_per_s)} a second in the mean, and "
        f"{units.significant(traffic.peak_rate_per_s)} in the busiest "
        f"{traffic.peak_span_s:,.0f} s.",
        *_lengths("Prompts", traffic.prompt_tokens, "has texts and no lengths"),
        *_lengths("Answers", traffic.output_tokens, "does not say how long they were"),
        *_bursts(traffic),
    ]


def _lengths(name: str, found: TokenLengths | None, why_not: str) -> list[str]:
    if found is None:
        return [f"{name}: the log {why_not}."]
    return [
        f"{name} have {found.mean:,.0f} tokens in the mean, half of them up to {found.p50:,.0f}, "
        f"95 of 100 up to {found.p95:,.0f}, 99 up to {found.p99:,.0f}."
    ]


def _bursts(traffic: TrafficSummary) -> list[str]:
    said = []
    if traffic.dispersion is not None:
        said.append(f"variance over mean of the requests in 1 s: {traffic.dispersion:.2g}")
    if traffic.gap_cv is not None:
        said.append(f"standard deviation over mean of the gaps: {traffic.gap_cv:.2g}")
    return [f"Bursts: {'; '.join(said)}. Poisson arrivals have 1."] if said else []
