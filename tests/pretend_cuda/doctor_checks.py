"""Checks of the doctor on the pretended device."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.doctor.numbers import verdicts_on_terms
from kdwatts.doctor.numbers.checks_of_numbers import NUMBERS
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed import machine_rates
from kdwatts.doctor.speed.checks_of_speed import SPEED

SMALL = ("gpu=h100", "model=tiny", "training.sequence_length=32", "training.micro_batch=8")
SPEED_S, NUMBERS_S = 4.0, 600.0
"""Rates take all of their seconds; numbers end when they are compared."""
MEMORY: dict[str, Any] = {
    "mem_get_info": lambda *_: (8 << 30, 16 << 30),
    "memory_reserved": lambda *_: 0,
    "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 1 << 30,
    "reset_peak_memory_stats": lambda *_: None,
}


def look(check: str, words: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The verdicts of a check by its name."""
    (one,) = (one for one in (*SPEED, *NUMBERS) if one.name == check)
    seconds = SPEED_S if one in SPEED else NUMBERS_S
    verdicts_on_terms.PRODUCT_S = math.inf  # Small vocabularies do.
    # A CPU multiplies small matrices, and nothing counts the memory of a device that is pretended.
    for name, value in MEMORY.items():
        setattr(torch.cuda, name, value)
    machine_rates.PRODUCT_SIZE = {"cuda": 256, "cpu": 256}
    machine_rates.ARRAY_BYTES = {"cuda": 1 << 20, "cpu": 1 << 20}
    with tempfile.TemporaryDirectory() as folder:
        config = to_config(compose([*SMALL, *words]))
        patient = Patient(config, [], True, Path(folder))
        return [asdict(verdict) for verdict in one.look(patient, seconds)]
