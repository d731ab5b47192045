"""Servers in words: what served, under which load, up to which rate, at which power when idle."""

from __future__ import annotations

from kdwatts.metrics.quantity import interval_95
from multirun_analysis.statistics.serving_curves import Curve, Setup
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row

WITHOUT_IDLE = "An estimate follows CPU time, so idle power is not in it."


def engine_words(row: Row) -> str:
    """Such as `vllm 0.32.0`; url where the version of the server is not known."""
    version = row["engine_version"]
    return f"{row['engine']} {version}" if version else f"{row['engine']} of an unknown version"


def setup_words(setup: Setup) -> str:
    """Engine, numbers, hardware, load and lengths, as the head of a figure."""
    row = setup.first
    # A server that we did not start does not say how it was started.
    unknown = "flags and precision not known" if row["engine"].startswith("url") else ""
    parts = [
        f"Engine: {engine_words(row)}",
        f"flags {row['flags']}" if row["flags"] else unknown,
        row["precision"] or "",
        row["quantization"] or "",
        row["gpus"] or row["cpu"] or "",
        "" if row["power_limit_w"] is None else f"at {row['power_limit_w']:g} W",
        load_words(setup),
        length_words(row),
        slo_words(row),
    ]
    return ", ".join(filter(None, parts))


def slo_words(row: Row) -> str:
    """The limits that 99 of 100 requests must keep; empty without one."""
    names = {"ttft": "first token", "tpot": "each later token", "e2e": "last token"}
    limits = [
        f"{words} {seconds:g} s"
        for name, words in names.items()
        if (seconds := row[f"slo_{name}_p99_s"]) is not None
    ]
    return f"SLO in 99 of 100 requests: {' and '.join(limits)}" if limits else ""


def servers_words(setup: Setup) -> str:
    """How many servers each curve is of, and what an interval of one server lacks."""
    counts = ", ".join(f"{curve.name} {curve.num_servers}" for curve in setup.curves)
    alone = any(curve.num_servers == 1 for curve in setup.curves)
    lacks = " The interval of one server holds nothing of how servers differ." if alone else ""
    return f"Servers measured, each a fresh one: {counts}.{lacks}"


def load_words(setup: Setup) -> str:
    """Closed or open loop, and for an open one how requests come."""
    if setup.is_closed:
        return "closed loop"
    if setup.first["load"] == "replay":
        return "replay of a log"
    shape = setup.first["burstiness"]
    shaped = "" if shape in (None, 1.0) else f" of shape {shape:g}"
    return f"open loop ({setup.first['load']} arrivals{shaped})"


def length_words(row: Row) -> str:
    """Tokens of prompts and answers."""
    read, written = (_length(row, name) for name in ("prompt_tokens", "output_tokens"))
    if read is None or written is None:
        return ""
    ends = " unless an answer ends sooner" if row["workload_length"] == "natural" else ""
    return f"{read} tokens read and {written} written a request{ends}"


def _length(row: Row, name: str) -> str | None:
    mean, p95 = row[f"workload_{name}"], row[f"workload_{name}_p95"]
    if mean is None or p95 is None:
        return None if mean is None else f"{mean:,.0f}"
    return f"{mean:,.0f} (p95 {p95:,.0f})"


def capacity_words(curve: Curve) -> str:
    """A sentence on the greatest rate within the SLO; empty where none was looked for."""
    row, name = curve.first, curve.name
    rate, verdict = row["capacity_requests_per_s"], row["capacity_verdict"]
    if verdict is None:
        return ""
    least = f", the least of {curve.num_servers} measurements" if curve.num_servers > 1 else ""
    if rate is None:
        why = {
            "none": "no rate that was tried kept the SLO",
            "undecided": "too few requests ended to tell it",
        }.get(verdict, verdict)
        return f"Capacity of the {name}: {why}{least}."
    at_least = "at least " if verdict == "above" else ""
    too_much = row["capacity_first_too_much_per_s"]
    above = "" if too_much is None else f"; {too_much:.3g} were too many"
    undecided = "; too few requests ended to tell it exactly" if verdict == "undecided" else ""
    return (
        f"Capacity of the {name}: {at_least}{rate:.3g} requests a second (poisson)"
        f"{above}{undecided}{least}."
    )


def parking_words(setup: Setup) -> list[str]:
    """A sentence on the power of the idle servers, or that estimates have none.

    Nothing where it was not measured.
    """
    found = []
    for curve in setup.curves:
        parking = curve.parking_w
        if parking.value is None:
            continue
        ends = interval_95(parking, calibration=False)
        error = None if ends is None else ends[1] - parking.value
        found.append(f"{curve.name} {units.with_error(parking.value, error, 'W')}")
    if found:
        return [f"Idle server, model loaded (parking power): {'; '.join(found)}."]
    points = [point for curve in setup.curves for point in curve.points]
    lacks = any(point["energy_quality"] == "estimated" for point in points)
    return [WITHOUT_IDLE] if lacks else []


def remark_words(setup: Setup) -> list[str]:
    """What a reader must know of single loads, each sentence with the loads that it is of."""
    loads: dict[tuple[str, str], list[str]] = {}
    for curve in setup.curves:
        for point in curve.points:
            said = point["remarks"]
            if point["verdict"] == "failed" and not said:
                said = "This load has no figure."
            if said:
                loads.setdefault((curve.name, said), []).append(f"{point['level']:g}")
    unit = "at once" if setup.is_closed else "a second"
    return [
        f"{engine_words(setup.first)}, {name}, {' and '.join(levels)} {unit}: {said}"
        for (name, said), levels in loads.items()
    ]
