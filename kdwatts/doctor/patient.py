"""The machine under examination, and one check of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kdwatts.config.experiment import Config
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry.nvml import Device


@dataclass(frozen=True)
class Patient:
    """The machine under examination."""

    config: Config
    """What `--model`, `--gpu` and other words choose, with the defaults of a run."""
    gpus: list[Device]
    """The GPUs of this job. The first is examined."""
    has_cuda: bool
    """Whether torch can compute on the first GPU."""
    work_dir: Path
    """An empty folder for what checks write. It is removed at the end."""

    @property
    def gpu(self) -> Device | None:
        """The GPU that is examined."""
        return self.gpus[0] if self.gpus else None

    @property
    def lacks_cuda(self) -> bool:
        """Whether there is a GPU, and torch cannot compute on it."""
        return self.gpu is not None and not self.has_cuda

    @property
    def device(self) -> str:
        """torch's name of what computes here: cuda or cpu."""
        return "cuda" if self.has_cuda else "cpu"


@dataclass(frozen=True)
class Check:
    """Something to look at."""

    name: str
    """What it is, in words: the progress bar shows it."""
    wants_s: float
    """Its part of an examination of five minutes."""
    least_s: float
    """With less time than this it finds nothing."""
    look: Callable[[Patient, float], Iterable[Verdict]]
    """Its verdicts. They come as they are found, within the seconds it is given.

    What it raises becomes a verdict: the check itself is wrong.
    """
    computes: bool = False
    """Whether it computes by torch. On a CPU beside a GPU that torch cannot use it is not made: its
    figures would pass for the GPU's."""
    takes_no_time: Callable[[Patient], bool] = lambda patient: False
    """Whether what it looks at is missing on this machine, so that it only says so."""
