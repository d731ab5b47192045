"""What is printed reaches any terminal: a sign that its encoding lacks is written as its code."""

from __future__ import annotations

import io
import sys


def print_anywhere() -> None:
    """Let stdout and stderr take every text: `±` is `\\xb1` where the encoding is ASCII.

    Without it a line of a finished run ends its command with a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
