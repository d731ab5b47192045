"""Numbers of training that are not finite: reported at their first step, and never saved.

The numbers of a step stay on the device. They are checked where the loop waits for the device
anyway. On a CPU there is nothing to wait for, so they are checked in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from kdwatts.config.training import Training
from kdwatts.models.sharding import is_sharded
from kdwatts.training.parallel import largest

TEACHER = "what the teacher says"


class FirstNotFinite:
    """The first step at which each number of training was not finite."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._steps: Tensor | None = None

    def look(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        """Note which numbers of this step, counted from 1, are not finite. It waits for no device.

        The names are the same in every step, in the order in which they are reported.
        """
        bad = ~torch.stack([number.detach().float() for number in numbers.values()]).isfinite()
        if self._steps is None:
            self._names, self._steps = list(numbers), torch.zeros_like(bad, dtype=torch.int64)
        self._steps = torch.where((self._steps == 0) & bad, step, self._steps)

    def earliest(self) -> tuple[str, int] | None:
        """The number to report and its step. None where all were finite.

        Every rank must call it.
        """
        if self._steps is None:
            return None
        steps = self._steps.tolist()
        firsts = largest([-float(step) if step else -float("inf") for step in steps])
        first = max(firsts)
        if first == -float("inf"):
            return None
        return self._names[firsts.index(first)], int(-first)

    def refuse(self, settings: Training) -> None:
        """Raise RuntimeError, with what helps, where a number was not finite."""
        found = self.earliest()
        if found:
            name, step = found
            raise RuntimeError(not_finite(name, step, settings, has_moved=step > 1))


def not_finite(name: str, step: int, settings: Training, *, has_moved: bool) -> str:
    """One sentence that a number is not finite at a step, with the remedies that can help.

    `has_moved` is false for what was computed before the optimizer's first step: the learning rate
    has no part in it.
    """
    if name == TEACHER:
        cause = "its weights may be damaged; check the files of model.teacher"
    elif not has_moved:
        cause = (
            "nothing was learned before this step; check the weights of the student and of the "
            "terms"
        )
    else:
        cause = f"the training diverged; lower training.learning_rate={settings.learning_rate:g}"
    precise = "" if settings.precision == "fp32" else " or use training.precision=fp32"
    return f"distill: {name} is not finite (NaN or infinite) at step {step}: {cause}{precise}"


def check_weights(modules: Iterable[nn.Module], step: int, settings: Training) -> None:
    """Raise RuntimeError unless all weights are finite after a step. Every rank must call it."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    # Of a sharded weight the local part: the other ranks check theirs.
    parts = [p.to_local() if is_sharded(p) else p for p in parameters]  # pyright: ignore[reportAttributeAccessIssue]
    bad = torch.stack([~part.detach().isfinite().all() for part in parts]).any()
    (is_bad,) = largest([float(bad)])
    if is_bad:
        raise RuntimeError(not_finite("a trained weight", step, settings, has_moved=True))
