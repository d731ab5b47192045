"""A machine without a GPU, for the checks of speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.doctor.patient import Patient
from kdwatts.telemetry.nvml import Device


@pytest.fixture
def patient(configure: Callable[..., Any], tmp_path: Path) -> Callable[..., Patient]:
    """This machine's CPU, with the settings of some words."""

    def make(*words: str, gpus: tuple[Device, ...] = ()) -> Patient:
        return Patient(
            configure(*(words or ("gpu=cpu", "model=tiny"))), list(gpus), False, tmp_path
        )

    return make
