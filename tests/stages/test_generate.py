"""Runs whose text a model writes: the teacher's as an artifact, the student's while it trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdwatts.artifacts.artifact import record_energy
from kdwatts.cli.attempt import run_in
from kdwatts.config.experiment import Config
from kdwatts.data.prompts import corpus_prompts
from kdwatts.data.shards import NO_TARGET, TokenShards
from kdwatts.models.load import load_model, load_tokenizer
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime import interrupt
from kdwatts.stages import generate
from kdwatts.stages.graph import plan
from kdwatts.stages.work import end_tokens
from kdwatts.training import checkpoint
from tests import whole_runs
from tests.whole_runs import artifact_of, config_of

SMALL = (
    "training=smoke",
    "gpu=cpu",
    "eval=none",
    "until=distill",
    "data.num_documents=12",
    "training.target_tokens=2000",
)
ON_POLICY = (*SMALL, "paradigm=on_policy", "training.log_every=1")
SEQUENCE = (*SMALL, "paradigm=sequence", "paradigm.generate.batch_size=16")


def run(run_dir: Path, store: Path, *overrides: str) -> dict[str, Any]:
    """One run in this process; its metrics."""
    return read_json(whole_runs.run(run_dir, f"store_dir={store}", *overrides) / "metrics.json")


def rows_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Window to its last row."""
    return {row["window"]: row for row in read_jsonl(run_dir / "stages.jsonl")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    run_dir = tmp_path_factory.mktemp("sequence")
    run(run_dir, store, *SEQUENCE)
    return run_dir


@pytest.fixture(scope="module")
def text(sequence: Path, store: Path) -> TokenShards:
    return TokenShards(artifact_of(store, "generate", *SEQUENCE))


def documents(shards: TokenShards) -> Iterator[np.ndarray]:
    starts = shards.starts_between(0, shards.num_tokens)
    for start, stop in zip(starts, [*starts[1:], shards.num_tokens], strict=True):
        yield shards.read(int(start), int(stop))


def test_a_text_is_its_prompt_as_context_and_the_teacher_s_words_as_targets(
    text: TokenShards, store: Path
):
    config = config_of(f"store_dir={store}", *SEQUENCE)
    corpus = TokenShards(artifact_of(store, "shards", *SEQUENCE))
    # 2,000 targets at 64 - 16 - 1 = 47 a text are 43 texts.
    prompts = corpus_prompts(corpus, prompt_tokens=16, piece_tokens=64, num_prompts=43)
    found = list(documents(text))
    assert len(found) == len(prompts) == 43
    end = load_tokenizer(config.model.tokenizer).eos_token_id
    for document, prompt in zip(found, prompts.values(), strict=True):
        assert (document[:16] & ~NO_TARGET).tolist() == prompt.tolist()
        assert (document[:16] >= NO_TARGET).all()
        words = document[16:][document[16:] < NO_TARGET]
        assert len(document) <= 64 and end not in words[:-1]
        # Closed by the teacher, or cut off and closed by an end token that nobody learns.
        assert document[-1] == (end if words[-1] == end else end | NO_TARGET)
    assert text.num_targets <= 43 * 47


def test_the_words_are_those_that_the_teacher_gives_each_prompt_alone(
    text: TokenShards, store: Path
):
    """Greedy would be easier; sampled, the draws of a prompt must be its own as well."""
    from kdwatts.teacher.decoding import uniform_draws, write_text

    config = config_of(f"store_dir={store}", *SEQUENCE)
    assert config.model.teacher
    teacher = load_model(config.model.teacher, dtype=torch.float32)
    ends = end_tokens(load_tokenizer(config.model.tokenizer), teacher)
    corpus = TokenShards(artifact_of(store, "shards", *SEQUENCE))
    prompts = corpus_prompts(corpus, prompt_tokens=16, piece_tokens=64, num_prompts=43)
    for (place, prompt), document in list(zip(prompts.items(), documents(text), strict=True))[::9]:
        draws = [uniform_draws([0, place], 47)]
        (alone,) = write_text(
            teacher, [prompt], draws, end_ids=ends, vocabulary=1024, temperature=1.0
        )
        assert document[16:][document[16:] < NO_TARGET].tolist() == alone.tolist()


def test_the_stage_is_a_window_of_its_own_whose_tokens_are_those_generated(
    sequence: Path, text: TokenShards
):
    rows = rows_of(sequence)
    assert rows["run/generate"]["tokens"] == text.num_targets
    assert rows["run/generate"]["energy_j"]["cpu"] > 0
    assert rows["run/distill"]["tokens"] >= 2000


def test_the_student_inherits_what_the_text_the_corpus_and_the_teacher_cost(
    sequence: Path, store: Path
):
    metrics = json.loads((sequence / "metrics.json").read_text())
    ancestors = metrics["inherited_energy_by_artifact_j"]
    for stage in ("shards", "generate"):
        directory = artifact_of(store, stage, *SEQUENCE)
        cost = record_energy(read_json(directory / "artifact.json")).value
        assert cost is not None and cost > 0
        assert ancestors.pop(directory.name) == cost
    (trained,) = ancestors
    assert trained.startswith("model:")
    carried = json.loads((sequence / "student" / "energy.json").read_text())["energy_j"]
    assert carried == pytest.approx(metrics["own_energy_j"] + metrics["inherited_energy_j"])


def test_another_training_seed_or_batch_size_reuses_the_text_and_another_draw_does_not(
    store: Path, sequence: Path
):
    def key(*changes: str) -> str:
        return artifact_of(store, "generate", *SEQUENCE[:-1], *changes).name

    mine = key("paradigm.generate.batch_size=16")
    assert key("training.seed=3") == key("paradigm.generate.batch_size=5") == mine
    assert key("paradigm.generate.new_tokens=47", "paradigm.generate.num_prompts=43") == mine
    for change in ("seed=1", "temperature=0", "top_p=0.9", "new_tokens=40", "num_prompts=44"):
        assert key(f"paradigm.generate.{change}") != mine


def test_until_generate_stops_behind_the_text(tmp_path: Path, store: Path, sequence: Path):
    overrides = [item for item in SEQUENCE if item != "until=distill"]
    tree = whole_runs.tree_of(f"store_dir={store}", *overrides, "until=generate")
    run_in(tmp_path, tree)
    assert [name for name in rows_of(tmp_path) if name.count("/") == 1] == [
        "run/shards",
        "run/generate",
    ]


def test_teacher_signals_are_taken_on_the_teacher_s_own_text_cached_as_online(
    store: Path, sequence: Path, tmp_path: Path
):
    losses = []
    for teacher in ("cached", "online"):
        overrides = (*SMALL, "paradigm=response", "paradigm.text=teacher", "training.log_every=1")
        run(tmp_path / teacher, store, *overrides, f"paradigm.teacher={teacher}")
        rows = rows_of(tmp_path / teacher)
        assert rows["run/generate"]["outcome"] == "reused"
        losses.append([row["loss"] for row in read_jsonl(tmp_path / teacher / "train.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    stages = plan(config_of(f"store_dir={store}", *overrides[:-1]), [])
    parents = {planned.name: list(planned.parents) for planned in stages}
    assert parents["teacher"] == ["generate"]
    assert parents["distill"] == ["shards", "generate", "teacher"]


def test_a_build_that_was_stopped_goes_on_to_the_same_text_and_no_joule_is_lost(
    store: Path, text: TokenShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "store"
    told: list[str] = []

    def stop_if_requested(message: str) -> None:
        told.extend([message] * message.endswith("prompts are written"))
        if len(told) == 2:
            raise interrupt.Preempted(message)

    with monkeypatch.context() as patch:
        patch.setattr(generate.interrupt, "stop_if_requested", stop_if_requested)
        with pytest.raises(interrupt.Preempted):
            run(tmp_path / "stopped", other, *SEQUENCE)
    assert told[-1] == "32 of 43 prompts are written"
    first = rows_of(tmp_path / "stopped")["run/generate"]
    assert first["outcome"] == "preempted"
    # With another batch size the rest is cut otherwise, and the text is the same.
    run(tmp_path / "resumed", other, *SEQUENCE[:-1], "paradigm.generate.batch_size=4")
    second = rows_of(tmp_path / "resumed")["run/generate"]
    assert first["tokens"] + second["tokens"] == text.num_targets
    directory = artifact_of(other, "generate", *SEQUENCE)
    assert (directory / "tokens-00000.bin").read_bytes() == (
        text.directory / "tokens-00000.bin"
    ).read_bytes()
    attempts = read_json(directory / "artifact.json")["attempts"]
    assert [row["energy_j"]["cpu"] for row in attempts] == [
        first["energy_j"]["cpu"],
        second["energy_j"]["cpu"],
    ]


def test_a_closed_text_and_one_that_was_cut_off_worked_by_hand():
    prompt, c = np.array([1, 2]), int(NO_TARGET)
    closed = generate.document(prompt, np.array([5, 8]), ends=[8, 9], end_id=9)
    assert closed.tolist() == [c + 1, c + 2, 5, 8]
    cut = generate.document(prompt, np.array([5, 6]), ends=[8, 9], end_id=9)
    assert cut.tolist() == [c + 1, c + 2, 5, 6, c + 9]


def test_every_end_token_of_the_writer_ends_a_text():
    class Writer:
        def __init__(self, *ids: Any) -> None:
            (self.eos_token_id,) = ids
            self.generation_config = self

    tokenizer: Any = Writer(5)
    writers: list[Any] = [Writer([7, 5]), Writer(6), Writer(None)]
    assert [end_tokens(tokenizer, writer) for writer in writers] == [[5, 7], [5, 6], [5]]


@pytest.fixture(scope="module")
def on_policy(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Ten steps whose texts are written in blocks of four."""
    run_dir = tmp_path_factory.mktemp("on_policy")
    run(run_dir, store, *TEN_STEPS)
    return run_dir


TEN_STEPS = (
    *ON_POLICY,
    "paradigm.on_policy.rollout_every=4",
    # Half the rows bear 64 targets and half 47: ten steps of 16 rows.
    "training.target_tokens=8800",
    "training.checkpoint_every_s=1e-6",
)


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "student" / "model.safetensors")


def test_an_on_policy_student_writes_in_windows_inside_its_training(on_policy: Path):
    rows = list(read_jsonl(on_policy / "stages.jsonl"))
    written = [row for row in rows if row["window"] == "run/distill/train/generate"]
    assert [row["parent"] for row in written] == ["run/distill/train"] * 3
    # About half of 64, 64 and 32 rows, of at most 47 tokens each.
    for row, num_rows in zip(written, (64, 64, 32), strict=True):
        assert 0.2 * num_rows < row["tokens"] / 47 < 0.8 * num_rows
    (train,) = [row for row in rows if row["window"] == "run/distill/train"]
    steps = list(read_jsonl(on_policy / "train.jsonl"))
    assert (steps[-1]["step"], steps[-1]["tokens"]) == (10, train["tokens"])
    # Loss-bearing tokens: those of its own rows and 64 of each row of the corpus.
    num_own = sum(row["tokens"] for row in written)
    assert (train["tokens"] - num_own) % 64 == 0
    assert train["tokens"] == pytest.approx(8800, rel=0.08)
    assert {"response_nats"} <= set(steps[-1]) and "ce_nats" not in steps[-1]


@pytest.mark.parametrize("last_step", [6, 8], ids=["within a block", "between blocks"])
def test_ten_steps_equal_some_a_kill_and_the_rest_bit_for_bit(
    on_policy: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_step: int,
):
    save = checkpoint.save

    def save_and_die(directory: Path, *state: Any, **named: Any) -> None:
        save(directory, *state, **named)
        if any(path.name.endswith(f"{last_step:08d}") for path in directory.glob("step-*")):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", tmp_path / "store", *TEN_STEPS)
    metrics = run(tmp_path / "run", tmp_path / "store", *TEN_STEPS)
    resumed, whole = weights_of(tmp_path / "run"), weights_of(on_policy)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert metrics["num_attempts"] == 2
    rows = list(read_jsonl(tmp_path / "run" / "stages.jsonl"))
    written = [row["tokens"] for row in rows if row["window"] == "run/distill/train/generate"]
    uncut = [
        row["tokens"]
        for row in read_jsonl(on_policy / "stages.jsonl")
        if row["window"] == "run/distill/train/generate"
    ]
    # A block is not written twice: it lies beside the checkpoint.
    assert written == uncut


def test_the_corpus_alone_and_the_student_s_own_text_teach_something_else(
    on_policy: Path, store: Path, tmp_path: Path, configure: Callable[..., Config]
):
    few = tuple(item for item in TEN_STEPS if not item.startswith("training.checkpoint"))
    run(tmp_path, store, *few, "paradigm.on_policy.fraction=0.001")
    assert "run/distill/train/generate" in rows_of(tmp_path)
    first = [next(read_jsonl(path / "train.jsonl"))["loss"] for path in (tmp_path, on_policy)]
    # At the start the student is as far from the teacher on either text, and yet not equally far.
    assert first[0] == pytest.approx(first[1], rel=0.2) and first[0] != first[1]
