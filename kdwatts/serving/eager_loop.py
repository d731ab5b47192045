"""Energy per token served: prefill and decode apart, with the same work for every model."""

# B sequences, T prompt positions.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdwatts.config.evaluation import InferenceGrid
from kdwatts.metrics.quantity import Quantity, common_quality
from kdwatts.metrics.student_t import mean_and_half_width
from kdwatts.telemetry.meter import Meter

MIN_REPEATS = 3
RELATIVE_INTERVAL = 0.05


@dataclass(frozen=True)
class Phase:
    """Prefill (reading prompts) or decode (writing), repeated until its mean is known."""

    j_per_token: float | None
    """Mean over the repeats: per prompt token in prefill, per token written in decode."""
    interval_95_j: float | None
    """Half of the 95 % interval of the mean, in J/token, from the spread between repeats alone."""
    net_j_per_token: float | None
    """J/token less what idle devices would have drawn. None where idle power was not measured."""
    quality: str
    """measured, attributed, estimated or missing."""
    tokens: int
    """Tokens of all repeats."""
    duration_s: float
    """Time of all repeats."""
    repeats: int
    """Energy windows."""
    tokens_per_s: float
    """Speed of the whole batch."""
    latency_p50_s: float
    """Median time of a prefill, which ends with a first token; in decode, of a step."""
    latency_p95_s: float
    """The 95th percentile of the same over calls."""


@dataclass(frozen=True)
class ServingCost:
    """Joules per token of one model at one batch size and one length."""

    batch_size: int
    """Sequences that were served at once."""
    prompt_tokens: int
    """Tokens of each prompt."""
    new_tokens: int
    """Tokens written after each prompt."""
    prefill: Phase
    """Reading the prompts."""
    decode: Phase
    """Writing after them."""
    total_j_per_token: float | None
    """Joules of a whole batch over its prompt and new tokens together."""
    total_interval_95_j: float | None
    """Half width of its 95 % interval, as in Phase."""
    net_total_j_per_token: float | None
    """Less what idle devices would have drawn; None where idle power was not measured."""
    quality: str
    """measured, attributed, estimated or missing."""


@torch.no_grad()
def serving_costs(
    model: nn.Module,
    prompts: Callable[[int, int], Tensor],
    grid: InferenceGrid,
    *,
    meter: Meter,
    synchronize: Callable[[], None],
    subject: str = "model",
) -> list[ServingCost]:
    """What serving costs at each point of the grid, in joules per token, after a warm-up.

    `prompts(B, T)` returns B prompts of T tokens, [B, T], on the model's device. `synchronize`
    waits for the device.

    Raises ValueError for a model that is spread over several kinds of device. Raises RuntimeError,
    which names the `subject`, for a model whose logits are not finite.
    """
    _check_whole(model)
    costs = []
    for batch_size in grid.batch_sizes:
        for prompt_tokens in grid.prompt_lengths:
            served = _Served(model, prompts(batch_size, prompt_tokens), subject)
            place = f"b{batch_size}_p{prompt_tokens}"
            per_call = batch_size * prompt_tokens
            served.check(served.decode(1))
            reading = _repeat(
                f"prefill_{place}", served.prefill, per_call, 1, grid, meter, synchronize
            )
            for new_tokens in grid.new_lengths:
                served.check(served.decode(new_tokens))
                writing = _repeat(
                    f"decode_{place}_n{new_tokens}",
                    lambda served=served, count=new_tokens: served.decode(count),
                    batch_size * new_tokens,
                    new_tokens,
                    grid,
                    meter,
                    synchronize,
                )
                costs.append(_cost(batch_size, prompt_tokens, new_tokens, reading, writing))
    return costs


def _check_whole(model: nn.Module) -> None:
    kinds = sorted({parameter.device.type for parameter in model.parameters()})
    if len(kinds) > 1 or "meta" in kinds:
        raise ValueError(
            f"inference: the model's weights lie on {' and '.join(kinds)}, so energy per token "
            "would be the energy of moving weights; use a GPU that holds the whole model, or more "
            "GPUs"
        )


class _Served:
    """A model and the cache of one batch of prompts, which prefill made and decode leaves so."""

    def __init__(self, model: nn.Module, prompt_BT: Tensor, subject: str) -> None:
        self._model, self._prompt_BT, self._subject = model, prompt_BT, subject
        first = self.prefill()
        self.check(first.logits)
        self._cache = first.past_key_values
        self._first_token_B1 = first.logits[:, -1:].argmax(-1)

    def prefill(self) -> Any:
        return self._model(input_ids=self._prompt_BT, use_cache=True, logits_to_keep=1)

    def decode(self, new_tokens: int) -> Tensor:
        """Write so many tokens, at least one; the last logits."""
        token_B1, logits = self._first_token_B1, None
        for _ in range(new_tokens):
            step = self._model(input_ids=token_B1, past_key_values=self._cache, use_cache=True)
            logits = step.logits
            token_B1 = logits[:, -1:].argmax(-1)
        # Back to the prompt: a decode window holds no second prefill.
        self._cache.crop(-new_tokens)
        assert logits is not None
        return logits

    def check(self, logits: Tensor) -> None:
        """Raise RuntimeError for logits that are not finite, of which argmax makes tokens.

        It waits for the device, so it is asked outside of windows alone. NaN in the cache stays.
        """
        if not logits.amax(-1).isfinite().all():
            raise RuntimeError(
                f"inference: the {self._subject}'s logits are not finite (NaN or infinite), so "
                "what it serves means nothing; its weights may be damaged: check the "
                f"{self._subject}'s files"
            )


def _cost(
    batch_size: int, prompt_tokens: int, new_tokens: int, reading: Phase, writing: Phase
) -> ServingCost:
    shares = (prompt_tokens, new_tokens)

    def whole(name: str, add: Callable[[Sequence[float]], float]) -> float | None:
        values = [getattr(phase, name) for phase in (reading, writing)]
        if None in values:
            return None
        return add([v * n for v, n in zip(values, shares, strict=True)]) / sum(shares)

    return ServingCost(
        batch_size,
        prompt_tokens,
        new_tokens,
        reading,
        writing,
        total_j_per_token=whole("j_per_token", math.fsum),
        total_interval_95_j=whole("interval_95_j", lambda parts: math.hypot(*parts)),
        net_total_j_per_token=whole("net_j_per_token", math.fsum),
        quality=common_quality([reading.quality, writing.quality]),
    )


def _repeat(
    name: str,
    work: Callable[[], Any],
    tokens_per_call: int,
    steps_per_call: int,
    grid: InferenceGrid,
    meter: Meter,
    synchronize: Callable[[], None],
) -> Phase:
    """Windows of at least `grid.min_window_s` until their mean is known to 5 %, or the limit."""
    energies: list[Quantity] = []
    nets: list[float | None] = []
    tokens: list[int] = []
    durations: list[float] = []
    latencies: list[float] = []
    while len(energies) < grid.max_repeats:
        with meter.window(name) as window:
            started_s = call_s = time.monotonic()
            while call_s - started_s < grid.min_window_s:
                work()
                synchronize()
                window.tokens += tokens_per_call
                before_s, call_s = call_s, time.monotonic()
                latencies.append((call_s - before_s) / steps_per_call)
        assert window.row
        row = window.row
        energies.append(row.energy)
        nets.append(row.total_net_energy_j)
        tokens.append(window.tokens)
        durations.append(row.duration_s)
        if len(energies) >= MIN_REPEATS and is_known_well(energies, tokens):
            break
    mean_j, half_width_j = per_token([energy.value for energy in energies], tokens)
    return Phase(
        j_per_token=mean_j,
        interval_95_j=half_width_j,
        net_j_per_token=per_token(nets, tokens)[0],
        quality=common_quality(energy.quality for energy in energies),
        tokens=sum(tokens),
        duration_s=sum(durations),
        repeats=len(energies),
        tokens_per_s=sum(tokens) / sum(durations),
        latency_p50_s=float(np.percentile(latencies, 50)),
        latency_p95_s=float(np.percentile(latencies, 95)),
    )


def per_token(
    joules: Sequence[float | None], tokens: Sequence[int]
) -> tuple[float | None, float | None]:
    """Mean J/token over windows, and half of its 95 % interval.

    None if one window has no joules.
    """
    rates = [j / n for j, n in zip(joules, tokens, strict=True) if j is not None]
    if len(rates) < len(joules):
        return None, None
    return mean_and_half_width(rates)


def is_known_well(energies: Sequence[Quantity], tokens: Sequence[int]) -> bool:
    """Whether the spread between windows is small enough to stop repeating."""
    mean_j, half_width_j = per_token([energy.value for energy in energies], tokens)
    return mean_j is None or (half_width_j or 0.0) <= RELATIVE_INTERVAL * mean_j
