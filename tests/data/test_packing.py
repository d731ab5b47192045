"""Rows, batches and the order in which a run visits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdwatts.data.packing import IGNORE, Schedule, load_batch, make_schedule
from kdwatts.data.shards import NO_TARGET, TokenShards, write_shards


def _shards(directory: Path, tokens: list[int], *, document: int = 7) -> TokenShards:
    parts = [tokens[i : i + document] for i in range(0, len(tokens), document)]
    arrays = (np.asarray(part, dtype=np.uint32) for part in parts)
    write_shards(directory, arrays, shard_tokens=document, source={})
    return TokenShards(directory)


def _schedule(shards: TokenShards, **changes: Any) -> Schedule:
    settings = {"sequence_length": 4, "target_tokens": 32, "rows_per_step": 2, "seed": 0}
    return make_schedule(shards, **{**settings, **changes})


def _visited(schedule: Schedule) -> list[int]:
    steps = range(schedule.num_steps)
    return [int(row) for step in steps for row in schedule.rows_of_step(step)]


def test_a_row_s_targets_are_its_inputs_one_further_on_across_shard_borders(tmp_path: Path):
    shards = _shards(tmp_path, list(range(100, 130)))
    batch = load_batch(shards, np.array([0, 6, 1]), 4)
    assert batch.input_BT.tolist() == [
        [100, 101, 102, 103],
        [124, 125, 126, 127],
        [104, 105, 106, 107],
    ]
    assert batch.target_BT.tolist() == [
        [101, 102, 103, 104],
        [125, 126, 127, 128],
        [105, 106, 107, 108],
    ]
    assert batch.num_targets == 12


def test_a_prompt_is_input_and_no_target(tmp_path: Path):
    masked = int(NO_TARGET)
    shards = _shards(tmp_path, [1 | masked, 2 | masked, 3, 4, 5 | masked, 6])
    batch = load_batch(shards, np.array([0]), 4)
    assert batch.input_BT.tolist() == [[1, 2, 3, 4]]
    assert batch.target_BT.tolist() == [[IGNORE, 3, 4, IGNORE]]
    assert batch.num_targets == 2
    assert batch.target_places.tolist() == [1, 2]


def test_targets_of_a_batch_on_a_device_are_counted_and_indexed_on_the_cpu(tmp_path: Path):
    masked = int(NO_TARGET)
    batch = load_batch(_shards(tmp_path, [1, 2, 3 | masked, 4, 5, 6]), np.array([0]), 4)
    # Tensors of this device hold no numbers.
    sent = batch.to(torch.device("meta"))
    assert sent.on_cpu is batch and batch.on_cpu is batch
    assert sent.num_targets == 3
    assert (sent.target_places.device.type, tuple(sent.target_places.shape)) == ("meta", (3,))
    again = sent.to(torch.device("cpu"))
    assert again.target_places.tolist() == batch.target_places.tolist() == [0, 2, 3]
    assert torch.equal(again.input_BT, batch.input_BT)


def test_the_target_tokens_are_rounded_up_to_whole_steps(tmp_path: Path):
    shards = _shards(tmp_path, list(range(401)))
    # Two rows of four targets are eight targets a step.
    assert _schedule(shards, target_tokens=32).num_steps == 4
    assert _schedule(shards, target_tokens=33).num_steps == 5
    assert _schedule(shards, target_tokens=1).num_steps == 1


def test_masked_prompts_make_a_run_longer_so_that_it_bears_its_targets(tmp_path: Path):
    masked = int(NO_TARGET)
    tokens = [n | masked if n % 2 else n for n in range(401)]
    shards = _shards(tmp_path, tokens)
    schedule = _schedule(shards, target_tokens=32)
    # 201 of 401 tokens are targets: 4 * 201 / 401 a row, so 32 need 16 rows, or 8 steps.
    assert schedule.num_steps == 8
    batches = [load_batch(shards, schedule.rows_of_step(step), 4) for step in range(8)]
    assert sum(batch.num_targets for batch in batches) == 32


def test_seeds_share_their_rows_and_differ_in_their_order(tmp_path: Path):
    shards = _shards(tmp_path, list(range(401)))
    first, second = _schedule(shards, seed=0), _schedule(shards, seed=1)
    assert first.rows.tolist() == second.rows.tolist() == sorted(set(first.rows.tolist()))
    assert len(first.rows) == 8
    assert sorted(_visited(first)) == sorted(_visited(second)) == first.rows.tolist()
    assert _visited(first) != _visited(second)


def test_the_rows_are_drawn_from_the_whole_corpus_and_a_longer_run_adds_to_them(tmp_path: Path):
    shards = _shards(tmp_path, list(range(4001)))
    few, many = _schedule(shards), _schedule(shards, target_tokens=320)
    assert set(few.rows.tolist()) < set(many.rows.tolist())
    assert many.rows.max() > 500 > many.rows.min()


def test_the_same_fields_give_the_same_order_in_another_process_s_place(tmp_path: Path):
    shards = _shards(tmp_path, list(range(401)))
    full = _visited(_schedule(shards, target_tokens=160))
    resumed = _schedule(shards, target_tokens=160)
    assert [int(row) for row in resumed.rows_of_step(7)] == full[14:16]


def test_every_pass_visits_each_row_once_in_a_new_order(tmp_path: Path):
    shards = _shards(tmp_path, list(range(41)))  # Ten rows.
    visited = _visited(_schedule(shards, target_tokens=4 * 30))
    passes = [visited[0:10], visited[10:20], visited[20:30]]
    assert [sorted(part) for part in passes] == [list(range(10))] * 3
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_a_step_may_hold_the_end_of_one_pass_and_the_start_of_the_next(tmp_path: Path):
    shards = _shards(tmp_path, list(range(21)))  # Five rows.
    visited = _visited(_schedule(shards, target_tokens=4 * 10))
    assert sorted(visited) == sorted([*range(5), *range(5)])
    assert sorted(visited[:5]) == list(range(5))


def test_rows_held_out_are_never_trained_on_and_move_no_row_of_a_long_corpus(tmp_path: Path):
    shards = _shards(tmp_path, list(range(401)))  # A hundred rows.
    plain, held = _schedule(shards), _schedule(shards, heldout_tokens=40, heldout_multiple=4)
    assert len(plain.heldout) == 0 and plain.taught_rows.tolist() == plain.rows.tolist()
    # Forty targets are ten rows, rounded up to whole fours.
    assert len(held.heldout) == 12 and (np.diff(held.heldout) > 0).all()
    assert _visited(held) == _visited(plain)
    assert not set(held.heldout.tolist()) & set(_visited(held))
    assert held.taught_rows.tolist() == sorted({*held.rows.tolist(), *held.heldout.tolist()})
    for changes in ({"seed": 5}, {"target_tokens": 320}, {"rows_per_step": 5}):
        other = _schedule(shards, heldout_tokens=40, heldout_multiple=4, **changes)
        assert other.heldout.tolist() == held.heldout.tolist()


def test_a_run_over_the_whole_corpus_and_more_goes_round_the_rows_held_out(tmp_path: Path):
    shards = _shards(tmp_path, list(range(41)))  # Ten rows.
    schedule = _schedule(shards, target_tokens=4 * 30, heldout_tokens=12)
    assert (len(schedule.heldout), len(schedule.rows), len(_visited(schedule))) == (3, 7, 30)
    assert not set(schedule.heldout.tolist()) & set(_visited(schedule))


def test_more_than_half_of_a_corpus_is_not_held_out(tmp_path: Path):
    shards = _shards(tmp_path, list(range(41)))
    assert len(_schedule(shards, heldout_tokens=20).heldout) == 5
    message = r"heldout_tokens=24 would hold out 6 of the corpus's 10 rows, .* half; lower"
    with pytest.raises(ValueError, match=message):
        _schedule(shards, heldout_tokens=24)


def test_first_tokens_of_documents_are_made_up_for_where_they_are_no_targets(tmp_path: Path):
    shards = _shards(tmp_path, list(range(400)), document=4)
    # Of four targets a row three are left: 32 of them need 11 rows, or 6 steps in place of 4.
    assert _schedule(shards).num_steps == 4
    schedule = _schedule(shards, respect_documents=True)
    assert schedule.num_steps == 6
    batches = [
        load_batch(shards, schedule.rows_of_step(step), 4, respect_documents=True)
        for step in range(6)
    ]
    assert sum(batch.num_targets for batch in batches) == 36


def test_documents_of_one_token_leave_nothing_to_learn_of_themselves(tmp_path: Path):
    shards = _shards(tmp_path, list(range(40)), document=1)
    with pytest.raises(ValueError, match=r"no document in .* has a target after its first token"):
        _schedule(shards, respect_documents=True)


def test_a_batch_that_takes_a_row_as_one_text_says_nothing_of_documents(tmp_path: Path):
    shards = _shards(tmp_path, list(range(40)))
    batch = load_batch(shards, np.array([0, 1]), 8)
    assert batch.position_BT is None
    assert batch.beyond_first_BT.all()
    within = load_batch(shards, np.array([0, 1]), 8, respect_documents=True)
    # Documents of seven tokens: the second begins with token 7, the third with token 14.
    assert (~within.beyond_first_BT).nonzero().tolist() == [[0, 0], [0, 7], [1, 0], [1, 6]]
    assert within.input_BT.tolist() == batch.input_BT.tolist()


def test_a_sequence_longer_than_the_corpus_is_refused_and_the_longest_is_not(tmp_path: Path):
    shards = _shards(tmp_path, list(range(9)))
    assert _schedule(shards, sequence_length=8).rows.tolist() == [0]
    batch = load_batch(shards, np.array([0]), 8)
    assert batch.target_BT.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    message = rf"sequence_length=9 is longer than .* 9 tokens in {tmp_path}; give a shorter"
    with pytest.raises(ValueError, match=message):
        _schedule(shards, sequence_length=9)
