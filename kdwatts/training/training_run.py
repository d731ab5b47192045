"""What stays the same over a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdwatts.config.training import Training
from kdwatts.metrics.quantity import Quantity
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.open_window import OpenWindow
from kdwatts.training.held_out_loss import HeldOut
from kdwatts.training.learner import Learner
from kdwatts.training.rollout import Rollouts
from kdwatts.training.text_rows import TextRows


@dataclass(frozen=True)
class TrainingRun:
    """Who learns, from which text, with which settings, and where this is measured and kept."""

    learner: Learner
    text: TextRows
    settings: Training
    rollouts: Rollouts | None
    """Puts the student's own text into the student's rows."""
    held_out: HeldOut | None
    own_energy: Callable[[], Quantity]
    """Joules that all attempts at this student have drawn so far."""
    meter: Meter
    window: OpenWindow
    """Open while the run trains. Its tokens, steps and waits are counted as they happen."""
    checkpoint_dir: Path
    log_path: Path
    attempt: int

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps in the schedule."""
        return self.text.schedule.num_steps
