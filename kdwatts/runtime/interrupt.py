"""Signals that become a flag, so that a run ends at a step boundary with everything saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Schedulers send SIGTERM or SIGUSR2 before they kill; a person presses Ctrl-C (SIGINT)."""

_received: list[int] = []
_patience_s: float | None = None


class Preempted(Exception):
    """The run was asked to stop and has saved its state; the same command goes on from there."""


def _note(number: int, frame: FrameType | None) -> None:
    del frame
    if number == signal.SIGINT and _received:
        raise KeyboardInterrupt  # A second Ctrl-C means now.
    if _patience_s is not None and not _received:
        signal.setitimer(signal.ITIMER_REAL, _patience_s)
    _received.append(number)


def _give_up(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Preempted(
        f"stopped by {requested()}; the stage in progress did not end within {_patience_s:g} s and "
        "was given up, all stages before it are kept; run the same command to go on"
    )


@contextmanager
def deferred(patience_s: float | None = None) -> Iterator[None]:
    """Within it, SIGNALS only raise the flag that `requested` reads; outside they act as before.

    Work that comes to no boundary in `patience_s` after the first signal, such as an evaluation
    when the time limit is near, is ended wherever it is by a Preempted; None waits for ever.
    """
    global _patience_s
    _received.clear()
    _patience_s = patience_s
    previous = {number: signal.signal(number, _note) for number in SIGNALS}
    previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, _give_up)
    try:
        yield
    finally:
        settle()
        for number, handler in previous.items():
            signal.signal(number, handler)


def settle() -> None:
    """The work has ended, one way or other: signals from now on have nothing to interrupt."""
    global _patience_s
    _patience_s = None
    signal.setitimer(signal.ITIMER_REAL, 0)


def received() -> tuple[int, ...]:
    """The signals since `deferred` began, in order; kept until it begins again."""
    return tuple(_received)


def requested() -> str | None:
    """The name of the first signal received since `deferred` began, or None."""
    return signal.Signals(_received[0]).name if _received else None


def number() -> int:
    """The number of that signal, 0 for none: what ranks tell each other."""
    return _received[0] if _received else 0


def join(number: int) -> None:
    """Take a signal that another rank received for one of our own; 0 is none."""
    if number and not _received:
        _received.append(number)


def stop_if_requested(saved: str) -> None:
    """Raise Preempted when a signal came; `saved` says in words what was kept."""
    name = requested()
    if name:
        raise Preempted(f"stopped by {name}; {saved}; run the same command to go on")
