"""What GPUs cost by the hour, as options state it: one price for all, or one for each kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

OPTION = "--price-per-card-hour"
MOST_USD = 1e9
"""Of a GPU for an hour; more is a slip of the pen."""


@dataclass(frozen=True)
class Rent:
    """US dollars of a GPU for an hour."""

    for_all_usd: float | None = None
    """Of a GPU that no name fits; None without such a price."""
    by_name_usd: dict[str, float] = field(default_factory=dict)
    """Part of what NVML calls a GPU, to its price."""


def rent_of(texts: Sequence[str]) -> Rent:
    """The prices of options such as `2.5` or `H100=2.5,L4=0.9`.

    Raises ValueError for what is no price above 0, and for a name or a price for all given twice.
    """
    found: dict[str, float] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, _, number = part.rpartition("=")
        name = name.strip()
        try:
            usd = float(number)
        except ValueError:
            usd = math.nan
        if not 0 < usd <= MOST_USD:
            raise ValueError(
                f"{OPTION} {part}: that is no price above 0; give one such as 2.5, or one for each "
                "kind of GPU, such as H100=2.5,L4=0.9"
            )
        if name in found:
            whose = f"of {name}" if name else "for all GPUs"
            raise ValueError(f"{OPTION}: the price {whose} was given twice; give it once")
        found[name] = usd
    return Rent(found.pop("", None), found)


def usd_per_gpu_hour(rent: Rent, gpu_name: str) -> float | None:
    """The price of a kind of GPU. None without one.

    Raises ValueError where two names fit it with different prices.
    """
    fitting = {name: usd for name, usd in rent.by_name_usd.items()
               if name.lower() in gpu_name.lower()}  # fmt: skip
    if len(set(fitting.values())) > 1:
        raise ValueError(
            f"{OPTION}: the names {' and '.join(fitting)} both fit {gpu_name!r} and have different "
            "prices; give longer names"
        )
    return next(iter(fitting.values()), rent.for_all_usd)


def mean_usd_per_gpu_hour(rent: Rent, gpu_names: Sequence[str]) -> float | None:
    """The mean price over the GPUs of a replica. None without GPUs, and where one has no price."""
    prices = [usd_per_gpu_hour(rent, name) for name in gpu_names]
    known = [usd for usd in prices if usd is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(prices) else None


def check_names(rent: Rent, gpu_names: Sequence[str]) -> None:
    """Raises ValueError for a name that fits no GPU that was measured."""
    for name in rent.by_name_usd:
        if not any(name.lower() in gpu.lower() for gpu in gpu_names):
            kinds = ", ".join(dict.fromkeys(gpu_names)) or "none"
            raise ValueError(
                f"{OPTION} {name}: no measured GPU is called so; the GPUs are: {kinds}"
            )
