"""What is sent: one request, and the load that many of them make."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One request to a server."""

    number: int
    """Counts from 0 in the order of sending."""
    prompt_ids: list[int]
    """The prompt in the model's tokens, without a special token before them."""
    prompt: str
    """The same as text."""
    output_tokens: int
    """Tokens asked for: exactly so many where lengths are forced, else at most."""
    length: str | None = None
    """natural or forced; None does as the workload says."""
    due_s: float | None = None
    """Of a replay, the logged moment in seconds after the start; None in another load."""
    session: int | None = None
    """Of a replay, the conversation: its requests wait for each other. None: it waits for none."""
    is_cut: bool = False
    """Whether prompt or answer is shorter than asked for, to fit the model's context."""
    is_repeated: bool = False
    """Whether the server was sent this text before, in another load."""


@dataclass(frozen=True)
class Load:
    """How many requests, and when."""

    kind: str
    """closed, poisson, gamma, constant or replay."""
    level: float
    """Requests at once in a closed loop, else requests a second; of a replay their mean."""
    burstiness: float = 1.0
    """Shape of gamma gaps; 1 is poisson."""
    speed: float = 1.0
    """Of a replay: at 2 the gaps are half as long as the log's."""

    @property
    def is_closed(self) -> bool:
        """Whether a new request is sent only when one ended."""
        return self.kind == "closed"

    @property
    def is_replay(self) -> bool:
        """Whether requests come when those of a log came."""
        return self.kind == "replay"

    def __str__(self) -> str:
        if self.is_closed:
            return f"{self.level:g} at once"
        if self.is_replay:
            return f"{self.level:.3g} requests/s (replay at speed {self.speed:g})"
        shape = f" {self.burstiness:g}" if self.kind == "gamma" else ""
        return f"{self.level:.3g} requests/s ({self.kind}{shape})"
