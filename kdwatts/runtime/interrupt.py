"""Signals that set a flag, so that a run ends at the end of a step with everything saved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Schedulers send SIGTERM or SIGUSR2 before they kill; a person presses Ctrl-C (SIGINT)."""

EXIT_INTERRUPTED = 128 + signal.SIGINT
"""What a shell says of a command that Ctrl-C ended."""

_received: list[int] = []
_patience_s: float | None = None
_works = False
_error: Exception | None = None


class Preempted(Exception):
    """The run was asked to stop and has saved its state. The same command continues it."""


def _note(number: int, frame: FrameType | None) -> None:
    del frame
    if number == signal.SIGINT and _received:
        raise KeyboardInterrupt  # A second Ctrl-C means now.
    if _patience_s is not None and not _received:
        signal.setitimer(signal.ITIMER_REAL, _patience_s)
    _received.append(number)


def _give_up(number: int, frame: FrameType | None) -> None:
    del number, frame
    if not _works:
        return
    if _error:
        raise _error
    raise Preempted(
        f"stopped by {requested()}; the stage in progress did not end within {_patience_s:g} s and "
        "was given up, all stages before it are kept; run the same command to go on"
    )


@contextmanager
def ended_in_a_sentence(command: str) -> Iterator[None]:
    """A context that a Ctrl-C ends with one sentence and exit code 130, where it ends it at all."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{command}: stopped by Ctrl-C; run the same command to go on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


@contextmanager
def deferred(patience_s: float | None = None) -> Iterator[None]:
    """A context in which SIGNALS only set the flag that `requested` reads.

    Work that reaches no end of a step within `patience_s` seconds after the first signal, such as
    an evaluation near the time limit, is ended by a Preempted wherever it is. None waits for ever.
    """
    global _patience_s, _works, _error
    _received.clear()
    _patience_s, _error = patience_s, None
    previous = {number: signal.signal(number, _note) for number in SIGNALS}
    # It stays: `give_up` may send it at any moment, and without a handler it ends the process.
    signal.signal(signal.SIGALRM, _give_up)
    _works = True
    try:
        yield
    finally:
        settle()
        for number, handler in previous.items():
            signal.signal(number, handler)


def settle() -> None:
    """Say that the work has ended: later signals have nothing to interrupt."""
    global _patience_s, _works
    _patience_s, _works = None, False
    signal.setitimer(signal.ITIMER_REAL, 0)


def give_up(error: Exception) -> None:
    """Have the main thread raise this where it is, unless its work has ended. For another thread.

    Inside a library that runs no Python, such as a collective, the main thread raises nothing.
    """
    global _error
    if _works:
        _error = error
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)


def received() -> tuple[int, ...]:
    """The signals since `deferred` began, in order. They are kept until it begins again."""
    return tuple(_received)


def requested() -> str | None:
    """The name of the first signal received since `deferred` began. None without one."""
    return signal.Signals(_received[0]).name if _received else None


def number() -> int:
    """The number of that signal, which ranks tell each other. 0 for none."""
    return _received[0] if _received else 0


def join(number: int) -> None:
    """Take a signal that another rank received as our own. 0 is none."""
    if number and not _received:
        _received.append(number)


def stop_if_requested(saved: str) -> None:
    """Raise Preempted when a signal came. `saved` says in words what was kept."""
    name = requested()
    if name:
        raise Preempted(f"stopped by {name}; {saved}; run the same command to go on")
