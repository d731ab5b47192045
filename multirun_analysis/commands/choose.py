"""What to serve, and why: `python -m multirun_analysis choose DIR --rate 20`.

Of what keeps enough of its teacher's accuracy, the one whose building, inherited share and serving
draw the least over the days asked for, and how sure that is (see `choice`). A load decides by the
servers that were measured (`fleet_choice`), tokens a day by our eager loop.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kdwatts.metrics.fieller import Interval
from kdwatts.runtime.paths import argument_path
from multirun_analysis.collect.collection import Collected, collect
from multirun_analysis.commands.fleet_answer import answer
from multirun_analysis.commands.load_options import LOAD_OPTIONS, add_load_options
from multirun_analysis.narrative.choice_words import carbon_kg, choice_words
from multirun_analysis.narrative.server_methods import rests_on_the_loop
from multirun_analysis.statistics.candidates import Candidate, building_j, teacher_j, whole_j
from multirun_analysis.statistics.choice import VERDICTS, Choice, Gate, choose
from multirun_analysis.statistics.savings import absolute_interval, whole_saving
from multirun_analysis.statistics.site import Site, common_site, site_of
from multirun_analysis.values.refusals import in_words
from multirun_analysis.values.rows import distinct_students, to_rows

MIN_KEPT = 0.5
"""Of accuracy kept, where no bar is asked for."""
MOST_DAYS = 1e6
"""Of service: 2,700 years."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: see `--help`."""
    options = parser().parse_intermixed_args(arguments)
    try:
        _refuse_senseless(options)
        collected = collect(options.directories)
        return print_choice(collected, options)
    except BrokenPipeError:
        raise  # `until_unread` ends quietly where nobody reads the answer any more.
    except (ValueError, OSError) as error:
        print(f"multirun_analysis: {in_words(error)}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Of the options of `choose`, with what its verdicts and exit codes mean."""
    found = argparse.ArgumentParser(
        prog="python -m multirun_analysis choose",
        description="Says what to serve, and why. Of what keeps enough accuracy it is the one "
        "whose building and serving\ndraw the least energy over these days. With --rate or "
        "--replay it says on how many replicas, by servers\nthat were measured in open loops. "
        "With --tokens-per-day it goes by the eager loop, which knows no load.",
        epilog="\n".join(
            [
                "verdicts:",
                *(f"  {verdict}: {meaning}" for verdict, meaning in VERDICTS.items()),
                "exit codes: 0 one is recommended; 1 none is, or folders are left out; 2 refused;",
                "  3 with --strict where the verdict is `not settled` or `cannot be told`",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "directories", nargs="+", type=argument_path, metavar="DIR", help="folder of finished runs"
    )
    load = found.add_mutually_exclusive_group(required=True)
    load.add_argument(
        "--rate", type=float, metavar="R", help="requests a second that the service gets all day"
    )
    load.add_argument(
        "--replay",
        type=argument_path,
        metavar="FILE",
        help="a log of requests, whose hours are repeated to fill a day",
    )
    load.add_argument(
        "--tokens-per-day",
        type=float,
        metavar="N",
        help="tokens read and written a day: the answer of the eager loop, without load or latency",
    )
    add_load_options(found)
    found.add_argument(
        "--min-kept",
        type=float,
        metavar="SHARE",
        help="least share of the teacher's accuracy above chance that the student must keep "
        f"(default {MIN_KEPT:g}, if --min-om-perf is not given)",
    )
    found.add_argument(
        "--min-om-perf",
        type=float,
        metavar="SHARE",
        help="least OM_perf: the student's scores as a share of the teacher's",
    )
    found.add_argument("--days", type=float, default=365.0, help="days of service (default 365)")
    found.add_argument(
        "--site",
        metavar="NAME",
        help="count CO2e with the electricity of this site: an option of conf/site, or a YAML file "
        "of yours (default: the site that the runs state)",
    )
    found.add_argument("--json", action="store_true", help="print a JSON record in place of words")
    found.add_argument(
        "--strict", action="store_true", help="exit with 3 unless the verdict is `settled`"
    )
    return found


def _refuse_senseless(options: argparse.Namespace) -> None:
    if options.tokens_per_day is not None:
        if not (0 < options.tokens_per_day < math.inf and 0 < options.days < math.inf):
            raise ValueError(
                f"--tokens-per-day {options.tokens_per_day:g} and --days {options.days:g} must be "
                "numbers above 0; correct them"
            )
        for name in LOAD_OPTIONS:
            if getattr(options, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} was given with --tokens-per-day, which knows no "
                    "load; give --rate or --replay in its place"
                )
    elif not 0 < options.days <= MOST_DAYS:
        raise ValueError(
            f"--days {options.days:g} must be a number above 0, up to {MOST_DAYS:g}; correct it"
        )
    for name, example in (("min_kept", 0.5), ("min_om_perf", 0.95)):
        least = getattr(options, name)
        if least is not None and not math.isfinite(least):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} {least:g} is no share; give a number such as {example:g}")


def print_choice(collected: Collected, options: argparse.Namespace) -> int:
    """Prints which of the collected students to serve; the exit code."""
    students = distinct_students(collected.runs)
    site = common_site(students) if options.site is None else site_of(options.site)
    for problem in collected.left_out:
        print(f"multirun_analysis: {problem}", file=sys.stderr)
    unfinished = [run["run"] for run in to_rows(collected.runs) if not run["finished"]]
    gate = _gate(options)
    if options.tokens_per_day is None:
        choice = answer(collected, options, gate, site).choice
        if unfinished and not options.json:
            print(f"Left out because they are not finished: {', '.join(unfinished)}.")
        return _exit_code(choice, collected, options)
    tokens = options.tokens_per_day * options.days
    choice = choose(students, gate=gate, tokens=tokens)
    if options.json:
        asked = {**asdict(gate), "tokens": tokens, "days": options.days}
        print(json.dumps(_record(choice, site, asked) | {"unfinished": unfinished}, indent=2))
    else:
        print(choice_words(choice, site, gate, options.days))
        print(rests_on_the_loop(to_rows(collected.runs)))
        if unfinished:
            print(f"Left out because they are not finished: {', '.join(unfinished)}.")
    return _exit_code(choice, collected, options)


def _exit_code(choice: Choice, collected: Collected, options: argparse.Namespace) -> int:
    if options.strict and choice.verdict in ("not settled", "cannot be told"):
        return 3
    return 0 if choice.enough and not collected.left_out else 1


def _gate(options: argparse.Namespace) -> Gate:
    if options.min_kept is None and options.min_om_perf is None:
        return Gate(MIN_KEPT)
    return Gate(options.min_kept, options.min_om_perf)


def _record(choice: Choice, site: Site | None, asked: dict[str, Any]) -> dict[str, Any]:
    best = choice.enough[0] if choice.enough else None
    saved = whole_saving(best) if best else None
    taken = absolute_interval(whole_j(best)) if best else Interval(None)
    carbon = Interval(None) if site is None else carbon_kg(taken, site)
    less = carbon_kg(saved.joules, site) if saved and site else Interval(None)
    return {
        "schema": 1,
        **asked,
        "verdict": choice.verdict,
        "reasons": choice.reasons,
        "site": None if site is None else asdict(site),
        "recommended": _candidate_record(best) if best else None,
        "saved_share": saved.share.value if saved and saved.is_resolved else None,
        "interval": _ends(saved.share) if saved else None,
        "saved_j": saved.joules.value if saved and saved.is_resolved else None,
        "saved_interval_j": _ends(saved.joules) if saved else None,
        "cannot_tell": [_named(c) for c in choice.cannot_tell],
        "cannot_tell_in_accuracy": [_named(c) for c in choice.as_accurate],
        "co2e_kg": carbon.value,
        "co2e_interval_kg": _ends(carbon),
        "co2e_saved_kg": less.value if less.is_bounded else None,
        "co2e_saved_interval_kg": _ends(less),
        "others": [_candidate_record(c) for c in choice.enough[1:]],
        "too_little": [_candidate_record(c) for c in choice.too_little],
        "teacher_at_chance": [
            {**_named(c), "benchmarks": c.teacher_at_chance} for c in choice.teacher_at_chance
        ],
        "apart": choice.apart,
    }


def _candidate_record(c: Candidate) -> dict[str, Any]:
    return {
        **_named(c),
        "accuracy_kept": c.accuracy.value,
        "accuracy_kept_low": c.accuracy.low,
        "accuracy_kept_high": c.accuracy.high,
        "student_at_chance": c.student_at_chance,
        "om_perf": c.om_perf.value,
        "om_perf_low": c.om_perf.low,
        "om_perf_high": c.om_perf.high,
        "build_j": building_j(c).value,
        "build_interval_j": _ends(absolute_interval(building_j(c))),
        "serve_j_per_token": c.serving.value,
        "serve_interval_j_per_token": _ends(absolute_interval(c.serving)),
        "serve_measurements": c.num_measurements,
        "serve_point": None if c.point is None else asdict(c.point),
        "serve_range_j_per_token": c.grid,
        "whole_j": whole_j(c).value,
        "whole_interval_j": _ends(absolute_interval(whole_j(c))),
        "teacher_j": teacher_j(c).value,
        "energy_quality": c.energy_quality,
    }


def _named(candidate: Candidate) -> dict[str, Any]:
    return {"label": candidate.label, "runs": candidate.runs}


def _ends(found: Interval) -> list[float | None] | None:
    return [found.low, found.high] if found.is_bounded else None
