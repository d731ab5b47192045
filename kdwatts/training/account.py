"""The account of a training run: how far it is after each step, and what is then due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from kdwatts.runtime import interrupt
from kdwatts.training.checkpoint import Progress
from kdwatts.training.energy_budget import JouleBudget
from kdwatts.training.parallel import largest, rank
from kdwatts.training.training_run import TrainingRun


@dataclass(frozen=True)
class Due:
    """What is to be done after a step. It is the same on every rank."""

    end: bool
    """Training is over."""
    log: bool
    held_out: bool
    """The loss on held-out rows is to be read."""
    save: bool
    """A checkpoint is to be made: it is time, or a signal asks for a stop."""

    @property
    def keep(self) -> bool:
        """Whether the current weights are saved or read."""
        return self.end or self.held_out or self.save


class Account:
    """Counts tokens, seconds and joules of this attempt, added to those of earlier attempts."""

    def __init__(self, run: TrainingRun, earlier: Progress) -> None:
        """Raises whatever `JouleBudget` raises. Every rank must make one."""
        self._run, self._earlier, self._budget = run, earlier, None
        budget_kj = run.settings.budget_kj
        if budget_kj is not None and rank() == 0:
            self._budget = JouleBudget(budget_kj, run.own_energy, start_j=earlier.start_energy_j)
        (self.used,) = largest([self._used()])
        """Share of the joules that is gone; 1 or more ends the run."""
        self._started_s = self._saved_s = time.monotonic()
        self._reading_s = 0.0
        self.elapsed_s = 0.0
        """Seconds of training in this attempt."""

    def _used(self) -> float:
        return self._budget.used() if self._budget else 0.0

    def after_step(self, progress: Progress, num_targets: int) -> tuple[Progress, Due]:
        """The progress after one more step with so many targets, and what is due."""
        run, earlier = self._run, self._earlier
        run.window.tokens += num_targets
        run.window.steps += 1
        self.elapsed_s = time.monotonic() - self._started_s - self._reading_s
        # The first rank decides for all: they must save and end at the same step.
        is_time = time.monotonic() - self._saved_s > run.settings.checkpoint_every_s
        saves = is_time and rank() == 0
        self.used, saves, signal = largest([self._used(), float(saves), float(interrupt.number())])
        interrupt.join(int(signal))
        progress = replace(
            progress,
            step=progress.step + 1,
            num_targets=earlier.num_targets + run.window.tokens,
            train_duration_s=earlier.train_duration_s + self.elapsed_s,
            data_wait_s=earlier.data_wait_s + run.window.data_wait_s,
            start_energy_j=self._budget.start_j if self._budget else None,
            stopped_by="budget_kj" if self.used >= 1.0 else "target_tokens",
        )
        return progress, self._due(progress.step, save=bool(saves or signal))

    def _due(self, step: int, *, save: bool) -> Due:
        run, settings = self._run, self._run.settings
        end = step == run.num_steps or self.used >= 1.0
        reads = run.held_out is not None and (end or step % settings.heldout_every == 0)
        return Due(end, log=end or step % settings.log_every == 0, held_out=reads, save=save)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose seconds are not counted as training."""
        start_s = time.monotonic()
        yield
        self._reading_s += time.monotonic() - start_s

    def note_saved(self) -> None:
        """Restart the time to the next checkpoint."""
        self._saved_s = time.monotonic()
