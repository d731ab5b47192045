"""Compact coding of a sparse teacher signal in numpy: a few dozen operations for a whole block.

The token ids of a position ascend. They are kept as Elias and Fano keep a monotone sequence (Elias
1974, "Efficient storage and retrieval by content and address of static files"): the low bits as
they are, and of the high parts only the steps between neighbours, in unary. 64 ids below 128,256
take 108 bytes; at 18 bits each they would take 144. Low parts have 0, 4, 8 or 12 bits, so bytes and
half bytes are enough to read them.

A log-probability is kept as its depth d below the likeliest token's, in one of two ways. `u8` keeps
the deepest depth R of the position in float16, rounded up, and a code c with d = R (c / 255)^2. Its
error is at most sqrt(d R) / 255 + R / 510^2 nats: none for the likeliest token, and at most R / 255
for the deepest. `f16` keeps d in float16, with an error of at most d / 2048 nats.
"""

# N positions, K tokens of a position, H bytes of unary code, E entries of all positions together.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Fields = dict[str, tuple[str, tuple[int, ...]]]
"""Name to numpy dtype and shape at one position."""

BLOCK_POSITIONS = 2048
"""Positions that are decoded at a time, so that what lies between fits the processor's cache."""
MAX_SAMPLED_VOCABULARY = 1 << 18
"""Ids of samples have 18 bits."""


@dataclass(frozen=True)
class IdCode:
    """How K ascending ids below `vocabulary` are laid out."""

    k: int
    low_bits: int
    high_bytes: int
    """H: room for K ones and as many zeros as the highest id has steps of 2^low_bits."""

    def fields(self) -> Fields:
        """The fields of one position: name, type and length."""
        fields: Fields = {"id_high": ("u1", (self.high_bytes,))}
        if self.low_bits >= 8:
            fields["id_low8"] = ("u1", (self.k,))
        if self.low_bits % 8:
            fields["id_low4"] = ("u1", ((self.k + 1) // 2,))
        return fields


def id_code(vocabulary: int, k: int) -> IdCode:
    """The smallest layout for K of `vocabulary` tokens."""
    codes = [
        IdCode(k, bits, -(-(k + ((vocabulary - 1) >> bits)) // 8))
        for bits in (0, 4, 8, 12)
        if (vocabulary - 1) >> bits < 1 << 16
    ]
    return min(codes, key=lambda code: sum(int(shape[0]) for _, shape in code.fields().values()))


def encode_ids(ids_NK: NDArray[np.int64], code: IdCode) -> dict[str, Array]:
    """The fields of ids [N, K] that ascend strictly along K."""
    assert ids_NK.shape[1] == code.k and np.all(np.diff(ids_NK, axis=1) > 0)
    bits = np.zeros((len(ids_NK), code.high_bytes * 8), dtype=np.uint8)
    ones_NK = (ids_NK >> code.low_bits) + np.arange(code.k)
    ones_NK += np.arange(len(ids_NK))[:, None] * bits.shape[1]
    bits.reshape(-1)[ones_NK.reshape(-1)] = 1
    fields: dict[str, Array] = {"id_high": np.packbits(bits, axis=1, bitorder="little")}
    if code.low_bits >= 8:
        fields["id_low8"] = (ids_NK & 255).astype(np.uint8)
    if code.low_bits % 8:
        nibbles = (ids_NK >> (code.low_bits - 4) & 15).astype(np.uint8)
        half = (code.k + 1) // 2
        packed = nibbles[:, :half].copy()
        packed[:, : code.k - half] |= nibbles[:, half:] << 4
        fields["id_low4"] = packed
    return fields


class IdDecoder:
    """Decodes ids block by block, in buffers of its own: new memory each time costs more.

    One thread uses it at a time.
    """

    def __init__(self, code: IdCode, num: int = BLOCK_POSITIONS) -> None:
        """Buffers for blocks of up to `num` positions."""
        self.code = code
        shape = num, code.k
        start_NK = np.arange(num)[:, None] * (code.high_bytes * 8) + np.arange(code.k)
        self._start_NK = start_NK.astype(np.uint16)
        self._high_NK, self._low_NK = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
        self._id_NK = np.empty(shape, np.int32)

    def decode(self, fields: Mapping[str, Array], out_NK: NDArray[np.int64]) -> None:
        """Fill `out_NK` [N, K] with the ids of its positions."""
        num, k = out_NK.shape
        bits_low, half = self.code.low_bits, (k + 1) // 2
        high_NK, low_NK, id_NK = self._high_NK[:num], self._low_NK[:num], self._id_NK[:num]
        # A position has exactly K ones: their places, less their places if there were no zeros.
        bits = np.unpackbits(fields["id_high"].reshape(-1), bitorder="little").view(bool)
        high_NK[...] = np.flatnonzero(bits).reshape(num, k)  # Modulo 2^16, as the difference is.
        high_NK -= self._start_NK[:num]
        np.left_shift(high_NK, bits_low, out=id_NK, dtype=np.int32)
        if bits_low % 8:
            packed = fields["id_low4"]
            np.bitwise_and(packed, 15, out=low_NK[:, :half])
            np.right_shift(packed[:, : k - half], 4, out=low_NK[:, half:])
            if bits_low > 4:
                low_NK <<= 8
                low_NK |= fields["id_low8"]
            id_NK |= low_NK
        elif bits_low:
            id_NK |= fields["id_low8"]
        out_NK[...] = id_NK


def depth_fields(k: int, precision: str) -> Fields:
    """The fields for the depths of K tokens."""
    if precision == "f16":
        return {"depth": ("<f2", (k,))}
    return {"depth": ("u1", (k,)), "deepest": ("<f2", ())}


def encode_depths(depth_NK: NDArray[np.float32], precision: str) -> dict[str, Array]:
    """The fields of depths [N, K] in nats. None of them is negative."""
    # float16 ends at 65504. A token that deep has no probability in any case.
    depth_NK = np.minimum(depth_NK, 60000.0)
    if precision == "f16":
        return {"depth": depth_NK.astype(np.float16)}
    deepest_N = depth_NK.max(axis=1)
    kept_N = deepest_N.astype(np.float16)
    kept_N = np.where(kept_N < deepest_N, np.nextafter(kept_N, np.float16(np.inf)), kept_N)
    share_NK = depth_NK / np.maximum(kept_N, np.finfo(np.float16).tiny).astype(np.float32)[:, None]
    return {"depth": np.rint(255 * np.sqrt(share_NK)).astype(np.uint8), "deepest": kept_N}


def decode_log_p(fields: Mapping[str, Array], out_NK: NDArray[np.float32]) -> None:
    """Fill `out_NK` [N, K] with log-probabilities in nats relative to the likeliest token's."""
    if "deepest" not in fields:
        # torch converts halves an order of magnitude faster than numpy does.
        torch.from_numpy(out_NK).copy_(torch.from_numpy(fields["depth"]))
        np.negative(out_NK, out=out_NK)
        return
    out_NK[...] = fields["depth"]
    out_NK *= out_NK
    out_NK *= (fields["deepest"].astype(np.float32) / -(255.0**2))[:, None]


_OFFSET_STEPS_PER_NAT = 4096.0


def encode_offsets(offset_NM: NDArray[np.float32], precision: str) -> Array:
    """-log p_T of the likeliest token [N, M] in nats, coded. It is between 0 and log V.

    `u8` keeps it in steps of 1/4096 nat, with an error of at most 1.3e-4 nats. `f16` keeps it in
    float32.
    """
    if precision == "f16":
        return offset_NM.astype(np.float32)
    return np.rint(offset_NM * _OFFSET_STEPS_PER_NAT).clip(0, 65535).astype(np.uint16)


def decode_offsets(coded_NM: Array, out_NM: NDArray[np.float32]) -> None:
    """Fill `out_NM` [N, M] with the offsets in nats."""
    out_NM[...] = coded_NM
    if coded_NM.dtype.kind == "u":
        out_NM /= np.float32(_OFFSET_STEPS_PER_NAT)


def entry_bytes(num_samples: int) -> int:
    """Bytes of one distinct token with its count: 18 bits of id, then 6 or 14 bits of count."""
    return 3 if num_samples < 1 << 6 else 4


def encode_samples(
    ids_NK: NDArray[np.int64], counts_NK: NDArray[np.int64], num_samples: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Entries [E, bytes] of all drawn tokens, position by position, and the number of each [N].

    Raises ValueError for an id of more than 18 bits, and for 2^14 draws and more.
    """
    drawn_NK = counts_NK > 0
    ids_E, counts_E = ids_NK[drawn_NK], counts_NK[drawn_NK]
    if num_samples >= 1 << 14 or ids_E.max(initial=0) >= MAX_SAMPLED_VOCABULARY:
        raise ValueError(
            f"teacher: samples can store ids below {MAX_SAMPLED_VOCABULARY:,} and fewer than "
            f"{1 << 14:,} draws, but there is id {ids_E.max(initial=0):,} with {num_samples:,} "
            "draws; use paradigm.response.support=top_k"
        )
    packed = (ids_E | counts_E << 18).astype("<u4")
    entries = packed.view(np.uint8).reshape(-1, 4)[:, : entry_bytes(num_samples)]
    return np.ascontiguousarray(entries), drawn_NK.sum(axis=1).astype(np.uint16)


def packed_entries(content: NDArray[np.uint8], num_samples: int) -> NDArray[np.uint32]:
    """The entries of a file [E] as numbers, without a copy. The file ends in one byte of padding.

    For entries of three bytes, the upper eight bits are the next entry's.
    """
    size = entry_bytes(num_samples)
    count = (len(content) - 1) // size
    return np.ndarray((count,), dtype="<u4", buffer=content, strides=(size,))  # pyright: ignore


def decode_samples(
    packed_E: NDArray[np.uint32], distinct_N: Array, num_samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Ids and counts [N, K] of entries, with K = `num_samples`.

    Both are 0 where fewer are distinct.
    """
    shape = len(distinct_N), num_samples
    ids_NK, counts_NK = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int32)
    place_K = np.arange(num_samples, dtype=distinct_N.dtype)
    most = (1 << 6) - 1 if entry_bytes(num_samples) == 3 else (1 << 14) - 1
    end_N = np.cumsum(distinct_N, dtype=np.int64)
    first = 0
    for start in range(0, len(distinct_N), BLOCK_POSITIONS):
        block = slice(start, start + BLOCK_POSITIONS)
        drawn_nK = place_K < distinct_N[block, None]
        last = int(end_N[block][-1])
        packed_nK = np.zeros(drawn_nK.shape, dtype=np.uint32)
        packed_nK[drawn_nK] = packed_E[first:last]
        np.bitwise_and(packed_nK, MAX_SAMPLED_VOCABULARY - 1, out=ids_NK[block], casting="unsafe")
        packed_nK >>= 18
        np.bitwise_and(packed_nK, most, out=counts_NK[block], casting="unsafe")
        first = last
    return ids_NK, counts_NK
