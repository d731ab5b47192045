"""What a cache keeps of one row of data: a record of fixed size, and samples beside it."""

# B rows of a batch, T positions, N = B T, K top tokens or samples, M temperatures or sampled
# positions, S blocks, D teacher width, E distinct samples of all positions together.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.teacher.signals import SignalPlan, Signals, SparseLogits, worst
from kdwatts.teacher.sparse_coding import (
    BLOCK_POSITIONS,
    Array,
    IdCode,
    IdDecoder,
    decode_log_p,
    decode_offsets,
    depth_fields,
    encode_depths,
    encode_ids,
    encode_offsets,
    encode_samples,
    entry_bytes,
    id_code,
)

USUAL_DISTINCT = 12
"""About how many of 50 samples of a language model are distinct. It is used for estimates."""

TOP_K_NAME, STATES_NAME, SAMPLES_NAME = "top_k.bin", "states.bin", "samples.bin"
"""Files of a part: records of top-k signals, records of all else, and entries of samples."""

Records = NDArray[np.void]
Entries = NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """The layout of the rows of one cache."""

    plan: SignalPlan
    sequence_length: int
    width: int
    """D of the teacher."""

    @cached_property
    def id_code(self) -> IdCode:
        """The layout of the token ids."""
        return id_code(self.plan.vocabulary, self.plan.top_k)

    @cached_property
    def records(self) -> dict[str, np.dtype[Any]]:
        """The record of one row in each file that the plan needs. There may be two files."""
        fields = {TOP_K_NAME: self._top_k_fields(), STATES_NAME: self._state_fields()}
        return {
            # Wide items first: then only the end needs padding, and all are read aligned.
            name: np.dtype(sorted(some, key=lambda field: -np.dtype(field[1]).itemsize), align=True)
            for name, some in fields.items()
            if some
        }

    def _top_k_fields(self) -> list[tuple[str, str, tuple[int, ...]]]:
        plan = self.plan
        if not plan.top_k:
            return []
        fields = {
            "offset": ("<f4" if plan.precision == "f16" else "<u2", (len(plan.temperatures),)),
            "log_tail": ("<f2", (len(plan.temperatures),)),
            **depth_fields(plan.top_k, plan.precision),
            **self.id_code.fields(),
        }
        return [
            (name, kind, (self.sequence_length, *shape)) for name, (kind, shape) in fields.items()
        ]

    def _state_fields(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """bfloat16 is kept as its 16 bits, as numpy has none."""
        plan, length, width = self.plan, self.sequence_length, self.width
        fields: list[tuple[str, str, tuple[int, ...]]] = []
        if plan.samples:
            fields.append(("sample_start", "<u4", ()))
            fields.append(("distinct", "u1" if plan.samples < 256 else "<u2", (length,)))
        if plan.final_hidden:
            fields.append(("final_hidden", "<i2", (length, width)))
        if plan.blocks:
            positions = plan.block_positions or length
            fields.append(("blocks", "<i2", (len(plan.blocks), positions, width)))
        if plan.token_positions:
            fields.append(("tokens", "<i2", (plan.token_positions, width)))
        if plan.pooled:
            fields.append(("pooled", "<f4", (width,)))
        return fields

    @property
    def row_bytes(self) -> float:
        """Bytes of one row, with the usual number of samples."""
        plan, samples = self.plan, 0
        if plan.samples:
            distinct = min(plan.samples, USUAL_DISTINCT)
            samples = self.sequence_length * distinct * entry_bytes(plan.samples)
        return sum(record.itemsize for record in self.records.values()) + samples

    def blocks_of(self, num_rows: int) -> Iterator[slice]:
        """Slices of rows that together have about BLOCK_POSITIONS positions."""
        step = self.rows_per_block
        return (slice(start, start + step) for start in range(0, num_rows, step))

    @property
    def rows_per_block(self) -> int:
        """Number of rows in such a slice."""
        return max(1, BLOCK_POSITIONS // self.sequence_length)


def bytes_per_token(plan: SignalPlan, sequence_length: int, width: int) -> float:
    """Size of a cache over its tokens, in bytes. The number of samples is the usual one."""
    return Form(plan, sequence_length, width).row_bytes / sequence_length


@dataclass(frozen=True)
class OnHost:
    """A batch's signals in the CPU's memory, or on their way to it, ordered as a cache has them."""

    num_rows: int
    tensors: dict[str, Tensor]
    worst: Tensor
    """NaN where a number of the teacher's is not finite, else 0."""
    arrival: torch.cuda.Event | None
    """No tensor may be read before it. None where all are there."""

    def wait(self) -> None:
        """Return when all tensors are there."""
        if self.arrival is not None:
            self.arrival.synchronize()


def on_host(signals: Signals, num_rows: int, form: Form) -> OnHost:
    """What `encode_rows` reads of the signals of so many rows.

    A GPU orders it and sends it to page-locked memory, and nobody waits for that here.
    """
    found: dict[str, Tensor] = {}
    if signals.sparse:
        found |= _ordered(signals.sparse, form)
    if signals.sampled:
        found["sampled_ids"] = signals.sampled.ids_NK
        found["sampled_counts"] = signals.sampled.counts_NK
    if signals.final_ND is not None:
        found["final_hidden"] = _bits(signals.final_ND)
    if signals.blocks:
        for place, block in enumerate(form.plan.blocks):
            found[f"block {place}"] = _bits(signals.blocks[block])
    if signals.tokens_BMD is not None:
        found["tokens"] = _bits(signals.tokens_BMD)
    if signals.pooled_BD is not None:
        found["pooled"] = signals.pooled_BD.float()
    is_bad = worst(signals)
    cpu = torch.device("cpu")
    tensors = {name: part.to(cpu, non_blocking=True) for name, part in found.items()}
    bad, arrival = is_bad.to(cpu, non_blocking=True), None
    if is_bad.device.type == "cuda" and torch.cuda.is_initialized():
        arrival = torch.cuda.Event()
        arrival.record(torch.cuda.current_stream(is_bad.device))
    return OnHost(num_rows, tensors, bad, arrival)


def _ordered(sparse: SparseLogits, form: Form) -> dict[str, Tensor]:
    """Ids that ascend, with their depths below the likeliest token's, in float32."""
    top_N1 = sparse.log_p_NK.amax(-1, keepdim=True)
    ids_NK, order_NK = sparse.ids_NK.sort(-1)
    depth_NK = (top_N1 - sparse.log_p_NK).gather(-1, order_NK)
    # log p_T(i) = -d_i / T - (c_T - l_top / T). The bracket is kept.
    temperature_M = torch.tensor(form.plan.temperatures, device=top_N1.device, dtype=top_N1.dtype)
    offset_NM = sparse.offset_NM - top_N1 / temperature_M
    return {
        "ids": ids_NK,
        "depth": depth_NK.float(),
        "offset": offset_NM.float(),
        "log_tail": sparse.log_tail_NM.float(),
    }


def encode_rows(batch: OnHost, form: Form) -> tuple[dict[str, Records], Entries]:
    """Records of a batch's rows by file, and the entries [E, bytes] of their samples.

    `sample_start` counts from the batch's first entry. The batch must have arrived. All of it is
    numpy's work, so a thread may do it while torch computes.
    """
    num_rows, parts = batch.num_rows, {name: part.numpy() for name, part in batch.tensors.items()}
    found = {name: np.zeros(num_rows, record) for name, record in form.records.items()}
    entries = np.empty((0, entry_bytes(form.plan.samples)), dtype=np.uint8)
    if "ids" in parts:
        _encode_sparse(parts, found[TOP_K_NAME], form)
    states = found.get(STATES_NAME, np.empty(0))
    if "sampled_ids" in parts:
        ids_NK, counts_NK = (
            parts[name].astype(np.int64, copy=False) for name in ("sampled_ids", "sampled_counts")
        )
        entries, distinct_N = encode_samples(ids_NK, counts_NK, form.plan.samples)
        states["distinct"] = distinct_N.reshape(num_rows, -1)
        num_B = distinct_N.reshape(num_rows, -1).sum(axis=1, dtype=np.int64)
        states["sample_start"] = np.cumsum(num_B) - num_B
    if "final_hidden" in parts:
        states["final_hidden"] = parts["final_hidden"].reshape(states["final_hidden"].shape)
    for place in range(len(form.plan.blocks)):
        states["blocks"][:, place] = parts[f"block {place}"]
    for name in ("tokens", "pooled"):
        if name in parts:
            states[name] = parts[name]
    return found, entries


def _encode_sparse(parts: Mapping[str, Array], records: Records, form: Form) -> None:
    precision, num_rows = form.plan.precision, len(records)
    ids, depth, offset, log_tail = (
        parts[name].reshape(num_rows, form.sequence_length, -1)
        for name in ("ids", "depth", "offset", "log_tail")
    )
    records["offset"] = encode_offsets(offset, precision)
    # float16 ends at 65504, so minus infinity is kept as -60000.
    records["log_tail"] = log_tail.clip(min=-60000.0)
    for block in form.blocks_of(num_rows):
        fields = {
            **encode_ids(ids[block].reshape(-1, form.plan.top_k), form.id_code),
            **encode_depths(depth[block].reshape(-1, form.plan.top_k), precision),
        }
        for name, value in fields.items():
            records[name][block] = value.reshape(records[name][block].shape)


Gather = Callable[[slice, Records | None], Records]
"""Records of some of a batch's rows, given their places in the batch and perhaps where to."""


class SparseDecoder:
    """Reads the top-k signal block by block, in buffers of its own, for one thread at a time."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._ids = IdDecoder(form.id_code, form.rows_per_block * form.sequence_length)
        self._block = np.empty(form.rows_per_block, dtype=form.records[TOP_K_NAME])

    def decode(self, gather: Gather, num_rows: int) -> SparseLogits:
        """The signal of a batch, position by position.

        log p is in nats, relative to the likeliest token's.
        """
        plan, length = self._form.plan, self._form.sequence_length
        shape, num_positions = self._block["offset"].shape, num_rows * length
        ids_NK = np.empty((num_positions, plan.top_k), dtype=np.int64)
        log_p_NK = np.empty(ids_NK.shape, dtype=np.float32)
        offset_NM = np.empty((num_positions, shape[-1]), dtype=np.float32)
        log_tail_NM = np.empty(offset_NM.shape, dtype=np.float32)
        for block in self._form.blocks_of(num_rows):
            records = gather(block, self._block[: min(block.stop, num_rows) - block.start])
            fields = {name: _flat(records[name]) for name in records.dtype.names or ()}
            start = block.start * length
            positions = slice(start, start + len(records) * length)
            self._ids.decode(fields, ids_NK[positions])
            decode_log_p(fields, log_p_NK[positions])
            decode_offsets(fields["offset"], offset_NM[positions])
            log_tail_NM[positions] = fields["log_tail"]
        return SparseLogits(*map(torch.from_numpy, (ids_NK, log_p_NK, offset_NM, log_tail_NM)))


def decode_states(states: Records, plan: SignalPlan) -> dict[str, Any]:
    """Keyword arguments of `Signals` for hidden states: pooled ones, and those of tokens."""
    found: dict[str, Any] = {}
    if plan.final_hidden:
        found["final_ND"] = _bfloat16(_flat(states["final_hidden"]))
    if plan.blocks:
        found["blocks"] = {
            block: _bfloat16(states["blocks"][:, place]) for place, block in enumerate(plan.blocks)
        }
    if plan.token_positions:
        found["tokens_BMD"] = _bfloat16(states["tokens"])
    if plan.pooled:
        found["pooled_BD"] = torch.from_numpy(states["pooled"].copy())
    return found


def _flat(array_BT: Array) -> Array:
    """[B, T, ...] as [B T, ...]."""
    return array_BT.reshape(-1, *array_BT.shape[2:])


def _bits(state: Tensor) -> Tensor:
    """The 16 bits of bfloat16, as numpy has no such type."""
    return state.to(torch.bfloat16).view(torch.int16)


def _bfloat16(bits: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(bits)).view(torch.bfloat16)
