"""Printing: in columns, on any terminal. A command ends quietly when its pipe is closed."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

EXIT_UNREAD = 128 + signal.SIGPIPE
"""What a shell says of a tool that ended for want of a reader."""


def print_anywhere() -> None:
    r"""Make stdout and stderr accept every text: `±` becomes `\xb1` where the encoding is ASCII.

    Otherwise one line of a finished run would end its command with a traceback. A stream that the
    shell closed (`>&-`) takes everything and keeps nothing.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns. Each column is as wide as its widest cell, with two spaces between."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


@contextmanager
def until_unread() -> Iterator[None]:
    """A context that flushes stdout at its end, and ends quietly when nobody reads it any more.

    An exit code that reports a failure stays what it is.
    """
    try:
        try:
            yield
        finally:
            _flush()
    except BrokenPipeError as error:
        unread = [stream for stream in (sys.stdout, sys.stderr) if is_unread(stream)]
        if not unread:
            raise  # It was another pipe that broke.
        for stream in unread:
            # What is buffered for it would else be tried again, and told, as Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        ended = error.__context__
        failed = isinstance(ended, SystemExit) and ended.code
        sys.exit(ended.code if isinstance(ended, SystemExit) and failed else EXIT_UNREAD)


def _flush() -> None:
    """Write what was printed. Exits with 1, after one sentence, where stdout takes no more."""
    stdout = sys.stdout
    if stdout is None:  # The shell closed it: `>&-`.
        return
    try:
        stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        found = str(error.strerror).lower()
        sentence = f"stdout cannot be written ({found}); give it a place that can, and run it again"
        print(f"kdwatts: {sentence}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        sys.exit(1)


def is_unread(stream: object) -> bool:
    """Whether a stream is a pipe without a reader."""
    try:
        descriptor = stream.fileno()  # pyright: ignore[reportAttributeAccessIssue]
    except (AttributeError, OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
