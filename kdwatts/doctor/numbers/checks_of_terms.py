"""Verdicts on the losses of this device: every term and every divergence, in both precisions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from kdwatts.doctor.numbers.cases_of_terms import (
    PRODUCT,
    SMALL,
    Sizes,
    divergence_makers,
    term_makers,
)
from kdwatts.doctor.numbers.terms_in_float64 import (
    FP32_TOLERANCE,
    PRECISIONS,
    Agreement,
    Case,
    Precision,
    compared,
)
from kdwatts.doctor.patient import Patient
from kdwatts.metrics.significant_digits import significant
from kdwatts.records.doctor_record import Verdict

PRODUCT_BYTES = 2 << 30
"""Free memory of a GPU that the vocabulary of a real model needs here. Two heads with their
gradients are 0.2 GiB of it; the rest is room for what torch reserves."""
PRODUCT_S = 12.0
"""With less time than this, float64 on a CPU does not get through a real vocabulary."""

REMEDY = (
    "do not train in this precision; look whether the other one is right, and try another version "
    "of torch or of the driver; where --gpu cpu finds the same, report it"
)


MORE_TIME = "give more --minutes, on a machine that does nothing else"


@dataclass
class Examined:
    """What was found of a group of losses, or of another group of computations."""

    agreements: list[Agreement] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Name to what it raised."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Why something was not looked at, to the names."""

    def leave_out(self, name: str, reason: str) -> None:
        """Note that something is not looked at."""
        self.left_out.setdefault(reason, []).append(name)

    def look(self, name: str, compare: Callable[[], Agreement], until_s: float) -> None:
        """Compare, unless the time `until_s` of the monotonic clock is over."""
        if time.monotonic() > until_s:
            self.leave_out(name, "for lack of time")
            return
        try:
            self.agreements.append(compare())
        except torch.OutOfMemoryError:
            self.leave_out(name, "for lack of GPU memory")
        except Exception as error:  # Whatever a device raises is what is looked for.
            said = " ".join(f"{type(error).__name__}: {error}".split())
            self.failures[name] = said[:160]


def look_at_terms(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """`terms_fp32` and `terms_bf16`: every term that is no dense divergence."""
    yield from _look("terms", patient, term_makers, seconds)


def look_at_divergences(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """`divergences_fp32` and `divergences_bf16`: every divergence from a dense teacher."""
    yield from _look("divergences", patient, divergence_makers, seconds)


def _look(
    group: str,
    patient: Patient,
    makers_of: Callable[[Sizes], Mapping[str, Callable[[], Case]]],
    seconds: float,
) -> Iterator[Verdict]:
    device = torch.device(patient.device)
    sizes = _sizes(device, seconds)
    try:
        yield from examine_losses(group, makers_of(sizes), device, sizes, seconds)
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _sizes(device: torch.device, seconds: float) -> Sizes:
    """The vocabulary of a real model where a GPU has room and there is time; else a small one."""
    if device.type != "cuda" or seconds < PRODUCT_S:
        return SMALL
    free, _ = torch.cuda.mem_get_info(device)
    return PRODUCT if free >= PRODUCT_BYTES else SMALL


def examine_losses(
    group: str,
    makers: Mapping[str, Callable[[], Case]],
    device: torch.device,
    sizes: Sizes,
    seconds: float,
) -> Iterator[Verdict]:
    """A verdict for each precision on a group of losses, within about so many seconds."""
    until_s = time.monotonic() + seconds
    for place, precision in enumerate(PRECISIONS.values()):
        now_s = time.monotonic()
        # Of what is left, each precision that is to come has the same part.
        own_until_s = now_s + (until_s - now_s) / (len(PRECISIONS) - place)
        examined = Examined()
        for name, make in makers.items():
            examined.look(name, partial(_compared, make, precision, device), own_until_s)
        what = f"{group} {precision.words} with a vocabulary of {sizes.vocabulary:,}"
        yield verdict_on(
            f"{group}_{precision.name}", what, examined, against=_against(group, precision)
        )


def _compared(make: Callable[[], Case], precision: Precision, device: torch.device) -> Agreement:
    return compared(make(), precision, device)


def _against(group: str, precision: Precision) -> str:
    source = "the definitions" if group == "divergences" else "the same losses"
    allowed = f"at most {_percent(FP32_TOLERANCE)} off"
    if precision.name == "bf16":
        through = _percent(precision.tolerance_of_products)
        allowed = f"at most {through} off through products in bfloat16, which keeps 8 bits, else "
        allowed += _percent(FP32_TOLERANCE)
    return f"{source} in float64 on the CPU, from the same numbers; {allowed}"


def verdict_on(
    name: str, what: str, examined: Examined, *, against: str, remedy: str = REMEDY
) -> Verdict:
    """The verdict on a group of computations; `what` is that group in words."""
    worst = max(examined.agreements, key=lambda one: one.excess, default=None)
    far = [one for one in examined.agreements if not one.excess <= 1]
    left = "".join(
        f"; not looked at {reason}: {', '.join(names)}"
        for reason, names in examined.left_out.items()
    )
    num = len(examined.agreements) + len(examined.failures)
    more = MORE_TIME if examined.left_out else None
    if not num:
        return Verdict(name, None, f"{what}{left or '; there is none'}", remedy=more)
    num_left = sum(map(len, examined.left_out.values()))
    many = f"{num} of {num + num_left}" if num_left else f"{num}"
    error = worst.worst_part[1] if worst else math.nan
    value = 100 * error if math.isfinite(error) else None
    if far or examined.failures:
        said = [_with_errors(one, too_far=True) for one in sorted(far, key=lambda one: -one.excess)]
        said += [f"{failed} raised {error}" for failed, error in examined.failures.items()]
        found = f"{len(said)} of {num} {what} are wrong: {'; '.join(said)}{left}"
        return Verdict(name, "wrong", found, against, remedy, value=value, unit="%")
    assert worst
    near = f"nearest to its limit is {_with_errors(worst)}"
    found = f"{many} {what} are those of float64; {near}{left}"
    return Verdict(name, "right", found, against, more, value=value, unit="%")


def _with_errors(one: Agreement, *, too_far: bool = False) -> str:
    """Its name, and its worst error or all that are too large, each beside what is allowed."""
    parts = one.compared_parts() if too_far else [one.worst_part]
    said = [
        f"{what} {_off(error)}, {_percent(allowed)} allowed"
        for what, error, allowed in parts
        if not (too_far and error <= allowed)
    ]
    return f"{one.name} ({'; '.join(said)})"


def _off(error: float) -> str:
    return f"{_percent(error)} off" if math.isfinite(error) else "NaN or infinite"


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %"
