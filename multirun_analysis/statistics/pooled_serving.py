"""Joules per token of what serves alike, pooled over the runs that measured it.

Greedy serving at fixed lengths depends on the architecture, the machine and the lengths, and not on
the weights. So all runs that measured it measured one true value. Their means are pooled by
Student's t of R - 1 degrees of freedom. New records say by a key what serves alike. For older
records it is found from their fields.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kdwatts.metrics.pooling import Spread, agree_p, pool, relative_spread
from kdwatts.metrics.quantity import Quantity
from kdwatts.metrics.student_t import to_sd
from multirun_analysis.statistics import built
from multirun_analysis.statistics.pareto import CLASSES, energy_class
from multirun_analysis.values.rows import Row, grouped

SUBJECTS = ("student", "teacher")
PHASES = ("prefill", "decode")
UNIT = "J/token"

Place = tuple[int, int, int]
"""Batch, prompt tokens and new tokens."""


@dataclass(frozen=True)
class Measurement:
    """One measurement of serving at one point, by the run that made it."""

    j_per_token: float
    """For prompt and generated tokens together."""
    phases_j: Mapping[str, float | None]
    """J/token of prefill and of decode."""
    half_width_j: float | None
    """Half of the 95 % interval, from the windows within it."""
    windows: int
    run: str
    """The first run that holds it."""


@dataclass
class Pool:
    """The measurements of one true value."""

    base: str
    """The key that `alike` gives."""
    key: str
    """The same key with point and quality."""
    subject: str
    quality: str
    """measured, mixed, estimated, missing or reported."""
    place: Place | None
    """None where the records do not say."""
    run: Row
    """The first run that holds one of them. Its model, GPU and precision are those of all."""
    machines: set[tuple] = field(default_factory=set)
    measurements: dict[tuple, Measurement] = field(default_factory=dict)
    takers: list[tuple[str, str]] = field(default_factory=list)
    """Run and subject that this figure is for, whether the run measured it or not."""
    shared_relative: float | None = None
    """One standard deviation of the meter's calibration over the energy."""
    borrowed: Spread | None = None
    """For a single measurement: how far runs of other models differ on the same machine."""

    @property
    def values(self) -> list[float]:
        """J/token of each measurement."""
        return [each.j_per_token for each in self.measurements.values()]

    def figure(self) -> Quantity:
        """J/token, for prompt and generated tokens together."""
        return self._pooled(self.values)

    def phase(self, name: str) -> Quantity:
        """J/token of prefill or decode. No value where a measurement has none."""
        values = [each.phases_j.get(name) for each in self.measurements.values()]
        return self._pooled([] if None in values else [v for v in values if v is not None])

    def _pooled(self, values: list[float]) -> Quantity:
        return pool(
            values,
            unit=UNIT,
            quality=self.quality,
            shared_relative=self.shared_relative,
            borrowed=self.borrowed,
        )

    def agree_p(self) -> float | None:
        """p that the runs have one mean, by the windows within them. None where that is unknown."""
        windows = [_windows(each) for each in self.measurements.values()]
        return None if None in windows else agree_p([each for each in windows if each])


def _windows(one: Measurement) -> list[float] | None:
    """As many values as there were windows, with their mean and spread: what an F test asks."""
    n, half = one.windows, one.half_width_j
    if n < 2 or half is None:
        return None
    sd = to_sd(half, n - 1) * math.sqrt(n)
    edge = sd * math.sqrt((n - 1) / 2)
    middle = one.j_per_token
    return [middle - edge, middle + edge, *[middle] * (n - 2)]


def alike(run: Row, subject: str) -> str:
    """A key of what serves as this model does in this run, apart from the point and energy class.

    A record without a serving key gets one from what it says of both: the pair with its parameters,
    precision, GPUs, power limit, host, versions and prompts. Where host or parameters are not
    known, and for an imported run, the key is the run's alone.
    """
    if key := run.get(f"{subject}_serving_key"):
        return key
    params = run.get(f"{subject}_params")
    if run.get("origin") or run.get("host") is None or params is None:
        asked: tuple = (subject, run["run"])
    else:
        asked = (
            subject, params, run["model"], run["precision"], *_machine(run), _versions(run),
            run.get("serving_prompts") or run["data"],
            run.get("teacher_quantization") if subject == "teacher" else None,
        )  # fmt: skip
    return "alike-" + hashlib.sha256(repr(asked).encode()).hexdigest()[:12]


def _machine(run: Row) -> tuple:
    return tuple(run.get(key) for key in ("host", "gpu", "gpu_name", "num_gpus", "power_limit_w"))


def _versions(run: Row) -> tuple:
    """Of what reads and runs the model; other libraries do not change its joules."""
    found = json.loads(run.get("versions") or "{}")
    return tuple(found.get(name) for name in ("kdwatts", "torch", "transformers"))


def place_of(row: Row) -> Place:
    """The point of a measurement: batch size and lengths."""
    return row["batch_size"], row["prompt_tokens"], row["new_tokens"]


def identity(row: Row) -> tuple:
    """What tells one measurement from another: its number, joules and seconds to the last bit."""
    parts = ("measurement", "total_j_per_token", *(f"{phase}_duration_s" for phase in PHASES))
    return tuple(row.get(part) for part in parts)


def serving_pools(runs: Iterable[Row], inference: Iterable[Row]) -> list[Pool]:
    """The pools of the finished runs, each at the point that stands for its run."""
    finished = [run for run in runs if run["finished"]]
    by_run = grouped(inference, lambda row: (row["run"], row["subject"]))
    pools: dict[tuple, Pool] = {}
    waiting = []
    for run in finished:
        for subject in SUBJECTS:
            rows = _at_its_place(run, subject, by_run.get((run["run"], subject), []))
            held = [row for row in rows if row["total_j_per_token"] is not None]
            for row in held:
                _add(pools, run, subject, row)
            if not held and run.get(f"{subject}_serving_key"):
                waiting.append((run, subject))
    found = list(pools.values())
    for run, subject in waiting:
        _take(found, run, subject)
    _borrow(found)
    return found


def _at_its_place(run: Row, subject: str, rows: list[Row]) -> list[Row]:
    """The records of serving at the place that answers; of a run without any, of its metrics."""
    place = _stated_place(run)
    if not rows:
        row = {
            "total_j_per_token": run.get(f"{subject}_total_j_per_token"),
            "total_interval_95_j": run.get(f"{subject}_total_interval_95_j"),
            "quality": run.get("inference_energy_quality"),
            "place": place,
        }
        return [row | {f"{p}_j_per_token": run.get(f"{subject}_{p}_j_per_token") for p in PHASES}]
    # An older run was told by the first place of its grid.
    place = place or place_of(rows[0])
    return [row | {"place": place} for row in rows if place_of(row) == place]


def _stated_place(run: Row) -> Place | None:
    parts = tuple(
        run.get(f"serving_{part}") for part in ("batch_size", "prompt_tokens", "new_tokens")
    )
    return None if None in parts else parts  # pyright: ignore[reportReturnType]


def _add(pools: dict[tuple, Pool], run: Row, subject: str, row: Row) -> None:
    base = alike(run, subject)
    quality = "reported" if row["quality"] == "reported" else energy_class(row["quality"])
    place = row["place"]
    at = (base, place, quality)
    if at not in pools:
        words = "" if place is None else " b{} p{} n{}".format(*place)
        pools[at] = Pool(base, f"{base}{words} {quality}", subject, quality, place, run)
    mine = pools[at]
    mine.machines.add(_machine(run))
    repeats = [row.get(f"{phase}_repeats") or 0 for phase in PHASES]
    mine.measurements.setdefault(
        identity(row),
        Measurement(
            row["total_j_per_token"],
            {phase: row.get(f"{phase}_j_per_token") for phase in PHASES},
            row.get("total_interval_95_j"),
            min(repeats),
            run["run"],
        ),
    )
    if (run["run"], subject) not in mine.takers:
        mine.takers.append((run["run"], subject))
    own = built.own(run)
    if own.value and own.shared_sd is not None and energy_class(own.quality) == quality:
        mine.shared_relative = max(mine.shared_relative or 0.0, own.shared_sd / own.value)


def _take(pools: list[Pool], run: Row, subject: str) -> None:
    """Give a run that measured nothing the figure of those that serve alike."""
    base, place = alike(run, subject), _stated_place(run)
    fitting = [p for p in pools if p.base == base and place in (None, p.place)]
    # A run that does not say its place has no figure where there are several.
    if len({p.place for p in fitting}) == 1:
        best = min(fitting, key=lambda p: (*CLASSES, "reported").index(p.quality))
        best.takers.append((run["run"], subject))


def _borrow(pools: list[Pool]) -> None:
    """Sets `borrowed`: of single measurements, what others on the same machine are apart."""
    lenders = [p for p in pools if len(p.measurements) > 1]
    for mine in pools:
        if len(mine.measurements) == 1 and mine.quality != "reported":
            groups = [
                other.values
                for other in lenders
                if other.quality == mine.quality and other.machines & mine.machines
            ]
            mine.borrowed = relative_spread(groups)
