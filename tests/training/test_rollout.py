"""On-policy rows: which the student writes, what a batch makes of them, what a kill leaves."""

# B sequences of a batch, T positions.

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdwatts.config.generation import Generate, OnPolicy
from kdwatts.config.machine import Telemetry
from kdwatts.config.paradigm import Feature, Paradigm, Response
from kdwatts.data.packing import IGNORE, Batch, Schedule, load_batch, make_schedule
from kdwatts.data.shards import NO_TARGET, TokenShards, write_shards
from kdwatts.models.load import recompute_blocks
from kdwatts.records.files import read_jsonl
from kdwatts.telemetry.meter import Meter
from kdwatts.training import rollout
from kdwatts.training.rollout import Place, Rollouts, Writer, Written, targets_kept, with_text
from kdwatts.training.text_rows import TextRows
from tests.training.pair import assert_close, gradients, llama, make_objective, part_of, share

LENGTH, ROWS_PER_STEP, NUM_STEPS, END = 12, 6, 10, 7


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """A plain corpus of 100 rows of twelve tokens."""
    directory = tmp_path_factory.mktemp("shards")
    tokens = np.random.default_rng(0).integers(64, size=1201).astype(np.uint32)
    write_shards(directory, [tokens], shard_tokens=5000, source={})
    return TokenShards(directory)


@pytest.fixture(scope="module")
def schedule(shards: TokenShards) -> Schedule:
    target_tokens = ROWS_PER_STEP * NUM_STEPS * LENGTH
    return make_schedule(
        shards,
        sequence_length=LENGTH,
        target_tokens=target_tokens,
        rows_per_step=ROWS_PER_STEP,
        seed=0,
    )


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    with Meter(tmp_path / "run", Telemetry(), use_gpus=False) as meter:
        yield meter


Make = Callable[..., Rollouts]


@pytest.fixture
def make(
    shards: TokenShards, schedule: Schedule, student: Any, meter: Meter, tmp_path: Path
) -> Make:
    def make(
        *,
        writer: Any = None,
        fraction: float = 0.5,
        every: int = 4,
        end_ids: Collection[int] = (END,),
        batch_size: int = 4,
        seed: int = 0,
        directory: Path | None = None,
    ) -> Rollouts:
        return Rollouts(
            Writer(writer or student, end_ids, vocabulary=64, precision="fp32"),
            TextRows(shards, schedule, LENGTH, ROWS_PER_STEP),
            Generate(prompt_tokens=3, new_tokens=8, batch_size=batch_size),
            OnPolicy(fraction, every),
            seed=seed,
            directory=directory or tmp_path / "kept",
            meter=meter,
        )

    return make


def batch_of(shards: TokenShards, schedule: Schedule, step: int) -> Batch:
    return load_batch(shards, schedule.rows_of_step(step), LENGTH)


def written(rollouts: Rollouts, shards: TokenShards, schedule: Schedule, step: int) -> Batch:
    rollouts.prepare(step)
    return rollouts.write(batch_of(shards, schedule, step), step)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.input_BT, other.input_BT) and torch.equal(one.target_BT, other.target_BT)


def test_a_written_row_worked_by_hand():
    rows = torch.arange(20).reshape(2, 10)
    batch = Batch(np.array([5, 6]), rows[:, :6], rows[:, 1:7], position_BT=torch.zeros(2, 6).long())
    block = {
        (3, 6): Written(np.array([40, 41, 50, 51, END]), 2),
        (4, 5): Written(rows[0].numpy(), 1),
    }
    result = with_text(batch, 3, block)
    assert result.input_BT.tolist() == [[0, 1, 2, 3, 4, 5], [40, 41, 50, 51, 0, 0]]
    ignored = [IGNORE]
    # The prompt's own second token is no target, the end token is one.
    assert result.target_BT.tolist() == [[1, 2, 3, 4, 5, 6], ignored + [50, 51, END] + 2 * ignored]
    assert result.text_BT.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert result.position_BT is not None
    assert result.position_BT.tolist() == [[0] * 6, [0, 1, 2, 3, 4, 5]]
    assert result.num_targets == 6 + 3
    assert with_text(batch, 5, block) is batch


def test_a_text_that_fills_its_row_leaves_no_padding():
    tokens = np.arange(30, 37)
    batch = Batch(np.array([0]), torch.zeros(1, 6).long(), torch.zeros(1, 6).long())
    result = with_text(batch, 0, {(0, 0): Written(tokens, 3)})
    assert result.input_BT.tolist() == [tokens[:-1].tolist()]
    assert result.target_BT.tolist() == [[IGNORE, IGNORE, 33, 34, 35, 36]]
    assert result.text_BT.all()


TEXTS: dict[Place, Written] = {
    (0, 0): Written(np.arange(10, 23), 3),
    (0, 1): Written(np.array([1, 2, 3, 9, END]), 3),
    (0, 3): Written(np.array([4, 5, 6, 8, 9, 9, 2, END]), 3),
}
JSD = Response(1.0, "jsd", support="dense", beta=0.4)
PARADIGM = Paradigm("p", teacher="online", response=JSD, feature=Feature(0.5, projector="mlp"))


def test_neither_padding_nor_the_batch_a_row_is_in_changes_the_loss(
    student: Any, shards: TokenShards
):
    teacher = llama(1, vocabulary=64, width=24, num_layers=3, tied=False)
    objective = make_objective(PARADIGM, teacher)
    batch = with_text(load_batch(shards, np.arange(4), LENGTH), 0, TEXTS)
    size = objective.step_size([batch])
    assert size.num_targets == 10 + 2 + LENGTH + 5
    loss, _ = share(objective, student, teacher, batch)
    expected = gradients(loss, student, objective.projectors)

    alone = []
    for row in range(4):
        one = part_of(batch, slice(row, row + 1))
        length = int(one.text_BT.sum())
        cut = {
            name: getattr(one, name)[:, :length] for name in ("input_BT", "target_BT", "valid_BT")
        }
        alone.append(share(objective, student, teacher, replace(one, **cut), size)[0])
    torch.testing.assert_close(sum(alone), loss, rtol=1e-5, atol=1e-6)
    assert_close(gradients(sum(alone, torch.zeros(())), student, objective.projectors), expected)

    refilled = replace(batch, input_BT=batch.input_BT.masked_fill(~batch.text_BT, 33))
    refilled_loss, _ = share(objective, student, teacher, refilled)
    assert_close(gradients(refilled_loss, student, objective.projectors), expected)

    # Had pads been targets, or text, the loss would be another one.
    counted = replace(batch, target_BT=batch.target_BT.masked_fill(~batch.text_BT, 0))
    as_text = replace(batch, valid_BT=None)
    for wrong in (counted, as_text):
        assert (share(objective, student, teacher, wrong)[0] - loss).abs() > 1e-3


def test_about_the_fraction_of_rows_is_the_student_s_and_the_rest_is_the_corpus_s(
    make: Make, shards: TokenShards, schedule: Schedule
):
    rollouts = make(fraction=0.5, every=NUM_STEPS)
    num_written = 0
    for step in range(NUM_STEPS):
        before, after = batch_of(shards, schedule, step), written(rollouts, shards, schedule, step)
        for row in range(ROWS_PER_STEP):
            is_corpus = same(
                part_of(before, slice(row, row + 1)), part_of(after, slice(row, row + 1))
            )
            num_written += not is_corpus
            # Prompts are the row's own first tokens.
            assert torch.equal(after.input_BT[row, :3], before.input_BT[row, :3])
            if not is_corpus:
                assert 1 <= int((after.target_BT[row] != IGNORE).sum()) <= 8
                assert not (after.target_BT[row, :2] != IGNORE).any()
    # Sixty throws of a coin: three standard deviations are 12.
    assert 18 <= num_written <= 42


def test_with_fraction_1_every_row_is_the_student_s(
    make: Make, shards: TokenShards, schedule: Schedule
):
    batch = written(make(fraction=1.0), shards, schedule, 0)
    assert (batch.target_BT[:, :2] == IGNORE).all()
    assert batch.num_targets <= 8 * ROWS_PER_STEP


def test_what_is_written_depends_on_seed_step_and_row_and_not_on_batches(
    make: Make, shards: TokenShards, schedule: Schedule
):
    batches = [
        written(rollouts, shards, schedule, 5)
        for rollouts in (make(), make(batch_size=64), make(every=5), make(seed=1))
    ]
    assert same(batches[0], batches[1])
    assert same(batches[0], batches[2])
    assert not same(batches[0], batches[3])
    rollouts = make()
    rollouts.prepare(5)
    halves = [part_of(batch_of(shards, schedule, 5), rows) for rows in (slice(3), slice(3, 6))]
    parts = [rollouts.write(half, 5) for half in halves]
    assert torch.equal(torch.cat([part.input_BT for part in parts]), batches[0].input_BT)


def test_a_block_is_written_once_by_the_weights_at_its_first_step(
    make: Make, student: Any, shards: TokenShards, schedule: Schedule, meter: Meter, tmp_path: Path
):
    rollouts, fresh = make(every=4), make(every=4)
    with meter.window("train"):
        first = [written(rollouts, shards, schedule, step) for step in range(4)]
    expected = [written(fresh, shards, schedule, step) for step in range(4)]
    assert all(same(one, other) for one, other in zip(first, expected, strict=True))
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert same(written(rollouts, shards, schedule, 3), expected[3])
    assert not same(written(make(every=4), shards, schedule, 3), expected[3])
    rows = [r for r in read_jsonl(tmp_path / "run" / "stages.jsonl") if r["parent"] == "run/train"]
    assert [row["window"] for row in rows] == ["run/train/generate"]
    from_student = [
        (batch.target_BT[row] != IGNORE).sum().item()
        for batch in first
        for row in range(ROWS_PER_STEP)
        if (batch.target_BT[row, :2] == IGNORE).all()
    ]
    # Generated tokens alone: what is loss-bearing on the corpus's rows is not among them.
    assert rows[0]["tokens"] == sum(from_student)


def test_a_saved_block_outlives_the_weights_that_wrote_it(
    make: Make, student: Any, shards: TokenShards, schedule: Schedule
):
    rollouts = make(every=4)
    expected = written(rollouts, shards, schedule, 6)
    rollouts.save()
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert same(written(make(every=4), shards, schedule, 6), expected)
    assert not same(written(make(every=4, directory=Path("none")), shards, schedule, 6), expected)


def test_the_block_before_is_kept_until_another_is_saved(
    make: Make, shards: TokenShards, schedule: Schedule, tmp_path: Path
):
    rollouts = make(every=2)
    rollouts.save()  # Nothing is written yet.
    for step in range(6):
        rollouts.prepare(step)
        rollouts.save()
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["rollout-00000002.npz", "rollout-00000004.npz"]


def test_the_student_trains_on_as_before_and_its_checkpointing_changes_no_word(
    make: Make, student: Any, shards: TokenShards, schedule: Schedule
):
    plain = written(make(), shards, schedule, 0)
    assert student.training
    recompute_blocks(student)
    assert same(written(make(), shards, schedule, 0), plain)
    state = torch.get_rng_state()
    written(make(), shards, schedule, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_row_of_a_conversation_that_has_no_room_for_its_prompt_stays_the_corpus_s(
    make: Make, meter: Meter, student: Any, tmp_path: Path
):
    talk = np.arange(1, 26, dtype=np.uint32)
    talk[:6] |= NO_TARGET
    (tmp_path / "talk").mkdir()
    write_shards(tmp_path / "talk", [talk], shard_tokens=100, source={})
    shards = TokenShards(tmp_path / "talk")
    schedule = Schedule(np.array([0, 1]), 2, 1, 0)
    for prompt_tokens, expected in ((5, [False, True]), (6, [True, True])):
        rollouts = Rollouts(
            Writer(student, [END], vocabulary=64, precision="fp32"),
            TextRows(shards, schedule, LENGTH, 2),
            Generate(prompt_tokens=prompt_tokens, new_tokens=4),
            OnPolicy(1.0, 1),
            seed=0,
            directory=tmp_path / "none",
            meter=meter,
        )
        rollouts.prepare(0)
        batch = load_batch(shards, np.array([0, 1]), LENGTH)
        result = rollouts.write(batch, 0)
        changed = (result.target_BT != batch.target_BT).any(1).tolist()
        # The second row is all answer: plain text to be continued.
        assert changed == expected


def test_rows_that_bear_fewer_targets_are_made_up_for():
    # Half of the rows bear 128 targets, half 95.
    assert targets_kept(128, 95, fraction=0.5) == pytest.approx((128 + 95) / 2 / 128)
    assert targets_kept(128, 95, fraction=1.0) == pytest.approx(95 / 128)
    # Conversations bear few: a text is not taken to bear more.
    assert targets_kept(40, 95, fraction=0.5) == 1.0


def test_ranks_write_parts_of_a_block_that_together_are_what_one_would_write(
    make: Make, shards: TokenShards, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
):
    whole = written(make(), shards, schedule, 1)
    parts = []
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(rollout, "num_ranks", lambda: 2)
            patch.setattr(rollout, "rank", lambda rank=rank: rank)
            patch.setattr(rollout, "collected", lambda part: [part])
            parts.append(written(make(), shards, schedule, 1))
    corpus = batch_of(shards, schedule, 1)
    by_rank = [(part.target_BT != corpus.target_BT).any(1) for part in parts]
    assert not (by_rank[0] & by_rank[1]).any() and by_rank[0].any() and by_rank[1].any()
    joined = torch.where(by_rank[0][:, None], parts[0].target_BT, parts[1].target_BT)
    assert torch.equal(joined, whole.target_BT)
