"""What one check of the surroundings finds here, for tests and for the scripts that they start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry import nvml


def patient_of(*words: str) -> Patient:
    """This machine with these settings; torch does not compute on a GPU."""
    gpus = nvml.list_gpus()
    config = to_config(resolve_gpu(compose(words), gpus))
    gpus = [] if config.gpu.device == "cpu" else gpus
    return Patient(config, gpus, has_cuda=False, work_dir=Path("nowhere"))


def looked(
    check: Callable[[Patient, float], Iterable[Verdict]], *words: str, seconds: float = 1.0
) -> dict[str, Verdict]:
    """Name of each verdict to it. A name that comes twice is refused."""
    return verdicts_on(patient_of(*words), check, seconds=seconds)


def verdicts_on(
    patient: Patient,
    check: Callable[[Patient, float], Iterable[Verdict]],
    *,
    seconds: float = 1.0,
) -> dict[str, Verdict]:
    """The same for a patient that there is already."""
    found: dict[str, Verdict] = {}
    for verdict in check(patient, seconds):
        assert verdict.name not in found
        assert verdict.verdict in (None, "right", "attention", "wrong")
        assert verdict.verdict != "wrong" or verdict.remedy
        found[verdict.name] = verdict
    return found
