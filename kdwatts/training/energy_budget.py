"""A limit on the joules that building a student may draw."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kdwatts.metrics.quantity import Quantity

log = logging.getLogger(__name__)


class JouleBudget:
    """The share of `budget_kj` that is used, counted from the energy at which training began.

    The joules of loading are part of the limit but no progress of training. The learning rate
    follows the share of what was left then, so it warms up and decays completely.
    """

    def __init__(
        self, budget_kj: float, own_energy: Callable[[], Quantity], *, start_j: float | None = None
    ) -> None:
        """Begin at `start_j` joules, which a checkpoint remembers, or at what is drawn by now.

        Raises RuntimeError when energy is not known, ValueError when nothing is left for training.
        """
        self._own_energy, self._share, self._warned = own_energy, 0.0, False
        self._limit_j = 1000 * budget_kj
        drawn_j = own_energy().value
        if drawn_j is None:
            raise RuntimeError(
                f"training.budget_kj={budget_kj} needs the energy of every attempt at this "
                "student, but nothing here measures or estimates it; set "
                "telemetry.cpu_estimate=tdp, or set budget_kj=null and training.target_tokens"
            )
        self.start_j = drawn_j if start_j is None else start_j
        if self.start_j >= self._limit_j:
            raise ValueError(
                f"training.budget_kj={budget_kj} is used up before the first step, since loading "
                f"and compiling drew {self.start_j / 1000:.3g} kJ; raise it"
            )

    def used(self) -> float:
        """Share of training's joules that is used: 0 at the start, 1 or more at the end.

        It never falls. When a device or a node falls silent and the energy is not known, it stays
        where it was, and the token budget decides. What was drawn meanwhile counts once known.
        """
        drawn_j = self._own_energy().value
        if drawn_j is not None:
            share = (drawn_j - self.start_j) / (self._limit_j - self.start_j)
            self._share = max(self._share, share)
        elif not self._warned:
            self._warned = True
            log.warning(
                "distill: the energy is not known now; until it is again, training ends by "
                "training.target_tokens"
            )
        return self._share
