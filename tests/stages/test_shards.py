"""The corpus as an artifact: built in one go or in several, its bytes are the same."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.data import TextSource
from kdwatts.data import hub, overlap, workers
from kdwatts.data.documents import Document
from kdwatts.data.shards import TokenShards
from kdwatts.evaluation.tasks.mmlu_dev import read_questions
from kdwatts.models.load import load_tokenizer
from kdwatts.records.files import read_json, read_jsonl, write_json
from kdwatts.runtime import interrupt
from kdwatts.stages import shards
from kdwatts.stages.graph import plan
from tests import whole_runs

SHARD_TOKENS = 1024


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A mix of two files, one drawn from and read twice, with texts of many lengths.

    Some quote a question that the evaluation asks and are left out.
    """
    quoted = max((question["question"] for question in read_questions()), key=len)
    for name, count in (("a", 300), ("b", 80)):
        texts = [f"{name} {i} " * (1 + i % 17) for i in range(count)]
        texts[3::20] = [f"{i}: {quoted}" for i in range(len(texts[3::20]))]
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    sources = (
        f"[{{source:{{path:{tmp_path}/a.jsonl}},weight:3,licence:none}},"
        f"{{source:{{path:{tmp_path}/b.jsonl}},weight:1,licence:none,"
        "num_documents:40,max_epochs:2}]"
    )
    return ["until=shards", "gpu=cpu", "eval=mmlu_dev", "data.source=null", "data.name=mix",
            f"data.sources={sources}", f"data.shard_tokens={SHARD_TOKENS}",
            "data.fraction=0.9", "data.decontaminate.mode=drop"]  # fmt: skip


def build(tmp_path: Path, name: str, asked: list[str], run: str | None = None) -> Path:
    """The shards' folder of a run; `name` is its store."""
    store = tmp_path / f"{name}-store"
    whole_runs.run(tmp_path / (run or name), *asked, f"store_dir={store}")
    (found,) = (store / "shards").glob("*/index.json")
    return found.parent


def content(directory: Path) -> dict[str, bytes]:
    names = [path.name for path in directory.iterdir() if path.name != "artifact.json"]
    return {name: (directory / name).read_bytes() for name in sorted(names)}


def fail_at(document: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Have tokenizing fail once at the n-th document from now on; counts its calls, one by one."""
    calls: list[int] = []
    encode = overlap.encode_documents

    def encode_or_fail(documents: Sequence[Document], tokenizer: Any) -> Any:
        for _ in documents:
            calls.append(1)
            if len(calls) == document:
                raise RuntimeError("the power went")
        return encode(documents, tokenizer)

    patch.setattr(shards, "BATCH_CHARACTERS", 1)
    # What fails in a batch is tried once more, alone; here a batch is alone.
    patch.setattr(workers, "_tried", lambda function, items, fixed: function(items, *fixed))
    patch.setattr(overlap, "encode_documents", encode_or_fail)
    return calls


def test_a_build_that_broke_off_within_a_shard_goes_on_to_the_same_bytes(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = content(build(tmp_path, "whole", asked))
    num_shards = sum(name.startswith("tokens-") for name in whole)
    assert num_shards >= 4
    index = json.loads(whole["index.json"])
    for part in index["parts"]:
        assert part["num_dropped"]["not_drawn"] > 0 and part["num_dropped"]["contaminated"] > 0
    before = sum(shard["documents"] for shard in index["shards"][:2]) + 3
    calls = fail_at(before, monkeypatch)
    with pytest.raises(RuntimeError, match="the power went"):
        build(tmp_path, "parts", asked)
    (scratch,) = (tmp_path / "parts-store" / "shards").glob("*.scratch")
    assert len(list((scratch / "shards").iterdir())) == 2
    directory = build(tmp_path, "parts", asked, run="again")
    assert content(directory) == whole
    # What lies in full shards is not tokenized again.
    assert len(calls) - before == sum(shard["documents"] for shard in index["shards"][2:])
    assert not scratch.exists()


def test_a_stopped_build_keeps_its_shards_and_counts_the_joules_of_both_attempts(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = content(build(tmp_path, "whole", asked))

    def stop(saved: str) -> None:
        if saved == "2 shards are written":
            raise interrupt.Preempted(saved)

    with monkeypatch.context() as patch:
        patch.setattr(shards.interrupt, "stop_if_requested", stop)
        with pytest.raises(interrupt.Preempted):
            build(tmp_path, "parts", asked)
    directory = build(tmp_path, "parts", asked, run="again")
    assert content(directory) == whole
    tokens = [
        row["tokens"]
        for run in ("parts", "again")
        for row in read_jsonl(tmp_path / run / "stages.jsonl")
        if row["window"] == "run/shards"
    ]
    index = read_json(directory / "index.json")
    assert tokens[0] == sum(shard["tokens"] for shard in index["shards"][:2])
    assert sum(tokens) == index["num_tokens"]
    assert len(read_json(directory / "artifact.json")["attempts"]) == 2


def test_a_harmed_shard_and_what_follows_it_are_written_again(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = content(build(tmp_path, "whole", asked))
    counts = [shard["documents"] for shard in json.loads(whole["index.json"])["shards"]]
    fail_at(sum(counts[:3]) + 2, monkeypatch)
    with pytest.raises(RuntimeError, match="the power went"):
        build(tmp_path, "parts", asked)
    (harmed,) = (tmp_path / "parts-store" / "shards").glob("*.scratch/shards/*/tokens-00001.bin")
    harmed.write_bytes(harmed.read_bytes()[:-4] + bytes(4))
    assert content(build(tmp_path, "parts", asked, run="again")) == whole


def key(*overrides: str) -> str:
    config = whole_runs.config_of("gpu=cpu", *overrides)
    return plan(config, [])[0].key


def test_a_key_holds_what_files_hold_and_how_they_are_read_and_not_where_they_lie(tmp_path: Path):
    text = json.dumps({"text": "To be"}) + "\n"
    for name in ("a.jsonl", "b.jsonl", "a.txt", "a.json"):
        (tmp_path / name).write_text(text)
    first = key(f"data.source.path={tmp_path}/a.jsonl")
    os.utime(tmp_path / "a.jsonl", (1, 1))
    assert key(f"data.source.path={tmp_path}/a.jsonl") == first
    assert key(f"data.source.path={tmp_path}/b.jsonl") == first
    both = key(f"data.source.path={tmp_path}/*.jsonl")
    keys = [
        key(f"data.source.path={tmp_path}/a.txt"),
        key(f"data.source.path={tmp_path}/a.json"),
        key(f"data.source.path={tmp_path}/a.jsonl", "data.source.text_field=id"),
        key(f"data.source.path={tmp_path}/a.jsonl", "data.licence=CC0"),
    ]
    assert len({first, both, *keys}) == 6
    (tmp_path / "b.jsonl").write_text(text.replace("be", "go"))
    assert key(f"data.source.path={tmp_path}/*.jsonl") != both


def test_a_key_holds_the_licence_of_each_source_of_a_mix():
    def mix(licence: str) -> str:
        part = "{source:{path:tiny:corpus/train.jsonl.xz},weight:1,licence:%s}"
        sources = f"data.sources=[{part % 'none'},{part % licence}]"
        return key("data.source=null", sources)

    assert mix("none") != mix("CC0")


def test_a_folder_is_one_corpus_whose_index_names_its_files(tmp_path: Path):
    (tmp_path / "texts").mkdir()
    for name in ("b", "a"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"This is {name}.")
    asked = ["until=shards", "gpu=cpu", f"data.source.path={tmp_path}/texts"]
    index = read_json(build(tmp_path, "folder", asked) / "index.json")
    assert index["num_documents"] == 2
    (part,) = index["parts"]
    # printf 'This is a.' | sha256sum
    first = "7c2bab6f17f8351dd6c89863b37bc06dd8b0372078d663bb956441cc5c0ccb36"
    assert [file["path"] for file in part["files"]] == [
        f"{tmp_path}/texts/a.txt",
        f"{tmp_path}/texts/b.txt",
    ]
    assert part["files"][0]["sha256"] == first and part["sha256"] is None


def documents_of(directory: Path) -> set[bytes]:
    tokens = TokenShards(directory)
    edges = [*tokens.starts_between(0, tokens.num_tokens).tolist(), tokens.num_tokens]
    return {tokens.read(begin, end).tobytes() for begin, end in pairwise(edges)}


@pytest.mark.parametrize("is_mix", [False, True])
def test_a_smaller_fraction_lies_in_a_larger_one_alone_and_of_the_source_that_ends_a_mix(
    is_mix: bool, tmp_path: Path
):
    for name in ("a", "b"):
        texts = [f"{name} {i} " * (1 + i % 7) for i in range(200)]
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    part = "{source:{path:%s},weight:%s,licence:none}"
    parts = [part % (tmp_path / "a.jsonl", 1), part % (tmp_path / "b.jsonl", 9)]
    mix = ["data.source=null", f"data.sources=[{','.join(parts)}]"]
    asked = ["until=shards", "gpu=cpu"]
    asked += mix if is_mix else [f"data.source.path={tmp_path}/b.jsonl"]
    found = []
    for fraction in (0.2, 0.5, 1.0):
        directory = build(tmp_path, f"of-{fraction}", [*asked, f"data.fraction={fraction}"])
        last = read_json(directory / "index.json")["parts"][-1]
        assert last["is_exhausted"]
        mark = load_tokenizer("tiny:tokenizer")("b")["input_ids"][0].to_bytes(4, "little")
        found.append({d for d in documents_of(directory) if d.startswith(mark)})
        assert len(found[-1]) == last["num_documents"]
    assert found[0] < found[1] < found[2]
    # Of 200, a fifth and a half are drawn, with deviations of 6 and 7.
    assert 22 < len(found[0]) < 58 and 79 < len(found[1]) < 121 and len(found[2]) == 200


def test_blank_texts_are_no_documents_and_are_counted_as_left_out(tmp_path: Path):
    texts = ["To be", "", " \n\t ", "or not", "\u00a0\u2003"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = ["until=shards", "gpu=cpu", f"data.source.path={path}"]
    index = read_json(build(tmp_path, "all", asked) / "index.json")
    (part,) = index["parts"]
    assert (index["num_documents"], part["num_seen"]) == (2, 5)
    assert part["num_dropped"] == {"empty": 3}
    (part,) = read_json(build(tmp_path, "two", [*asked, "data.num_documents=2"]) / "index.json")[
        "parts"
    ]
    assert (part["num_documents"], part["num_dropped"]) == (2, {"empty": 3})


def test_an_answer_without_words_is_left_out_and_counted_and_none_is_drawn_for_it(
    tokenizer: Any, tmp_path: Path
):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    answers = ["I.", "", "You.", " \n", "We."]
    rows = [{"ask": "Who?", "say": answer} for answer in answers]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        *("until=shards", "gpu=cpu", "eval=none", "training=smoke", "paradigm=sft"),
        *(f"data.source.path={path}", f"model.tokenizer={tmp_path}/tokenizer"),
        *("data.source.text_field=null", "data.source.prompt_field=ask"),
        "data.source.response_field=say",
    ]
    for name, drawn in (("all", []), ("three", ["data.num_documents=3"])):
        index = read_json(build(tmp_path, name, [*asked, *drawn]) / "index.json")
        (part,) = index["parts"]
        assert (part["num_documents"], part["num_dropped"]) == (3, {"blank_answer": 2})
        assert (part["split"], index["source"]["split"]) == (None, None)


def test_only_conversations_have_a_key_that_says_how_they_are_read(configure: Any):
    text = shards.settings(configure())["source"]
    assert text["split"] == "train" and "conversations" not in text
    talks = shards.settings(configure("data=tulu3"))["source"]
    assert talks == {**talks, "split": "train", "conversations": shards.CONVERSATIONS}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a hub serves of org/name: its commit, which is a word of every text."""
    now = {"commit": "a" * 40}
    monkeypatch.setattr(hub, "commit_of", lambda source: now["commit"])
    monkeypatch.setattr(
        hub, "rows", lambda source, commit: ({"text": f"{commit} {n} " * 9} for n in range(40))
    )
    return now


@pytest.mark.parametrize("moves", [False, True])
def test_a_source_without_a_commit_goes_on_at_the_one_it_was_begun_at_or_is_begun_anew(
    moves: bool, served: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = ["until=shards", "gpu=cpu", "data.source.path=org/name", "data.shard_tokens=1024"]
    calls = fail_at(30, monkeypatch)
    with pytest.raises(RuntimeError, match="the power went"):
        build(tmp_path, "parts", asked)
    kept = list((tmp_path / "parts-store").glob("shards/*.scratch/shards/*/shard.json"))
    num_kept = sum(read_json(path)["shard"]["documents"] for path in kept)
    assert num_kept > 0
    if moves:
        served["commit"] = "b" * 40
    directory = build(tmp_path, "parts", asked, run="again")
    (part,) = read_json(directory / "index.json")["parts"]
    assert (part["commit"], part["revision"]) == (served["commit"], None)
    assert len(calls) - 30 == (40 if moves else 40 - num_kept)
    assert content(directory) == content(build(tmp_path, "whole", asked))


def test_what_was_fetched_anew_while_it_was_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = TextSource("org/name")
    kept = hub.FetchedText("org/name", "b" * 40, "parquet", [], is_whole=True)
    write_json(tmp_path / "list.json", asdict(kept))
    monkeypatch.setattr(hub, "_list_path", lambda source: tmp_path / "list.json")
    assert hub.commit_of(source) == "b" * 40
    with pytest.raises(
        RuntimeError, match=r"is read at commit a{40}, but HF_HOME=.* now holds commit b{40}"
    ):
        next(hub.rows(source, "a" * 40))


def test_a_commit_is_its_own_and_needs_no_hub():
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert hub.commit_of(TextSource("org/name", revision=commit)) == commit
    assert not hub.is_pinned(TextSource("org/name", revision="main"))
    assert not hub.is_pinned(TextSource("org/name"))
