"""Writing a cache in parts, by one process or by many. A finished part survives a kill.

A part is a folder of a few thousand positions. Its maker fills a private folder and renames it. So
a part that exists is whole. When two make the same part, the second one's is dropped. The makers
share nothing else: ranks and jobs need no lock, and their clocks need not agree.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kdwatts.losses.chunks import ROWS_PER_FORWARD
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime.fingerprint import sha256_file
from kdwatts.runtime.work_behind import work_behind
from kdwatts.teacher.cache_record import (
    SAMPLES_NAME,
    STATES_NAME,
    Form,
    OnHost,
    encode_rows,
    on_host,
)
from kdwatts.teacher.signals import Signals

INDEX_NAME = "signals.json"
HEAD_NAME = "head.safetensors"
ROWS_NAME = "rows.npy"
PART_NAME = "part.json"
_WRITING = ".writing-"

PART_POSITIONS = 1 << 16
"""A kill costs a maker at most these positions. A reader checks a part as a whole."""
PART_BYTES = 1 << 26

BATCHES_BEHIND = 2
"""Batches that wait to be encoded, or are, while the teacher reads the next one."""
NOT_FINITE = "teacher: what the teacher says is not finite (NaN or infinite); check its files"

SignalsOf = Callable[[NDArray[np.int64]], Signals]
"""The teacher's signals of some rows of the data."""


def rows_per_part(form: Form) -> int:
    """Number of rows of every part but the last. It depends on the form alone."""
    by_size = PART_BYTES // int(form.row_bytes)
    return max(1, min(PART_POSITIONS // form.sequence_length, by_size))


def num_parts(num_rows: int, form: Form) -> int:
    """Number of parts of a cache of so many rows."""
    return -(-num_rows // rows_per_part(form))


def part_dir(directory: Path, number: int) -> Path:
    """The folder of one part."""
    return directory / f"part-{number:06d}"


def write_parts(
    parts_dir: Path,
    rows: NDArray[np.int64],
    form: Form,
    signals_of: SignalsOf,
    *,
    rank: int = 0,
    num_ranks: int = 1,
    not_finite: str = NOT_FINITE,
) -> None:
    """Make every `num_ranks`-th part, from `rank` on, that does not exist yet.

    `rows` must ascend. `signals_of` is called here. What it gives is encoded and written by a
    thread, so that a GPU computes meanwhile. After an exception of `signals_of` the parts that have
    all their rows are finished.

    Raises RuntimeError with `not_finite`, a sentence, where a number of the teacher's is not.
    """
    assert np.all(np.diff(rows) > 0), "a reader finds rows by bisection"
    numbers = (
        number
        for number in range(rank, num_parts(len(rows), form), num_ranks)
        if not part_dir(parts_dir, number).is_dir()
    )
    _make(parts_dir, numbers, rows, form, signals_of, not_finite)


def write_part(
    parts_dir: Path,
    number: int,
    rows: NDArray[np.int64],
    form: Form,
    signals_of: SignalsOf,
    *,
    not_finite: str = NOT_FINITE,
) -> None:
    """Make one part of the cache of `rows`, as `write_parts` does."""
    _make(parts_dir, [number], rows, form, signals_of, not_finite)


def _make(
    parts_dir: Path,
    numbers: Iterable[int],
    rows: NDArray[np.int64],
    form: Form,
    signals_of: SignalsOf,
    not_finite: str,
) -> None:
    step = rows_per_part(form)
    with ExitStack() as stack, work_behind(BATCHES_BEHIND) as later:
        for number in numbers:
            part_rows = rows[number * step : (number + 1) * step]
            part = PartWriter(parts_dir, number, part_rows, form, not_finite)
            stack.callback(part.drop)
            for start in range(0, len(part_rows), ROWS_PER_FORWARD):
                some = part_rows[start : start + ROWS_PER_FORWARD]
                later(part.add, on_host(signals_of(some), len(some), form))


class PartWriter:
    """A part that gets its batches one after another. It gets its name when it has all rows."""

    def __init__(
        self,
        parts_dir: Path,
        number: int,
        part_rows: NDArray[np.int64],
        form: Form,
        not_finite: str,
    ) -> None:
        self._rows, self._form, self._not_finite = part_rows, form, not_finite
        self._target = part_dir(parts_dir, number)
        self._work_dir = parts_dir / f"{self._target.name}{_WRITING}{uuid.uuid4().hex[:8]}"
        self._work_dir.mkdir(parents=True)
        samples = [SAMPLES_NAME] if form.plan.samples else []
        self._hashes = {name: hashlib.sha256() for name in (*form.records, *samples)}
        self._files: dict[str, BinaryIO] = {}
        self._num_rows = self._num_entries = 0

    def add(self, batch: OnHost) -> None:
        """Encode the next rows and write them. The last ones finish the part."""
        batch.wait()
        if batch.worst.isnan():
            raise RuntimeError(self._not_finite)
        if not self._files:
            self._files = {name: (self._work_dir / name).open("wb") for name in self._hashes}
        found, entries = encode_rows(batch, self._form)
        if self._form.plan.samples:
            found[STATES_NAME]["sample_start"] += self._num_entries
            self._num_entries += len(entries)
            self._write(SAMPLES_NAME, entries.tobytes())
        for name, records in found.items():
            self._write(name, records.tobytes())
        os.utime(self._work_dir)
        # A batch that failed is not counted: then the part is never finished.
        self._num_rows += batch.num_rows
        if self._num_rows == len(self._rows):
            self._finish()

    def drop(self) -> None:
        """Remove what is not finished. A finished part stays."""
        with ExitStack() as stack:
            # On a full disk a file cannot be closed either. Its folder is removed all the same.
            stack.callback(shutil.rmtree, self._work_dir, ignore_errors=True)
            for file in self._files.values():
                stack.callback(file.close)

    def _write(self, name: str, content: bytes) -> None:
        self._files[name].write(content)
        self._hashes[name].update(content)

    def _finish(self) -> None:
        if self._form.plan.samples:
            # Four bytes can then be read where the last entry of three begins.
            self._write(SAMPLES_NAME, b"\0")
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        record = {
            "schema": SCHEMA,
            "rows": [int(self._rows[0]), int(self._rows[-1])],
            "num_rows": len(self._rows),
            "bytes": {name: (self._work_dir / name).stat().st_size for name in self._hashes},
            "sha256": {name: digest.hexdigest() for name, digest in self._hashes.items()},
        }
        write_json(self._work_dir / PART_NAME, record)
        try:
            self._work_dir.rename(self._target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            self.drop()  # Another maker was faster.


def missing_parts(parts_dir: Path, num_rows: int, form: Form) -> list[int]:
    """Numbers of the parts that are not finished."""
    numbers = range(num_parts(num_rows, form))
    return [number for number in numbers if not part_dir(parts_dir, number).is_dir()]


def complete_parts(
    parts_dir: Path,
    rows: NDArray[np.int64],
    form: Form,
    signals_of: SignalsOf,
    *,
    patience_s: float,
    check: Callable[[], None],
    poll_s: float = 0.2,
    not_finite: str = NOT_FINITE,
) -> None:
    """Return when all parts exist. Makes parts that nobody works on, and waits for the others.

    Whoever makes a part touches its folder. A part that was not touched for `patience_s` seconds,
    by this process's own clock, is given up and made here. `check` is called at every look and may
    raise.
    """
    seen_s: dict[tuple[Path, int], float] = {}

    def is_made(number: int) -> bool:
        for path in parts_dir.glob(f"{part_dir(parts_dir, number).name}{_WRITING}*"):
            try:
                touched_ns = path.stat().st_mtime_ns
            except FileNotFoundError:  # It has just got its name, or was dropped.
                continue
            first_s = seen_s.setdefault((path, touched_ns), time.monotonic())
            if time.monotonic() - first_s < patience_s:
                return True
        return False

    while missing := missing_parts(parts_dir, len(rows), form):
        check()
        # From the end, which others reach last.
        free = next((number for number in reversed(missing) if not is_made(number)), None)
        if free is None:
            time.sleep(poll_s)
        else:
            write_part(parts_dir, free, rows, form, signals_of, not_finite=not_finite)


def finish(
    parts_dir: Path,
    out_dir: Path,
    rows: NDArray[np.int64],
    form: Form,
    *,
    sources: dict[str, str],
) -> None:
    """Move the parts of a whole cache to `out_dir` and write the index that describes them.

    `sources` are the hashes of teacher, tokenizer and data.
    """
    parts = [
        read_json(part_dir(parts_dir, number) / PART_NAME)
        for number in range(num_parts(len(rows), form))
    ]
    np.save(out_dir / ROWS_NAME, rows)
    names = [name for name in (ROWS_NAME, HEAD_NAME) if (out_dir / name).is_file()]
    num_tokens = len(rows) * form.sequence_length
    index = {
        "schema": SCHEMA,
        "sources": sources,
        "plan": asdict(form.plan),
        "sequence_length": form.sequence_length,
        "width": form.width,
        "num_rows": len(rows),
        "rows_per_part": rows_per_part(form),
        "bytes_per_token": sum(sum(part["bytes"].values()) for part in parts) / num_tokens,
        "sha256": {name: sha256_file(out_dir / name) for name in names},
        "parts": [{name: part[name] for name in ("rows", "bytes", "sha256")} for part in parts],
    }
    for number in range(len(parts)):
        part_dir(parts_dir, number).rename(part_dir(out_dir, number))
    write_json(out_dir / INDEX_NAME, index)


def part_problem(directory: Path, part: dict[str, Any], *, content: bool) -> str | None:
    """What is wrong with a part on disk, in words. None if nothing is.

    `content` hashes its content.
    """
    for name, size in part["bytes"].items():
        path = directory / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes, but the index says {size}"
        if content and (found := sha256_file(path)) != part["sha256"][name]:
            return f"{path} has sha256 {found[:12]}, but the index says {part['sha256'][name][:12]}"
    return None
