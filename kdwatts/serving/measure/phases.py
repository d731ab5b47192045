"""Reading and writing apart: joules of a prompt token and of a token written."""

# S slices of two mixes.

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kdwatts.metrics.quantity import Quantity, add
from kdwatts.records.serving_record import UNKNOWN, Figure
from kdwatts.serving.measure.figures import figure_of
from kdwatts.serving.measure.slices import Slice, of_the_same_components

LEAST_S = 1.0
"""Shortest slice. Below it, the error of the counter's edges is too much of it."""
FEWEST = 8
"""Slices without which nothing is fitted: three unknowns, and five to tell their errors."""
MIXES_APART = 2.0
"""The mixes differ when the tokens written for each prompt token, at the 90th percentile of the
slices, are at least so many times those at the 10th."""
WIDEST = 0.25
"""Half of an interval over its value, above which a figure is unknown."""


def prefill_and_decode(slices: Sequence[Slice]) -> tuple[Figure, Figure]:
    """Joules for each prompt token computed, and for each token written, above what time costs.

    Least squares of dE = P0 dt + a dPrefill + b dOut over slices of two mixes of the same server,
    such as max_tokens 1 and n; a and b are returned. Prompt tokens are those that the engine
    computed: what a prefix cache held cost nothing. Two loads that never vary tell two of the three
    unknowns only: add slices of the parked server, or of another level of load.

    Counters are needed, as time cannot split the joules: with chunked prefill, a step reads for one
    request and writes for others. P0 takes all that follows time alone, so a and b are of tokens
    added to a server that runs already.

    Both are unknown where one of them is below 0, or has an interval of over 25 % of its value to
    either side, where the slices are all of one mix, or where counters or joules are missing.
    """
    known = [one for one in of_the_same_components(slices) if _is_known(one)]
    if len(known) < FEWEST:
        return UNKNOWN, UNKNOWN
    prompts_S = np.array([one.counters["computed_prompt_tokens"] for one in known])
    written_S = np.array([one.counters["output_tokens"] for one in known])
    if not _are_two_mixes(prompts_S, written_S):
        return UNKNOWN, UNKNOWN
    columns = [np.array([one.duration_s for one in known]), prompts_S, written_S]
    fitted = _least_squares(np.stack(columns, axis=1), known)
    if fitted is None or any(_is_unknown(one) for one in fitted):
        return UNKNOWN, UNKNOWN
    prefill, decode = (figure_of(one, one.quality) for one in fitted)
    return prefill, decode


def _is_known(one: Slice) -> bool:
    counts = [one.counters.get(name) for name in ("computed_prompt_tokens", "output_tokens")]
    has_counts = all(count is not None and count >= 0 for count in counts)
    return has_counts and one.energy.value is not None and one.duration_s >= LEAST_S


def _are_two_mixes(prompts_S: np.ndarray, written_S: np.ndarray) -> bool:
    """One mix alone must not be fitted: its ratio varies by what is under way at the edges only."""
    busy = prompts_S + written_S > 0
    if not busy.any():
        return False
    per_prompt_token = written_S[busy] / np.maximum(prompts_S[busy], 1.0)
    low, high = np.percentile(per_prompt_token, (10, 90), method="nearest")
    return bool(high > 0 and high >= MIXES_APART * low)


def _least_squares(columns: np.ndarray, slices: Sequence[Slice]) -> list[Quantity] | None:
    """a and b with their errors. None where the columns do not tell them apart."""
    joules_S = np.array([one.energy.number for one in slices])
    sizes = np.linalg.norm(columns, axis=0)
    if not np.all(sizes > 0):
        return None
    scaled = columns / sizes  # So that the rank does not depend on units.
    solved, _, rank, _ = np.linalg.lstsq(scaled, joules_S, rcond=1e-6)
    if rank < columns.shape[1]:
        return None
    degrees = len(slices) - columns.shape[1]
    variance = float(((joules_S - scaled @ solved) ** 2).sum()) / degrees
    errors = np.sqrt(variance * np.diag(np.linalg.inv(scaled.T @ scaled))) / sizes
    energy = add([one.energy for one in slices])
    # All slices are read by one meter: its relative calibration is that of every coefficient.
    shared = None if energy.shared_sd is None else energy.shared_sd / (energy.value or math.inf)
    return [
        Quantity(
            float(value),
            float(error),
            None if shared is None else abs(shared * float(value)),
            "J/token",
            energy.quality,
            degrees,
        )
        for value, error in list(zip(solved / sizes, errors, strict=True))[1:]
    ]


def _is_unknown(one: Quantity) -> bool:
    half = one.random_half_width
    return half is None or one.number <= 0 or half > WIDEST * one.number
