"""What is printed, on any terminal."""

from __future__ import annotations

import sys


def print_any_letter() -> None:
    """Have letters that the terminal's encoding lacks, such as ± in ASCII, printed as escapes.

    Python would end with a traceback at the first one, when the work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
