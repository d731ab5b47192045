"""Which student to serve, and why: `python -m multirun_analysis choose DIR --tokens-per-day 1e9`.

Of the settings that keep enough of their teacher's accuracy, the one whose building, inherited
share and serving draw the least over the days asked for. Measured and estimated energies are never
ranked against each other.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdwatts.metrics.footprint import co2e_kg
from kdwatts.paths import given
from multirun_analysis import units
from multirun_analysis.collect import collect
from multirun_analysis.metrics import Interval, mean_interval
from multirun_analysis.pareto import CLASSES, energy_class
from multirun_analysis.rows import Row, distinct_students, grouped, known, to_rows
from multirun_analysis.site import Site, common_site, site_of

NEEDED = ("om_perf", "student_total_j_per_token", "total_amortised_energy_j")


@dataclass(frozen=True)
class Candidate:
    """One setting, over its seeds."""

    label: str
    runs: list[str]
    om_perf: float
    om_perf_low: float | None
    """95 % interval over seeds; of one seed over the benchmarks' samples."""
    om_perf_high: float | None
    build_j: float
    """With its share of inherited work."""
    serve_j_per_token: float
    whole_j: float
    """Building and serving over the days asked for."""
    teacher_j: float | None
    """What the teacher would take to serve the same tokens."""
    energy_quality: str
    """measured, mixed, estimated or missing: the weaker one of building and serving."""


@dataclass(frozen=True)
class Choice:
    """The candidates that keep enough, least energy first, and those that do not."""

    enough: list[Candidate]
    too_little: list[Candidate]
    apart: int
    """Students that cannot be ranked: unscored, unserved, or of another quality of energy."""


def choose(students: list[Row], *, min_om_perf: float, tokens: float) -> Choice:
    """Rank settings for serving `tokens` in all; see the module for the rule."""
    candidates = [
        _candidate(rows, tokens) for rows in grouped(known(students, *NEEDED), "group").values()
    ]
    best = min((CLASSES.index(c.energy_quality) for c in candidates), default=0)
    ranked = [c for c in candidates if CLASSES.index(c.energy_quality) == best]
    ranked.sort(key=lambda candidate: candidate.whole_j)
    return Choice(
        [c for c in ranked if c.om_perf >= min_om_perf],
        [c for c in ranked if c.om_perf < min_om_perf],
        len(students) - sum(len(c.runs) for c in ranked),
    )


def _candidate(rows: list[Row], tokens: float) -> Candidate:
    kept = mean_interval([run["om_perf"] for run in rows])
    low, high = _interval(kept, rows)
    build_j, per_token_j = (
        math.fsum(run[column] for run in rows) / len(rows)
        for column in ("total_amortised_energy_j", "student_total_j_per_token")
    )
    teachers_j = [run["teacher_total_j_per_token"] for run in rows]
    qualities = {
        run[q] for run in rows for q in ("total_energy_quality", "inference_energy_quality")
    }
    return Candidate(
        label=rows[0]["group_label"],
        runs=[run["run"] for run in rows],
        om_perf=kept.mean,
        om_perf_low=low,
        om_perf_high=high,
        build_j=build_j,
        serve_j_per_token=per_token_j,
        whole_j=build_j + tokens * per_token_j,
        teacher_j=None if None in teachers_j else tokens * math.fsum(teachers_j) / len(rows),
        energy_quality=max(map(energy_class, qualities), key=CLASSES.index),
    )


def _interval(kept: Interval, rows: list[Row]) -> tuple[float | None, float | None]:
    if kept.half_width is not None:
        return kept.low, kept.high
    return rows[0].get("om_perf_low"), rows[0].get("om_perf_high")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 where no setting keeps enough or a folder is left out, 2 where refused."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis choose", description="Which student to serve, and why."
    )
    parser.add_argument("directories", nargs="+", type=given, metavar="DIR", help="folder of runs")
    parser.add_argument("--tokens-per-day", type=float, required=True, metavar="N")
    parser.add_argument("--min-om-perf", type=float, default=0.95, metavar="SHARE")
    parser.add_argument("--days", type=float, default=365.0, help="of service (default 365)")
    parser.add_argument("--site", metavar="NAME", help="default: the site that the runs state")
    parser.add_argument("--json", action="store_true", help="a record in place of words")
    options = parser.parse_args(arguments)
    try:
        if not (0 < options.tokens_per_day < math.inf and 0 < options.days < math.inf):
            raise ValueError(
                f"--tokens-per-day {options.tokens_per_day:g} and --days {options.days:g}: give "
                "numbers above 0"
            )
        if not math.isfinite(options.min_om_perf):
            raise ValueError(f"--min-om-perf {options.min_om_perf:g}: give a number such as 0.95")
        collected = collect(options.directories)
        students = distinct_students(collected.runs)
        site = common_site(students) if options.site is None else site_of(options.site)
    except (ValueError, OSError) as error:
        print(f"multirun_analysis: {error}", file=sys.stderr)
        return 2
    for problem in collected.left_out:
        print(f"multirun_analysis: {problem}", file=sys.stderr)
    unfinished = [run["run"] for run in to_rows(collected.runs) if not run["finished"]]
    tokens = options.tokens_per_day * options.days
    choice = choose(students, min_om_perf=options.min_om_perf, tokens=tokens)
    asked = {"min_om_perf": options.min_om_perf, "tokens": tokens, "days": options.days}
    if options.json:
        print(json.dumps(_record(choice, site, asked) | {"unfinished": unfinished}, indent=2))
    else:
        print(_words(choice, site, options.min_om_perf, tokens, options.days))
        if unfinished:
            print(f"Not finished, so not among them: {', '.join(unfinished)}.")
    return 0 if choice.enough and not collected.left_out else 1


def _record(choice: Choice, site: Site | None, asked: dict[str, float]) -> dict[str, Any]:
    return {
        "schema": 1,
        **asked,
        "site": None if site is None else asdict(site),
        "recommended": asdict(choice.enough[0]) if choice.enough else None,
        "co2e_kg": _co2e_kg(choice.enough[0].whole_j, site) if choice.enough else None,
        "others": [asdict(c) for c in choice.enough[1:]],
        "too_little": [asdict(c) for c in choice.too_little],
        "apart": choice.apart,
    }


def _co2e_kg(energy_j: float | None, site: Site | None) -> float | None:
    if site is None:
        return None
    return co2e_kg(energy_j, pue=site.pue, grid_gco2e_per_kwh=site.grid_gco2e_per_kwh)


def _words(choice: Choice, site: Site | None, least: float, tokens: float, days: float) -> str:
    lines = []
    if choice.enough:
        lines += _reasons(choice.enough, site, least, tokens, days)
    elif choice.too_little:
        best = max(choice.too_little, key=lambda c: c.om_perf)
        lines.append(
            f"No setting keeps {least:g} of its teacher's accuracy; {best.label} comes closest "
            f"with {units.significant(best.om_perf)}."
        )
    else:
        lines.append(
            "No student has a score beside its teacher's, a serving cost and a known energy; run "
            "with eval=tiny, quick or paper."
        )
    if choice.too_little:
        shown = ", ".join(f"{c.label} ({units.significant(c.om_perf)})" for c in choice.too_little)
        lines.append(f"They keep too little: {shown}.")
    if choice.apart:
        lines.append(
            f"Not ranked, as a score, a serving cost or the same quality of energy is missing: "
            f"{choice.apart}."
        )
    return "\n".join(lines)


def _reasons(
    enough: list[Candidate], site: Site | None, least: float, tokens: float, days: float
) -> list[str]:
    best = enough[0]
    sure = "of unknown spread"
    if best.om_perf_low is not None and best.om_perf_high is not None:
        span = f"{units.significant(best.om_perf_low)} to {units.significant(best.om_perf_high)}"
        verdict = "" if best.om_perf_low >= least else f", so that {least:g} is not certain"
        over = "seeds" if len(best.runs) > 1 else "benchmark samples, from one seed"
        sure = f"95 % interval {span} over {over}{verdict}"
    lines = [
        f"{best.label}: {', '.join(best.runs)}",
        f"It keeps {units.significant(best.om_perf)} of its teacher's accuracy ({sure}).",
        f"{units.quantity(tokens, 'tokens')} in {days:g} days take {units.energy(best.whole_j)} "
        f"({units.watt_hours(best.whole_j)}), {best.energy_quality}: {units.energy(best.build_j)} "
        f"to build with its share of inherited work, "
        f"{units.quantity(best.serve_j_per_token, 'J/token')} to serve.",
    ]
    if best.teacher_j is not None:
        share = 100 * (1 - best.whole_j / best.teacher_j)
        compared = f"{units.significant(abs(share))} % {'less' if share >= 0 else 'more'}"
        lines.append(f"Its teacher would take {units.energy(best.teacher_j)}: {compared}.")
    if site:
        kg = _co2e_kg(best.whole_j, site)
        lines.append(
            f"At site {site.name} ({site.grid_gco2e_per_kwh:g} gCO2e/kWh, PUE {site.pue:g}) that "
            f"is {units.quantity(None if kg is None else 1000 * kg, 'gCO2e')}."
        )
    lines += [
        f"Next: {other.label}, {units.energy(other.whole_j)}, keeps "
        f"{units.significant(other.om_perf)}."
        for other in enough[1:2]
    ]
    return lines
