"""A process that watches a file or folders while another one puts them in place.

It is started by path, with no library but Python's own, so that it is there at once. It ends when
its standard input is closed, and prints lines of JSON.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path

LOOKS_AT_ONCE = 50
"""Looks between two checks whether it should end."""
PATIENCE_S = 60.0
"""How long it waits for a folder; one that cannot be listed for so long counts as not whole."""


def watch_file(path: Path) -> None:
    """Read a file that is being replaced, again and again, and count what should never be seen."""
    num_reads = num_absent = num_torn = 0
    print(json.dumps("ready"), flush=True)
    while not _is_over():
        for _ in range(LOOKS_AT_ONCE):
            num_reads += 1
            try:
                value = json.loads(path.read_text("utf-8"))
                num_torn += value["first"] != value["last"]
            except FileNotFoundError:
                num_absent += 1
            except (OSError, ValueError, KeyError, TypeError):
                num_torn += 1
    print(json.dumps({"reads": num_reads, "absent": num_absent, "torn": num_torn}), flush=True)


def watch_folders(parent: Path, names: list[str], num_files: int) -> None:
    """See each folder come, one after the other, and say how it was when it was first seen."""
    print(json.dumps("ready"), flush=True)
    for name in names:
        num_before = num_files_seen = 0
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            try:
                num_files_seen = len(os.listdir(parent / name))
                break
            except OSError:  # It is not there yet; a file server may say so in other ways.
                num_before += 1
            if num_before % LOOKS_AT_ONCE == 0 and _is_over():
                return
        is_whole = num_files_seen == num_files
        print(json.dumps({"before": num_before, "whole": is_whole}), flush=True)


def _is_over() -> bool:
    """Whether standard input was closed; nothing is ever written to it."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    watched = Path(sys.argv[1])
    if len(sys.argv) == 2:
        watch_file(watched)
    else:
        watch_folders(watched, sys.argv[3:], int(sys.argv[2]))
