"""A teacher with another tokenizer: it reads the student's text in tokens of its own.

Where a student's token and a teacher's token end at the same byte of the text, both models have
read the same text and predict what comes next. They are compared there, and nowhere else.
"""

# B sequences, T positions of the student, U of the teacher, N = B T, D teacher width.

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdwatts.data.packing import Batch
from kdwatts.runtime.sending import send
from kdwatts.teacher.signals import SignalPlan, Signals, compute_signals

UNREAD = -1
"""Stands for the teacher's position where none ends with the student's token."""


@dataclass(frozen=True)
class Spelling:
    """How a byte-level tokenizer spells."""

    tokenizer: Any
    bytes_of: dict[int, bytes]
    """Token id to the bytes of text it stands for. Special tokens stand for none."""

    def ends(self, ids: list[int]) -> NDArray[np.int64]:
        """Where each token ends in the text of all tokens, in bytes, int64 [L]."""
        return np.cumsum([len(self.bytes_of[token]) for token in ids], dtype=np.int64)


def spelling(tokenizer: Any, *, subject: str) -> Spelling:
    """The bytes of every token. Raises ValueError for a tokenizer that is not byte-level."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    decoder = backend["decoder"] or {}
    kinds = {decoder.get("type"), *(part["type"] for part in decoder.get("decoders", []))}
    if "ByteLevel" not in kinds:
        raise ValueError(
            f"the {subject}'s tokenizer decodes by {', '.join(sorted(map(str, kinds)))} and not by "
            "bytes, so the place of its tokens in a text is not known; choose a pair of byte-level "
            "tokenizers, such as those of Llama 3 and Qwen2.5"
        )
    byte_of = _byte_of_character()
    added = {token["id"]: token for token in backend["added_tokens"]}
    bytes_of: dict[int, bytes] = {}
    for name, token in tokenizer.get_vocab().items():
        if token not in added:
            bytes_of[token] = bytes(byte_of[character] for character in name)
        elif not added[token]["special"]:
            bytes_of[token] = added[token]["content"].encode()
    return Spelling(tokenizer, bytes_of)


def _byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for (GPT-2's table).

    Printable bytes stand for themselves; the others follow from U+0100 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


@dataclass(frozen=True)
class ReadRow:
    """One row of the student's as the teacher reads it."""

    ids: list[int]
    positions: list[int]
    """Place of each token in its document, where documents are kept apart."""
    place_T: NDArray[np.int64]
    """For each position of the student, the teacher's that has read the same text, or UNREAD."""


def read_row(
    student: Spelling, teacher: Spelling, ids: list[int], starts: frozenset[int] = frozenset()
) -> ReadRow:
    """A row of student tokens in the teacher's tokens, and which positions of the two correspond.

    `starts` are the places where documents begin whose tokens do not see earlier ones. The
    teacher's begin token, if it has one, stands before the row and before each of these. The
    student's end token becomes the teacher's. Its other special tokens are not read. Neither are
    the bytes of a character that the row cuts in two, nor a text that the teacher's tokenizer would
    change.
    """
    begin, end = teacher.tokenizer.bos_token_id, teacher.tokenizer.eos_token_id
    read: list[int] = [begin] * (begin is not None)
    document_begin = [0] * len(read)
    place_T = np.full(len(ids), UNREAD, dtype=np.int64)
    origin = 0
    cuts = [t for t, token in enumerate(ids) if token not in student.bytes_of]
    edges = sorted({0, len(ids), *starts, *cuts, *(t + 1 for t in cuts)})
    for start, stop in itertools.pairwise(edges):
        if start in starts:
            origin = len(read)
            read += [begin] * (begin is not None)
        if start in cuts:
            if ids[start] == student.tokenizer.eos_token_id and end is not None:
                place_T[start] = len(read)
                read.append(end)
        else:
            known, ends = _read_text(student, teacher, ids[start:stop])
            _, mine, theirs = np.intersect1d(*ends, return_indices=True)
            place_T[start + mine] = len(read) + theirs
            read += known
        document_begin += [origin] * (len(read) - len(document_begin))
    positions = [place - begun for place, begun in enumerate(document_begin)]
    return ReadRow(read, positions, place_T)


def _read_text(
    student: Spelling, teacher: Spelling, ids: list[int]
) -> tuple[list[int], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ordinary student tokens in the teacher's, and where both end, in bytes of the text."""
    spelt = b"".join(student.bytes_of[token] for token in ids)
    nothing = np.empty(0, dtype=np.int64)
    # A row may begin and end inside a character, of at most four bytes.
    first = next((place for place in range(min(4, len(spelt))) if spelt[place] & 0xC0 != 0x80), 0)
    try:
        text = spelt[first:].decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return [], (nothing, nothing)
        text = spelt[first : first + error.start].decode()
    known = teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
    if any(token not in teacher.bytes_of for token in known):
        return [], (nothing, nothing)
    if b"".join(teacher.bytes_of[token] for token in known) != text.encode():
        return [], (nothing, nothing)
    return known, (student.ends(ids) - first, teacher.ends(known))


def universal_signals(
    teacher: nn.Module, plan: SignalPlan, batch: Batch, *, student: Spelling, reader: Spelling
) -> Signals:
    """What the teacher, whose tokenizer is `reader`, says at the student's positions.

    Its final states [N, E] stand where the student's tokens end. `aligned_N` [N], in the CPU's
    memory, is false where it has none. Pooled states are over the teacher's own tokens. The plan
    must have no other signals of single positions: they have no meaning here. Texts are aligned on
    the CPU, and no device is waited for. The caller chooses autocast.
    """
    assert not (plan.top_k or plan.samples or plan.blocks or plan.token_positions)
    assert plan.attention_block is None
    text, device = batch.on_cpu, batch.input_BT.device
    rows = [
        read_row(
            student,
            reader,
            ids[:length],
            _starts(text.position_BT, row, length),
        )
        for row, (ids, length) in enumerate(
            zip(text.input_BT.tolist(), text.text_BT.sum(1).tolist(), strict=True)
        )
    ]
    most = int(teacher.config.max_position_embeddings)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    width = min(max(1, *(len(row.ids) for row in rows)), most)
    length_B = torch.tensor([min(len(row.ids), width) for row in rows])
    signals = compute_signals(
        teacher,
        send(_padded([row.ids for row in rows], width), device),
        plan,
        rows=batch.rows,
        valid_BT=send(torch.arange(width) < length_B[:, None], device),
        position_BT=(
            None
            if batch.position_BT is None
            else send(_padded([row.positions for row in rows], width), device)
        ),
    )
    if signals.final_ND is None:
        return signals
    length = batch.input_BT.shape[1]
    place_BT = _padded([row.place_T.tolist() for row in rows], length, UNREAD)
    aligned_BT = (place_BT != UNREAD) & (place_BT < width)
    flat_BT = place_BT.clamp(0, width - 1)
    flat_BT = flat_BT + width * torch.arange(len(rows))[:, None]
    final_ND = signals.final_ND.index_select(0, send(flat_BT.flatten(), device))
    return replace(signals, final_ND=final_ND, aligned_N=aligned_BT.flatten())


def _starts(position_BT: Tensor | None, row: int, length: int) -> frozenset[int]:
    if position_BT is None:
        return frozenset()
    places = (position_BT[row, 1:length] == 0).nonzero().flatten() + 1
    return frozenset(places.tolist())


def _padded(rows: list[list[int]], width: int, fill: int = 0) -> Tensor:
    padded = [row[:width] + [fill] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long)
