"""Why a server ended, in its own words: the one line of its log that says it."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_BYTES = 262_144
"""More than the tracebacks of all processes of a server."""
_MOST_CHARACTERS = 300

_DECORATION = re.compile(
    r"\x1b\[[0-9;]*m"  # colours
    r"|^\((?:\w+ )+pid=\d+\)\s*"  # vLLM names the process
    r"|(?<![^\s)])(?:ERROR|CRITICAL|WARNING|INFO)\s+\d\d-\d\d \d\d:\d\d:\d\d \[[^\]]+\]\s?"
    r"|[│╭╰╮╯─]"  # boxes around the refusals of command lines
)
_REASON = re.compile(
    r"""^(
        (?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|NotFound|Interrupt|Unavailable):\s\S.*
        | Value\ error,\s.*            # pydantic, below `1 validation error for ...`
        | .*?\berror:\s.*              # argparse, and C++ programs
        | Error:\s.*                   # click
        | .*\[Errno\ \d+\].*           # uvicorn says so of a port
    )$""",
    re.VERBOSE,
)
_SAYS_NOTHING = re.compile(
    r"root cause|validation errors? for|initialization failed|^SystemExit|^KeyboardInterrupt"
)
"""Errors that only say that there was another."""


def last_words(path: Path) -> str | None:
    """The last line of a log that gives a reason; else its last line. None where it is empty.

    vLLM ends with a traceback of each of its processes, and the reason is in an earlier one.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    raw = [_DECORATION.sub("", line) for line in text.split("\n")]
    lines = [line.strip() for line in raw if line.strip()]
    reasons = [line for line in lines if _REASON.match(line) and not _SAYS_NOTHING.search(line)]
    chosen = (reasons or lines or [""])[-1]
    return chosen.partition(" [type=")[0][:_MOST_CHARACTERS] or None  # pydantic repeats the input
