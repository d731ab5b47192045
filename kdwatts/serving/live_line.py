"""What a person sees while a load is measured: requests, tokens/s, W, J/token so far."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from kdwatts.serving.client.outcomes import Second
from kdwatts.serving.client.process import ClientProcess
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.slices import Slice

log = logging.getLogger(__name__)

EVERY_S = 5.0
"""Between two lines."""


class LiveLine:
    """A line of the log every few seconds."""

    def __init__(
        self, load: Load, live_power_w: Callable[[], float | None] | None, *, what: str
    ) -> None:
        """`live_power_w` says what the server's host draws now; None where nobody says it."""
        self._name, self._power_w = f"{load}{what}", live_power_w
        self._next_s = time.monotonic() + EVERY_S
        self._energy_j: float | None = None
        self._since_s = self._until_s = 0.0

    def take(self, slices: Sequence[Slice]) -> None:
        """Take note of the joules until now."""
        values = [one.energy.value for one in slices]
        known = [value for value in values if value is not None]
        self._energy_j = sum(known) if known and len(known) == len(values) else None
        self._since_s, self._until_s = slices[0].start_s, slices[-1].end_s

    def look(self, client: ClientProcess) -> None:
        """Log one line if it is time for it."""
        if time.monotonic() < self._next_s:
            return
        self._next_s += EVERY_S
        _, seconds = client.seen()
        if len(seconds) > 1:
            log.info("serving: %s: %s", self._name, self._line(seconds))

    def _line(self, seconds: Sequence[Second]) -> str:
        last = seconds[-1]
        recent = seconds[max(0, len(seconds) - 1 - round(EVERY_S))]
        spent_s = last.time_s - recent.time_s
        speed = (last.output_tokens - recent.output_tokens) / spent_s if spent_s > 0 else 0.0
        failed = f", {last.failed} failed" if last.failed else ""
        requests = "1 request" if last.ended == 1 else f"{last.ended} requests"
        parts = [f"{requests}{failed}", f"{last.in_flight} under way"]
        parts.append(f"{speed:.4g} tokens/s")
        if self._power_w and (power_w := self._power_w()) is not None:
            parts.append(f"{power_w:.3g} W")
        seen = [one for one in seconds if self._since_s <= one.time_s <= self._until_s]
        if self._energy_j is not None and len(seen) > 1:
            # Seconds and slices end at moments of their own, so two rates are compared.
            tokens = seen[-1].output_tokens + seen[-1].prompt_tokens
            tokens -= seen[0].output_tokens + seen[0].prompt_tokens
            if tokens > 0:
                power_w = self._energy_j / (self._until_s - self._since_s)
                j_per_token = power_w * (seen[-1].time_s - seen[0].time_s) / tokens
                parts.append(f"{j_per_token:.3g} J/token so far")
        return ", ".join(parts)
