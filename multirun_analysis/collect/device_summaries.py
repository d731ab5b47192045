"""How busy and hot the devices of one run were in each stage, and their power, from its ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multirun_analysis.collect.columns import RUN

IDLE_UTIL_PCT = 0.0
"""A GPU that reports this runs no kernel; what it draws then is idle power."""

SUMMARIES = pa.schema(
    [
        RUN,
        pa.field("stage", pa.string()),
        pa.field("num_ticks", pa.int64()),
        *(
            pa.field(name, pa.float64())
            for name in (
                "gpu_util_pct_mean",
                "gpu_power_w_mean",
                "gpu_memory_used_gib_max",
                "gpu_temperature_c_max",
                "gpu_throttled_share",
                "host_util_pct_mean",
                "gpu_floor_w",
            )
        ),
    ]
)

_NUMBERS = ("power_w", "util_pct", "memory_used_gib", "temperature_c")
_READ = (
    *("attempt", "monotonic_s", "window", "node", "device_kind", "device_index"),
    "throttle_reasons",
)
_SOFT_REASONS = 0x1 | 0x2
"""NVML's bits for an idle GPU and for clocks that an application set: neither slows work down."""


@dataclass
class _Stage:
    """What the devices of one stage said, gathered device by device."""

    num_ticks: int = 0
    util_pct: list[float] = field(default_factory=list)
    power_w: list[float] = field(default_factory=list)
    host_util_pct: list[float] = field(default_factory=list)
    memory_used_gib: float = math.nan
    temperature_c: float = math.nan
    num_throttled: int = 0
    num_known: int = 0


def summarise_part(run: str, part_path: Path) -> pa.Table:
    """See `summarise`. It reads only what it needs of a run's part."""
    return summarise(run, pq.read_table(part_path, columns=[*_READ, *_NUMBERS], memory_map=False))


def summarise(run: str, ticks: pa.Table) -> pa.Table:
    """A row of SUMMARIES for each stage in the ticks of one run, in order of appearance.

    Means are over time and over GPUs: a tick counts until the next one of its device, for at most
    three usual steps. `gpu_floor_w` is the least power of all GPUs together while they report 0 %
    utilisation, in the whole run. It stands in for idle power where none was measured before the
    run. What no tick states is null.
    """
    numbers = {name: _floats(ticks[name]) for name in _NUMBERS}
    bits = ticks["throttle_reasons"].fill_null(-1).to_numpy()
    stage_index, stages = _stages(ticks)
    device_index, kinds = _devices(ticks)
    attempt, second = ticks["attempt"].to_numpy(), _floats(ticks["monotonic_s"])
    found = [_Stage() for _ in stages]
    order = np.lexsort((second, attempt, device_index, stage_index))
    order = order[stage_index[order] >= 0]
    for rows in _alike(order, stage_index, device_index):
        stage, kind = found[stage_index[rows[0]]], kinds[device_index[rows[0]]]
        stage.num_ticks += len(rows)
        weight_s = _weights_s(second[rows], attempt[rows])
        util_pct = _mean(numbers["util_pct"][rows], weight_s)
        if kind == "host":
            stage.host_util_pct += util_pct
        if kind == "gpu":
            stage.util_pct += util_pct
            stage.power_w += _mean(numbers["power_w"][rows], weight_s)
            told = bits[rows][bits[rows] >= 0]
            stage.num_known += len(told)
            stage.num_throttled += int(np.count_nonzero(told & ~_SOFT_REASONS))
            for name in ("memory_used_gib", "temperature_c"):
                most = np.fmax.reduce(numbers[name][rows])
                setattr(stage, name, float(np.fmax(getattr(stage, name), most)))
    gpus = [index for index, kind in enumerate(kinds) if kind == "gpu"]
    floor_w = _floor_w(numbers, device_index, gpus)
    rows = [
        {"run": run, "stage": name, "num_ticks": stage.num_ticks, "gpu_floor_w": floor_w}
        | _shares(stage)
        for name, stage in zip(stages, found, strict=True)
    ]
    return pa.Table.from_pylist(rows, SUMMARIES)


def _shares(stage: _Stage) -> dict[str, float | None]:
    return {
        "gpu_util_pct_mean": _known_mean(stage.util_pct),
        "gpu_power_w_mean": math.fsum(stage.power_w) if stage.power_w else None,
        "gpu_memory_used_gib_max": _known(stage.memory_used_gib),
        "gpu_temperature_c_max": _known(stage.temperature_c),
        "gpu_throttled_share": stage.num_throttled / stage.num_known if stage.num_known else None,
        "host_util_pct_mean": _known_mean(stage.host_util_pct),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _known_mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _floats(column: Any) -> np.ndarray:
    """Numbers of a column, NaN where one is missing."""
    return column.cast(pa.float64()).to_numpy()


def _stages(ticks: pa.Table) -> tuple[np.ndarray, list[str]]:
    """For each tick the index of its stage, or -1 between stages; and the stages' names."""
    encoded = ticks["window"].combine_chunks().dictionary_encode()
    pieces = [str(window).split("/") for window in encoded.dictionary.to_pylist()]
    names = list(dict.fromkeys(piece[1] for piece in pieces if len(piece) > 1))
    # One more at the end, for ticks without a window.
    of_window = np.array([names.index(p[1]) if len(p) > 1 else -1 for p in pieces] + [-1])
    return of_window[encoded.indices.fill_null(len(pieces)).to_numpy()], names


def _devices(ticks: pa.Table) -> tuple[np.ndarray, list[str | None]]:
    """For each tick the index of its device, and the kind of each device.

    Each node has a GPU 0.
    """
    encoded = ticks["device_kind"].combine_chunks().dictionary_encode()
    names = [*encoded.dictionary.to_pylist(), None]
    kind_index = encoded.indices.fill_null(len(names) - 1).to_numpy().astype(np.int64)
    number = ticks["device_index"].fill_null(-1).to_numpy()
    node = ticks["node"].to_numpy()
    devices, index = np.unique(np.stack([kind_index, number, node]), axis=1, return_inverse=True)
    return index.reshape(-1), [names[kind] for kind in devices[0]]


def _alike(order: np.ndarray, *keys: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of `order` in which all keys are equal."""
    changes = [np.flatnonzero(np.diff(key[order])) + 1 for key in keys]
    yield from (rows for rows in np.split(order, np.unique(np.concatenate(changes))) if len(rows))


def _weights_s(second: np.ndarray, attempt: np.ndarray) -> np.ndarray:
    """Seconds for which each tick of a device stands; the last of an attempt has the usual ones."""
    steps_s = np.append(np.where(np.diff(attempt) == 0, np.diff(second), np.nan), np.nan)
    known = steps_s[~np.isnan(steps_s)]
    usual_s = float(np.median(known)) if len(known) else 1.0
    weights_s = np.minimum(np.where(np.isnan(steps_s), usual_s, steps_s), 3 * usual_s)
    return weights_s if weights_s.sum() > 0 else np.ones(len(second))


def _mean(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """The mean over time of what is known, or nothing."""
    here = ~np.isnan(values)
    total = weights[here].sum()
    return [float((values[here] * weights[here]).sum() / total)] if total > 0 else []


def _floor_w(
    numbers: dict[str, np.ndarray], device_index: np.ndarray, gpus: Iterable[int]
) -> float | None:
    """Least watts of all GPUs together at 0 % utilisation; None where one of them is never idle.

    The least, because a GPU that waits inside a program draws more than one that idles.
    """
    floors_w = []
    is_idle = (numbers["util_pct"] <= IDLE_UTIL_PCT) & ~np.isnan(numbers["power_w"])
    for gpu in gpus:
        idle_w = numbers["power_w"][is_idle & (device_index == gpu)]
        if not len(idle_w):
            return None
        floors_w.append(float(idle_w.min()))
    return math.fsum(floors_w) if floors_w else None
