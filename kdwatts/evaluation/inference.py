"""Energy per token served: prefill and decode apart, the same work for every model."""

# B sequences, T prompt positions.

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.metrics import Energy, total_energy
from kdwatts.schema import InferenceGrid
from kdwatts.telemetry.meter import Meter

MIN_REPEATS = 3
RELATIVE_INTERVAL = 0.05
T_QUANTILE_975 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t at 97.5 % by degrees of freedom; 1.96 beyond."""


@dataclass(frozen=True)
class Phase:
    """Prefill or decode, repeated: joules per token with what the repeats say of its spread."""

    j_per_token: float | None
    interval_95_j: float | None
    """Half width of the 95 % interval of the mean, from the spread between repeats alone."""
    quality: str
    tokens: int
    duration_s: float
    repeats: int
    tokens_per_s: float


@dataclass(frozen=True)
class ServingCost:
    """What one model needs to read and to write, at one batch size and length."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    prefill: Phase
    decode: Phase
    total_j_per_token: float | None
    """Joules of a whole batch over its prompt and generated tokens."""
    quality: str


@torch.no_grad()
def serving_cost(
    model: nn.Module,
    prompt_BT: Tensor,
    grid: InferenceGrid,
    *,
    meter: Meter,
    synchronize: Callable[[], None],
) -> ServingCost:
    """Measure prefill and greedy decode of `prompt_BT`, after a warm-up that is not counted."""
    prompt_tokens = prompt_BT.shape[1]

    def prefill() -> Any:
        return model(input_ids=prompt_BT, use_cache=True, logits_to_keep=1)

    first = prefill()
    cache, first_token_B1 = first.past_key_values, first.logits[:, -1:].argmax(-1)

    def decode() -> None:
        token_B1 = first_token_B1
        for _ in range(grid.new_tokens):
            step = model(input_ids=token_B1, past_key_values=cache, use_cache=True)
            token_B1 = step.logits[:, -1:].argmax(-1)
        # Back to the prompt: a decode window holds no second prefill.
        cache.crop(-grid.new_tokens)

    decode()
    reading = _repeat("prefill", prefill, prompt_BT.numel(), grid, meter, synchronize)
    writing = _repeat(
        "decode", decode, prompt_BT.shape[0] * grid.new_tokens, grid, meter, synchronize
    )
    total = None
    if reading.j_per_token is not None and writing.j_per_token is not None:
        joules = reading.j_per_token * prompt_tokens + writing.j_per_token * grid.new_tokens
        total = joules / (prompt_tokens + grid.new_tokens)
    quality = reading.quality if reading.quality == writing.quality else "mixed"
    return ServingCost(
        prompt_BT.shape[0], prompt_tokens, grid.new_tokens, reading, writing, total, quality
    )


def _repeat(
    name: str,
    work: Callable[[], Any],
    tokens_per_call: int,
    grid: InferenceGrid,
    meter: Meter,
    synchronize: Callable[[], None],
) -> Phase:
    """Windows of at least `grid.min_window_s` until their mean is known to 5 %, or the limit."""
    energies: list[Energy] = []
    tokens: list[int] = []
    durations: list[float] = []
    while len(energies) < grid.max_repeats:
        with meter.window(name) as window:
            started_s = time.monotonic()
            while time.monotonic() - started_s < grid.min_window_s:
                work()
                synchronize()
                window.tokens += tokens_per_call
        assert window.row
        row = window.row
        energies.append(total_energy(row.energy_j, row.quality, row.uncertainty_j))
        tokens.append(window.tokens)
        durations.append(row.duration_s)
        if len(energies) >= MIN_REPEATS and _known_well(energies, tokens):
            break
    mean_j, half_width_j = _mean_and_interval(energies, tokens)
    qualities = {energy.quality for energy in energies}
    return Phase(
        j_per_token=mean_j,
        interval_95_j=half_width_j,
        quality=qualities.pop() if len(qualities) == 1 else "mixed",
        tokens=sum(tokens),
        duration_s=sum(durations),
        repeats=len(energies),
        tokens_per_s=sum(tokens) / sum(durations),
    )


def _mean_and_interval(
    energies: list[Energy], tokens: list[int]
) -> tuple[float | None, float | None]:
    rates = [
        e.energy_j / n for e, n in zip(energies, tokens, strict=True) if e.energy_j is not None
    ]
    if len(rates) < len(energies):
        return None, None
    quantile = T_QUANTILE_975.get(len(rates) - 1, 1.96)
    return fmean(rates), quantile * stdev(rates) / math.sqrt(len(rates))


def _known_well(energies: list[Energy], tokens: list[int]) -> bool:
    mean_j, half_width_j = _mean_and_interval(energies, tokens)
    return mean_j is None or (half_width_j or 0.0) <= RELATIVE_INTERVAL * mean_j
