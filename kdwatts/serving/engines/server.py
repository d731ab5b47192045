"""A server that answers requests: who it is, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kdwatts.records.serving_record import EngineRecord
from kdwatts.telemetry.remote_meter import RemoteMeter


@dataclass(frozen=True)
class Server:
    """A server that was healthy when this was made."""

    record: EngineRecord
    url: str
    """Such as http://127.0.0.1:8000, without a slash at its end."""
    model: str
    """The model's name in requests."""
    dialect: str
    """A key of engines.dialects.DIALECTS: how a request to it is written."""
    pid: int | None
    """The process whose descendants, with itself, are the server. None where it is not to be
    seen: on another host, in a container, or another user's."""
    device_indices: tuple[int, ...] | None = None
    """Which of the visible GPUs it serves on, counted from 0. None for the CPU, and where that is
    not known: its joules are then those of all GPUs of the job."""
    meter: RemoteMeter | None = None
    """The meter on the server's host; None where the meter of this host measures it."""
    max_positions: int | None = None
    """Tokens of the longest prompt and answer together; None where it is not known."""
    read_counters: Callable[[], dict[str, float] | None] = field(default=lambda: None)
    """Reads the engine's own counters: `computed_prompt_tokens` and `output_tokens` since it
    started. None where it has none."""
    why_dead: Callable[[], str | None] = field(default=lambda: None)
    """One sentence with the server's own last words if it has ended; None while it runs."""
