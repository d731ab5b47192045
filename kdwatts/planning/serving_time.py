"""What serving under load will take, in words: engine, loads, minutes."""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.config.experiment import Config
from kdwatts.config.serving import Serving
from kdwatts.stages.graph import PlannedStage
from kdwatts.stages.serving_log import parts_of_log


def load_lines(config: Config, missing: Sequence[PlannedStage]) -> list[str]:
    """How long the measurements of serving that are missing take. Empty where none is.

    A load takes `min_window_s` at the least and `max_window_s` at the most. How long a server
    starts is not known.
    """
    stages = [planned for planned in missing if planned.stage == "serving"]
    if not stages:
        return []
    asked, engine = config.eval.serving, stages[0].settings["engine"]
    names = [planned.name.removeprefix("serving_").replace("_", " in ") for planned in stages]
    models = ", ".join([*names[:-2], " and ".join(names[-2:])])
    parked_s = asked.parking_settle_s + asked.parking_s if asked.parking_s else 0.0
    ends = [f"{len(stages) * (loads_s + parked_s) / 60:,.1f}" for loads_s in _loads_s(asked)]
    version = f" {engine['version']}" if engine["version"] else ""
    more = " and the search for the greatest rate" if asked.slo.is_set else ""
    return [
        f"serving under load: {models} behind {engine['name']}{version}, {_loads(asked)}",
        f"  {' to '.join(dict.fromkeys(ends))} min, with the start of each server{more} on top",
    ]


def _loads_s(asked: Serving) -> tuple[float, float]:
    """Least and most seconds of all loads. A replay takes as long as what it replays."""
    if asked.is_replayed:
        replayed_s = sum(part.last_s for part in parts_of_log(asked))
        return replayed_s, replayed_s
    number = len(asked.loads)
    return number * asked.min_window_s, number * asked.max_window_s


def _loads(asked: Serving) -> str:
    if asked.is_replayed:
        parts = [
            f"{part.num_requests:,} requests in {part.last_s:,.0f} s (speed {part.speed:g})"
            for part in parts_of_log(asked)
        ]
        return f"a replay of {', then '.join(parts)}"
    levels = ", ".join(f"{level:g}" for level in asked.loads)
    if asked.rates_per_s:
        return f"{levels} requests/s ({asked.arrivals})"
    return f"{levels} requests at once"
