"""Lines of JSON that survive kills and full disks, and never stop the run that writes them."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)

MAX_PENDING = 2000
"""Lines kept in memory while the disk accepts none: a megabyte, or minutes of one GPU's trace."""


class Journal:
    """An append-only JSONL file. A line reaches the kernel whole or not at all.

    A line that cannot be written is kept and goes out before the next line that can be written.
    When too many lines wait, the oldest are dropped. The lines hold what `records.to_json` writes.
    """

    def __init__(self, path: Path, *, tell_lost: bool = False) -> None:
        self.path = path
        self._tell_lost = tell_lost
        self.num_lost = 0
        """Lines given up."""
        self._pending: deque[bytes] = deque()
        self._descriptor: int | None = None
        self._warned = False

    def write(self, records: Iterable[Any]) -> None:
        """Append records (mappings or dataclasses), one line each, with a single write."""
        for record in records:
            # orjson for its speed: this runs in a thread that has just woken, ten times a second.
            try:
                line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError:
                line = orjson.dumps(_plain(record), option=orjson.OPT_APPEND_NEWLINE)
            self._pending.append(line)
        try:
            self._flush()
        except OSError as error:
            if not self._warned:
                log.warning(
                    "cannot write %s (%s); the run goes on and will try again", self.path, error
                )
                self._warned = True
            while len(self._pending) > MAX_PENDING:
                self._pending.popleft()
                self.num_lost += 1

    def close(self) -> None:
        """Close the file. The log says what is missing from it, line by line with `tell_lost`."""
        self.write([])
        for line in self._pending if self._tell_lost else ():
            log.warning("%s is missing this line: %s", self.path, line.decode().rstrip())
        self.num_lost += len(self._pending)
        if self.num_lost:
            log.warning(
                "%s is missing %d lines that could not be written", self.path, self.num_lost
            )
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _flush(self) -> None:
        """Write what is pending. Raises OSError, with the file as it was, when it does not fit."""
        if self._descriptor is None:
            _drop_torn_line(self.path)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        if not self._pending:
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        written = os.write(self._descriptor, data)
        if written == len(data):
            self._pending.clear()
            return
        # A full disk took a part: whole lines stay, and the torn line is removed.
        whole = data.rfind(b"\n", 0, written) + 1
        end = os.fstat(self._descriptor).st_size
        os.ftruncate(self._descriptor, end - (written - whole))
        for _ in range(data.count(b"\n", 0, whole)):
            self._pending.popleft()
        raise OSError(f"only {whole} of {len(data)} bytes could be written")


def _plain(value: Any) -> Any:
    """The value, with what JSON does not hold in words or null: it must not cost the line."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | float | datetime):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return str(value).encode(errors="replace").decode()


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
            log.warning("%s: removed a torn last line of %d bytes", path, size - keep)
            file.truncate(keep)
