"""What the client has seen so far, counted as it comes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kdwatts.serving.client.outcomes import UNFINISHED, Outcome, Second


@dataclass
class Progress:
    """Sums over all requests since the start."""

    sent: int = 0
    ended: int = 0
    failed: int = 0
    unfinished: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0

    def count(self, outcome: Outcome) -> None:
        """Count the end of a request that was sent."""
        if outcome.failure is None:
            self.ended += 1
        elif outcome.failure == UNFINISHED:
            self.unfinished += 1
        else:
            self.failed += 1

    def now(self) -> Second:
        """The sums at this moment."""
        return Second(
            time_s=time.monotonic(),
            sent=self.sent,
            ended=self.ended,
            failed=self.failed,
            in_flight=self.sent - self.ended - self.failed - self.unfinished,
            output_tokens=self.output_tokens,
            prompt_tokens=self.prompt_tokens,
            client_cpu_s=time.process_time(),
        )
