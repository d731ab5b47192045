"""Teacher signals read from disk: a batch is one gather of records per memory-mapped file.

Opening a cache checks that every file exists and has its size, and checks the content of the
index's own files. The content of a part is checked against its checksum when one of its rows is
first read. So a job starts at once and hashes only what it uses. `verify=True` checks everything at
once.
"""

# B rows of a batch, T positions, E samples' entries.

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.records.files import read_json
from kdwatts.runtime.fingerprint import sha256_file
from kdwatts.teacher.cache_parts import HEAD_NAME, INDEX_NAME, ROWS_NAME, part_dir, part_problem
from kdwatts.teacher.cache_record import (
    SAMPLES_NAME,
    STATES_NAME,
    TOP_K_NAME,
    Form,
    Records,
    SparseDecoder,
    decode_states,
)
from kdwatts.teacher.sampling import SampledLogits
from kdwatts.teacher.signals import SignalPlan, Signals
from kdwatts.teacher.sparse_coding import Array, decode_samples, packed_entries

Part = dict[str, Array]
"""The files of a part, memory-mapped: records, and entries of samples."""


class SignalCache:
    """A finished cache to read from. Several threads may read."""

    def __init__(self, directory: Path, *, verify: bool = False) -> None:
        """Open a cache folder; ValueError names a file that is not what the index says."""
        self.directory = directory
        self.index = read_json(directory / INDEX_NAME)
        for number, part in enumerate(self.index["parts"]):
            self._refuse(part_problem(part_dir(directory, number), part, content=verify))
        self._check_file(ROWS_NAME)
        plan = self.index["plan"]
        tuples = {name: tuple(plan[name]) for name in ("temperatures", "blocks")}
        self.plan = SignalPlan(**{**plan, **tuples})
        self._form = Form(self.plan, self.index["sequence_length"], self.index["width"])
        self._rows = np.load(directory / ROWS_NAME)
        self._parts: dict[int, Part] = {}
        self._checked = verify
        if verify and HEAD_NAME in self.index["sha256"]:
            self._check_file(HEAD_NAME)
        self._local = threading.local()

    def head(self) -> dict[str, Tensor]:
        """The teacher's output head, for dense logits: `head` [V, D], and `bias` [V] if any.

        It is kept with the cache.
        """
        from safetensors.torch import load_file

        self._check_file(HEAD_NAME)
        return load_file(self.directory / HEAD_NAME)

    def read(self, rows: NDArray[np.int64], device: torch.device | None = None) -> Signals:
        """The signals of the rows [B] of the data, in the CPU's memory or on `device`.

        Raises ValueError for a row that was never cached, and for a part that was changed on disk.
        """
        places = np.searchsorted(self._rows, rows)
        if not np.array_equal(self._rows[places.clip(max=len(self._rows) - 1)], rows):
            missing = np.setdiff1d(rows, self._rows).tolist()
            raise ValueError(
                f"teacher: {self.directory} holds {len(self._rows)} rows, but not rows {missing}; "
                "it was built for another schedule: delete it and run again"
            )
        part_of, local = np.divmod(places, self.index["rows_per_part"])

        def gather(name: str, some: slice, out: Records | None) -> Records:
            """Each part's rows in one gather, in the order of the batch."""
            numbers, where = part_of[some], local[some]
            if out is None:
                out = np.empty(len(numbers), dtype=self._form.records[name])
            if (numbers == numbers[0]).all():
                # What numpy would do with an index out of range needs a buffer: none is.
                return self._part(int(numbers[0]))[name].take(where, out=out, mode="clip")
            for number in np.unique(numbers):
                here = numbers == number
                out[here] = self._part(int(number))[name][where[here]]
            return out

        found: dict[str, Any] = {}
        if STATES_NAME in self._form.records:
            states = gather(STATES_NAME, slice(None), None)
            found = decode_states(states, self.plan)
            if self.plan.samples:
                found["sampled"] = self._read_samples(states, part_of)
        if self.plan.top_k:
            found["sparse"] = self._decoder().decode(partial(gather, TOP_K_NAME), len(rows))
        signals = Signals(**found)
        return signals if device is None else signals.to(device)

    def _read_samples(self, states: Records, part_of: NDArray[np.int64]) -> SampledLogits:
        distinct_BT, start_B = states["distinct"], states["sample_start"].astype(np.int64)
        length_B = distinct_BT.sum(axis=1, dtype=np.int64)
        pieces, begin_B, num = [], np.empty_like(start_B), 0
        for number in np.unique(part_of):
            here = np.flatnonzero(part_of == number)
            entries = self._part(int(number))[SAMPLES_NAME]
            pieces.append(entries[_ranges(start_B[here], length_B[here])])
            begin_B[here] = num + np.cumsum(length_B[here]) - length_B[here]
            num += len(pieces[-1])
        entries = pieces[0]
        if len(pieces) > 1:
            entries = np.concatenate(pieces)[_ranges(begin_B, length_B)]
        ids_NK, counts_NK = decode_samples(entries, distinct_BT.reshape(-1), self.plan.samples)
        return SampledLogits(
            torch.from_numpy(ids_NK), torch.from_numpy(counts_NK), self.plan.samples
        )

    def _decoder(self) -> SparseDecoder:
        """This thread's decoder."""
        if not hasattr(self._local, "decoder"):
            self._local.decoder = SparseDecoder(self._form)
        return self._local.decoder

    def _part(self, number: int) -> Part:
        if number not in self._parts:
            directory = part_dir(self.directory, number)
            if not self._checked:
                part = self.index["parts"][number]
                self._refuse(part_problem(directory, part, content=True))
            found: Part = {
                name: np.asarray(np.memmap(directory / name, dtype=record, mode="r"))
                for name, record in self._form.records.items()
            }
            if self.plan.samples:
                content = np.memmap(directory / SAMPLES_NAME, dtype=np.uint8, mode="r")
                found[SAMPLES_NAME] = packed_entries(content, self.plan.samples)
            self._parts[number] = found
        return self._parts[number]

    def _check_file(self, name: str) -> None:
        path = self.directory / name
        expected = self.index["sha256"].get(name, "none, for it keeps no such file")[:12]
        found = sha256_file(path)[:12] if path.is_file() else "none, for it is missing"
        if found != expected:
            self._refuse(f"{path} has sha256 {found}, the index says {expected}")

    def _refuse(self, problem: str | None) -> None:
        if problem:
            raise ValueError(f"teacher: {problem}; delete {self.directory} and run again")


def _ranges(start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """start[0], start[0] + 1, ... for length[0] numbers, then those of start[1], and so on."""
    end = np.cumsum(length)
    return np.arange(end[-1]) + np.repeat(start - end + length, length)
