"""A packed row says of each document what the document alone is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.data.packing import IGNORE, Batch, load_batch
from kdwatts.data.positions import positions_in_documents, sampled_positions
from kdwatts.data.shards import TokenShards, write_shards
from kdwatts.models.load import load_model
from kdwatts.models.row_attention import attention_inputs
from kdwatts.teacher.signals import SignalPlan, compute_signals

LENGTHS = [5, 1, 9, 12]
"""Documents of two rows of 12 tokens: the third reaches from the first row into the second."""
DOCUMENTS = np.split(np.arange(3, 3 + sum(LENGTHS)), np.cumsum(LENGTHS)[:-1])


def model_of(family: str) -> Any:
    shape = Architecture(family, 2, 16, 32, 2, 1, 8, 40, True, 32)
    model = load_model(ModelSource(architecture=shape), dtype=torch.float32, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)  # So that what stands before a token matters to it.
    return model


@pytest.fixture
def packed(tmp_path: Path) -> Batch:
    documents = (document.astype(np.uint32) for document in DOCUMENTS)
    write_shards(tmp_path, documents, shard_tokens=10, source={})
    return load_batch(TokenShards(tmp_path), np.array([0, 1]), 12, respect_documents=True)


def test_positions_restart_with_each_document_and_with_the_row():
    assert positions_in_documents(7, np.array([3, 4])).tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert positions_in_documents(3, np.array([0, 3])).tolist() == [0, 1, 2]
    assert positions_in_documents(2, np.array([], dtype=np.int64)).tolist() == [0, 1]


def test_a_query_sees_its_document_up_to_itself():
    mask = attention_inputs(torch.tensor([[0, 1, 0, 1]]))["attention_mask"]
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert attention_inputs(None) == {}


def test_rows_know_their_documents_across_shards_and_no_target_crosses_one(packed: Batch):
    assert packed.position_BT is not None
    assert packed.position_BT.tolist() == [
        [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5],
        [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    ]
    row = packed.target_BT[0].tolist()
    assert row == [4, 5, 6, 7, IGNORE, IGNORE, 10, 11, 12, 13, 14, 15]
    # The row's last target is the next row's first token: here it goes on with the document.
    assert packed.target_BT[1].tolist() == [16, 17, IGNORE, *range(19, 28)]


def test_a_document_that_begins_with_the_next_row_is_no_target_of_this_one(tmp_path: Path):
    documents = (np.arange(4, dtype=np.uint32) + 4 * n for n in range(3))
    write_shards(tmp_path, documents, shard_tokens=1024, source={})
    batch = load_batch(TokenShards(tmp_path), np.array([0, 1]), 4, respect_documents=True)
    assert batch.target_BT.tolist() == [[1, 2, 3, IGNORE], [5, 6, 7, IGNORE]]
    assert batch.position_BT is not None and batch.position_BT.tolist() == [[0, 1, 2, 3]] * 2


def pieces(batch: Batch) -> list[tuple[int, slice]]:
    """Row and place of each document's part of the batch."""
    assert batch.position_BT is not None
    begins = [(r, t) for r, t in (batch.position_BT == 0).nonzero().tolist()]
    ends = [*begins[1:], (len(batch.rows), 0)]
    return [
        (row, slice(begin, end if row == next_row else batch.input_BT.shape[1]))
        for (row, begin), (next_row, end) in zip(begins, ends, strict=True)
    ]


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    return {"input_ids": batch.input_BT, **attention_inputs(batch.position_BT)}


@torch.no_grad()
def largest_difference(model: Any, batch: Batch, logits_BTV: Tensor) -> float:
    """Between a packed row's logits and those of each document alone."""
    differences = []
    for row, place in pieces(batch):
        alone = model(input_ids=batch.input_BT[row : row + 1, place]).logits[0]
        differences.append((logits_BTV[row, place] - alone).abs().max().item())
    assert len(differences) == 5
    return max(differences)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.no_grad()
def test_a_packed_row_s_logits_are_those_of_each_document_alone(family: str, packed: Batch):
    model = model_of(family)
    found = model(**inputs_of(packed)).logits
    assert largest_difference(model, packed, found) < 1e-4 * found.abs().max()
    # The wrong ways: one text, and positions that restart under a mask that does not.
    one_text = model(input_ids=packed.input_BT).logits
    assert largest_difference(model, packed, one_text) > 0.1 * found.abs().max()
    causal = torch.ones(12, 12, dtype=torch.bool).tril()[None, None].expand(2, -1, -1, -1)
    restarted = model(
        input_ids=packed.input_BT, position_ids=packed.position_BT, attention_mask=causal
    ).logits
    assert largest_difference(model, packed, restarted) > 0.1 * found.abs().max()


@torch.no_grad()
def test_transformers_reads_the_same_documents_out_of_the_positions(packed: Batch):
    model = model_of("llama")
    # With a cache, which is the default, it would not look.
    asked = {"input_ids": packed.input_BT, "position_ids": packed.position_BT}
    theirs = model(**asked, use_cache=False).logits
    torch.testing.assert_close(model(**inputs_of(packed)).logits, theirs, atol=1e-4, rtol=1e-4)


def test_the_teacher_sees_the_documents_that_the_student_sees(packed: Batch):
    teacher, plan = model_of("llama"), SignalPlan(vocabulary=40, final_hidden=True)
    signals = compute_signals(teacher, packed.input_BT, plan, position_BT=packed.position_BT)
    assert signals.final_ND is not None
    with torch.no_grad():
        found = signals.final_ND.unflatten(0, (2, 12)) @ teacher.lm_head.weight.T
    assert largest_difference(teacher, packed, found) < 1e-4 * found.abs().max()


def test_gradients_stop_at_a_document_s_beginning(packed: Batch):
    model = model_of("llama")
    inputs = inputs_of(packed)
    embedded = model.model.embed_tokens(inputs.pop("input_ids")).detach().requires_grad_()
    # The tenth token is of the row's third document, which begins with its seventh.
    model(inputs_embeds=embedded, **inputs).logits[0, 9].sum().backward()
    assert embedded.grad is not None
    touched = embedded.grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [False] * 6 + [True] * 4 + [False] * 2


def test_positions_are_distinct_ascending_and_never_the_first():
    found = sampled_positions(np.arange(50), sequence_length=16, count=15)
    assert found.tolist() == [list(range(1, 16))] * 50
    few = sampled_positions(np.arange(50), sequence_length=16, count=4)
    assert few.shape == (50, 4)
    assert (np.diff(few, axis=1) > 0).all() and few.min() >= 1 and few.max() <= 15


def test_a_row_has_the_same_positions_in_every_batch():
    together = sampled_positions(np.array([3, 7, 11]), sequence_length=64, count=8)
    alone = sampled_positions(np.array([7]), sequence_length=64, count=8)
    assert together[1].tolist() == alone[0].tolist()
    assert together[0].tolist() != together[1].tolist()


def test_more_positions_than_a_row_has_are_refused():
    with pytest.raises(ValueError, match="give 1 to 15"):
        sampled_positions(np.arange(2), sequence_length=16, count=16)
