"""Teacher signals on disk, memory-mapped: one flat file per signal, one record per row of data."""

# R cached rows, B rows of a batch, T positions, K top tokens, M temperatures, S layers, D width.

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.fingerprint import sha256_file
from kdwatts.records import SCHEMA, read_json, write_json
from kdwatts.teacher.signals import SignalPlan, Signals, SparseLogits

INDEX_NAME = "signals.json"
HEAD_NAME = "head.safetensors"
ROWS_NAME = "rows.npy"

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""File stem to numpy dtype and shape of one row."""


def _layout(plan: SignalPlan, sequence_length: int, width: int) -> Layout:
    """What a cache of this plan consists of; bfloat16 is kept as its 16 bits."""
    files: Layout = {}
    if plan.top_k:
        ids = "<u2" if plan.vocabulary <= 1 << 16 else "<u4"
        files["top_k_ids"] = (ids, (sequence_length, plan.top_k))
        files["top_k_log_p"] = ("<f2", (sequence_length, plan.top_k))
        files["offsets"] = ("<f4", (sequence_length, len(plan.temperatures)))
        files["log_tails"] = ("<f2", (sequence_length, len(plan.temperatures)))
    if plan.final_hidden:
        files["final_hidden"] = ("<i2", (sequence_length, width))
    if plan.blocks:
        files["blocks"] = ("<i2", (len(plan.blocks), sequence_length, width))
    if plan.pooled:
        files["pooled"] = ("<f4", (width,))
    return files


def bytes_per_token(plan: SignalPlan, sequence_length: int, width: int) -> float:
    """Size of the cache over its tokens, in bytes."""
    layout = _layout(plan, sequence_length, width).values()
    row_bytes = sum(np.dtype(kind).itemsize * int(np.prod(shape)) for kind, shape in layout)
    return row_bytes / sequence_length


class SignalWriter:
    """Fills a cache folder batch by batch, in the order of `rows`, which must ascend."""

    def __init__(
        self,
        out_dir: Path,
        rows: NDArray[np.int64],
        plan: SignalPlan,
        *,
        sequence_length: int,
        width: int,
    ) -> None:
        assert np.all(np.diff(rows) > 0), "a reader finds rows by bisection"
        self._dir, self._rows, self._plan = out_dir, rows, plan
        self._sequence_length, self._width = sequence_length, width
        self._done = 0
        self._maps = {
            name: _open(out_dir, name, kind, (len(rows), *shape), mode="w+")
            for name, (kind, shape) in _layout(plan, sequence_length, width).items()
        }

    def write(self, signals: Signals, num_rows: int) -> None:
        """Append the signals of the next `num_rows` rows."""
        place = slice(self._done, self._done + num_rows)
        for name, tensor in _arrays(signals, self._plan).items():
            target = self._maps[name]
            shape = (num_rows, *target.shape[1:])
            target[place] = _to_numpy(tensor, target.dtype).reshape(shape)
        self._done += num_rows

    def close(self) -> None:
        """Flush the files and write the index with their checksums."""
        assert self._done == len(self._rows), (self._done, len(self._rows))
        for array in self._maps.values():
            array.flush()
        np.save(self._dir / ROWS_NAME, self._rows)
        names = [*(f"{name}.bin" for name in self._maps), ROWS_NAME, HEAD_NAME]
        paths = [self._dir / name for name in names if (self._dir / name).is_file()]
        index = {
            "schema": SCHEMA,
            "plan": asdict(self._plan),
            "sequence_length": self._sequence_length,
            "width": self._width,
            "num_rows": len(self._rows),
            "bytes_per_token": bytes_per_token(self._plan, self._sequence_length, self._width),
            "sha256": {path.name: sha256_file(path) for path in paths},
        }
        write_json(self._dir / INDEX_NAME, index)


def _arrays(signals: Signals, plan: SignalPlan) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    if signals.sparse:
        arrays["top_k_ids"] = signals.sparse.ids_NK
        arrays["top_k_log_p"] = signals.sparse.log_p_NK
        arrays["offsets"] = signals.sparse.offset_NM
        arrays["log_tails"] = signals.sparse.log_tail_NM
    if signals.final_ND is not None:
        arrays["final_hidden"] = signals.final_ND
    if signals.blocks:
        arrays["blocks"] = torch.stack([signals.blocks[block] for block in plan.blocks], dim=1)
    if signals.pooled_BD is not None:
        arrays["pooled"] = signals.pooled_BD
    return arrays


def _to_numpy(tensor: Tensor, kind: np.dtype[Any]) -> NDArray[Any]:
    if kind == np.dtype("<i2"):
        return tensor.to(torch.bfloat16).view(torch.int16).cpu().numpy()
    if kind == np.dtype("<f2"):
        # Log-probabilities; float16 has only -inf below -65504, and no mass is no distribution.
        tensor = tensor.clamp(min=-60000.0)
    return tensor.cpu().numpy().astype(kind)


def _open(
    directory: Path, name: str, kind: str, shape: tuple[int, ...], *, mode: Literal["r", "r+", "w+"]
) -> np.memmap:
    path = directory / f"{name}.bin"
    if mode == "w+":
        # Space is taken now: a write to a map of a full disk is no error but a fatal signal.
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(kind).itemsize)
        mode = "r+"
    return np.memmap(path, dtype=kind, mode=mode, shape=shape)


class SignalCache:
    """Reads a finished cache; a batch is a gather of whole rows, with no per-row Python."""

    def __init__(self, directory: Path, *, verify: bool = True) -> None:
        """Open a cache folder; ValueError names a file whose checksum is not the index's."""
        self.directory = directory
        index = read_json(directory / INDEX_NAME)
        for name, expected in index["sha256"].items() if verify else ():
            path = directory / name
            found = sha256_file(path)[:12] if path.is_file() else "none, for it is missing"
            if found != expected[:12]:
                raise ValueError(
                    f"teacher: {path} has sha256 {found}, the index says {expected[:12]}; "
                    f"delete {directory} and rerun"
                )
        plan = index["plan"]
        tuples = {name: tuple(plan[name]) for name in ("temperatures", "blocks")}
        self.plan = SignalPlan(**{**plan, **tuples})
        self._rows = np.load(directory / ROWS_NAME)
        layout = _layout(self.plan, index["sequence_length"], index["width"])
        self._maps = {
            name: _open(directory, name, kind, (len(self._rows), *shape), mode="r")
            for name, (kind, shape) in layout.items()
        }

    def head_weight(self) -> Tensor:
        """The teacher's output head [V, D], kept beside the final hidden states."""
        from safetensors.torch import load_file

        return load_file(self.directory / HEAD_NAME)["head"]

    def read(self, rows: NDArray[np.int64], device: torch.device) -> Signals:
        """The signals of the given rows of the data. Raises ValueError for a row never cached."""
        places = np.searchsorted(self._rows, rows)
        if not np.array_equal(self._rows[places.clip(max=len(self._rows) - 1)], rows):
            missing = np.setdiff1d(rows, self._rows).tolist()
            raise ValueError(
                f"teacher: {self.directory} holds {len(self._rows)} rows and not rows {missing}; "
                "it was built for another schedule: delete it and rerun"
            )
        read = {name: self._gather(name, places).to(device) for name in self._maps}
        plan = self.plan
        sparse = None
        if plan.top_k:
            sparse = SparseLogits(
                read["top_k_ids"].flatten(0, 1),
                read["top_k_log_p"].flatten(0, 1),
                read["offsets"].flatten(0, 1),
                read["log_tails"].flatten(0, 1),
            )
        blocks = {block: read["blocks"][:, i] for i, block in enumerate(plan.blocks)}
        return Signals(
            sparse=sparse,
            final_ND=read["final_hidden"].flatten(0, 1) if plan.final_hidden else None,
            blocks=blocks or None,
            pooled_BD=read.get("pooled"),
        )

    def _gather(self, name: str, places: NDArray[np.int64]) -> Tensor:
        array = np.ascontiguousarray(self._maps[name][places])
        if array.dtype == np.dtype("<i2"):
            return torch.from_numpy(array).view(torch.bfloat16)
        if array.dtype.kind == "u":
            return torch.from_numpy(array.astype(np.int64))
        return torch.from_numpy(array)
