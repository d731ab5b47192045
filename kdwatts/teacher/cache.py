"""Teacher signals on disk: one flat file per signal, one record per row of the data, memory-mapped."""

# R cached rows, B rows of a batch, T positions, K top tokens, M temperatures, S layers, D width.

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.fingerprint import sha256_file
from kdwatts.records import SCHEMA, read_json, write_json
from kdwatts.teacher.signals import Signals, SignalPlan, SparseLogits

INDEX_NAME = "signals.json"
HEAD_NAME = "head.safetensors"


def _layout(plan: SignalPlan, sequence_length: int, width: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """File stem to numpy dtype and shape of one row; bfloat16 is kept as its 16 bits."""
    files: dict[str, tuple[str, tuple[int, ...]]] = {}
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
    return sum(np.dtype(kind).itemsize * int(np.prod(shape)) for kind, shape in layout) / sequence_length


class SignalWriter:
    """Fills a cache folder batch by batch, in the order of `rows`."""

    def __init__(
        self, out_dir: Path, rows: NDArray[np.int64], plan: SignalPlan, *, sequence_length: int, width: int
    ) -> None:
        self._dir, self._rows, self._plan = out_dir, rows, plan
        self._sequence_length, self._width = sequence_length, width
        self._done = 0
        self._maps = {
            name: np.memmap(out_dir / f"{name}.bin", dtype=kind, mode="w+", shape=(len(rows), *shape))
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
        files = {}
        for name, array in self._maps.items():
            array.flush()
            files[name] = sha256_file(self._dir / f"{name}.bin")
        np.save(self._dir / "rows.npy", self._rows)
        index = {
            "schema": SCHEMA,
            "plan": asdict(self._plan),
            "sequence_length": self._sequence_length,
            "width": self._width,
            "num_rows": len(self._rows),
            "bytes_per_token": bytes_per_token(self._plan, self._sequence_length, self._width),
            "sha256": files,
        }
        write_json(self._dir / INDEX_NAME, index)


def _arrays(signals: Signals, plan: SignalPlan) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    if signals.sparse:
        arrays["top_k_ids"] = signals.sparse.ids_NK
        arrays["top_k_log_p"] = signals.sparse.log_p_NK
        arrays["offsets"] = signals.sparse.offset_NM
        # Below e^-60000 float16 has only -inf, and a tail of no mass at all is no distribution.
        arrays["log_tails"] = signals.sparse.log_tail_NM.clamp(min=-60000.0)
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
    return tensor.cpu().numpy().astype(kind)


class SignalCache:
    """Reads a finished cache; a batch is a gather of whole rows, with no per-row Python."""

    def __init__(self, directory: Path, *, verify: bool = True) -> None:
        """Open a cache folder; ValueError names a file whose checksum is not the index's."""
        self.directory = directory
        index = read_json(directory / INDEX_NAME)
        plan = {k: tuple(v) if isinstance(v, list) else v for k, v in index["plan"].items()}
        self.plan = SignalPlan(**plan)
        self._rows = np.load(directory / "rows.npy")
        self._maps: dict[str, NDArray[Any]] = {}
        layout = _layout(self.plan, index["sequence_length"], index["width"])
        for name, (kind, shape) in layout.items():
            path = directory / f"{name}.bin"
            found = sha256_file(path) if verify and path.is_file() else None
            if not path.is_file() or (verify and found != index["sha256"][name]):
                raise ValueError(
                    f"teacher: {path} has sha256 {found and found[:12]}, the index says "
                    f"{index['sha256'][name][:12]}; delete {directory} and rerun"
                )
            self._maps[name] = np.memmap(path, dtype=kind, mode="r", shape=(len(self._rows), *shape))

    def head_weight(self) -> Tensor:
        """The teacher's output head [V, D], kept beside the final hidden states."""
        from safetensors.torch import load_file

        return load_file(self.directory / HEAD_NAME)["head"]

    def read(self, rows: NDArray[np.int64], device: torch.device) -> Signals:
        """The signals of the given rows of the data. Raises KeyError for a row never cached."""
        places = np.searchsorted(self._rows, rows)
        if not np.array_equal(self._rows[places.clip(max=len(self._rows) - 1)], rows):
            raise KeyError(f"{self.directory} holds no signals for some of the rows {rows.tolist()}")
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
