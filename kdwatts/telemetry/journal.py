"""Lines of JSON that survive kills and full disks, and never stop the run that writes them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# The lines are those of records.to_json. One encoder for all and no deep copy of the record: in a
# thread that has just woken, the two would cost as much as asking the card.
_encode = json.JSONEncoder(allow_nan=False).encode


class Journal:
    """An append-only JSONL file. A line reaches the kernel as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_lost = 0
        """Lines that could not be written."""
        self._descriptor: int | None = None
        try:
            _drop_torn_line(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            self._warn(error)

    def write(self, records: Iterable[Any]) -> None:
        """Append flat records, one line each, with a single write.

        Failures are counted, not raised.
        """
        lines = [_encode(vars(record)) for record in records]
        if not lines:
            return
        if self._descriptor is None:
            self.num_lost += len(lines)
            return
        data = ("\n".join(lines) + "\n").encode()
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                # A full disk took a part: take it back, or the next line would end in its middle.
                end = os.fstat(self._descriptor).st_size
                os.ftruncate(self._descriptor, end - written)
                raise OSError(f"only {written} of {len(data)} bytes fit")
        except OSError as error:
            if not self.num_lost:
                self._warn(error)
            self.num_lost += len(lines)

    def close(self) -> None:
        """Close the file and say how many lines are missing from it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self.num_lost:
            log.warning("%s lacks %d lines that could not be written", self.path, self.num_lost)

    def _warn(self, error: OSError) -> None:
        log.warning("cannot write %s (%s); the run goes on, its lines are lost", self.path, error)


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a kill left unfinished: what follows would end in its middle."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:
            start = max(0, keep - 4096)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < size:
            log.warning("%s: dropped a torn last line of %d bytes", path, size - keep)
            file.truncate(keep)
