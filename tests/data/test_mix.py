"""Weighted mixes: shares of tokens, an order that nothing but documents and weights decides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdwatts.config.data import Data, MixPart, TextSource
from kdwatts.data.mix import PartSize, mixed
from kdwatts.data.shards import NO_TARGET
from kdwatts.models.load import load_tokenizer
from tests import whole_runs
from tests.conftest import CHAT_TEMPLATE


def documents(source: int, lengths: list[int]) -> list[Any]:
    return [np.full(length, source, dtype=np.uint32) for length in lengths]


def order(streams: list[list[Any]], weights: list[float]) -> tuple[list[int], list[PartSize]]:
    """Which source each document came from, and what each gave."""
    sizes = [PartSize() for _ in streams]
    return [int(d[0] & ~NO_TARGET) for d in mixed(streams, weights, sizes)], sizes


def test_the_next_document_is_of_the_source_furthest_behind_its_share():
    # Tokens over weight after each: (4, 0) (4, 12) (8, 12) (12, 12) (16, 12): the second is out.
    streams = [documents(0, [4] * 9), documents(1, [3])]
    sources, sizes = order(streams, [1.0, 0.25])
    assert sources == [0, 1, 0, 0, 0]
    assert [size.num_tokens for size in sizes] == [16, 3]


def test_a_weight_is_a_share_of_tokens_and_not_of_documents():
    streams = [documents(0, [100] * 50), documents(1, [10] * 5000)]
    sources, sizes = order(streams, [0.25, 0.75])
    assert sizes[0].num_tokens / sum(s.num_tokens for s in sizes) == pytest.approx(0.25, abs=0.01)
    # Taken by documents, a fifth of the tokens would be the second's: 0.75 * 10 of 32.5.
    assert sources.count(0) / len(sources) == pytest.approx(1 / 31, rel=0.1)


@pytest.mark.parametrize("weights", [[1, 1, 2], [0.7, 0.2, 0.1], [3, 5, 0.01]])
def test_every_prefix_is_at_its_shares_within_a_document(weights: list[float]):
    lengths = np.random.default_rng(0).integers(1, 40, size=(3, 400)).tolist()
    sizes = [PartSize() for _ in weights]
    streams = [documents(i, l) for i, l in enumerate(lengths)]  # noqa: E741
    for document in mixed(streams, weights, sizes):
        total = sum(size.num_tokens for size in sizes)
        assert len(document)
        for size, weight in zip(sizes, weights, strict=True):
            assert size.num_tokens < weight / sum(weights) * total + 40


def test_only_the_ratio_of_weights_counts_and_the_order_is_the_same_every_time():
    streams = [documents(i, [7, 3, 11, 5] * 20) for i in range(3)]
    first = order(streams, [0.5, 0.3, 0.2])[0]
    assert first == order(streams, [5, 3, 2])[0]
    assert first != order(streams, [2, 3, 5])[0]


def test_what_each_source_gave_is_counted_with_its_targets_and_which_had_no_more_said():
    prompt = np.array([1 | NO_TARGET, 1, 1], dtype=np.uint32)
    _, sizes = order([[prompt, prompt], documents(0, [3])], [1.0, 1.0])
    # (0, 0) (3, 0) (3, 3) (6, 3): the second is behind, and out.
    assert sizes == [PartSize(2, 6, 4), PartSize(1, 3, 3, is_exhausted=True)]


def test_the_shares_are_refused_where_they_cannot_be():
    source = TextSource("a")
    with pytest.raises(ValueError, match=r"data.sources.weight=0 is out of range; give a number"):
        MixPart(source, weight=0, licence="none")
    with pytest.raises(ValueError, match=r"data=d has both source and sources; give exactly one"):
        Data("d", source, "none", sources=[MixPart(source, 1.0, "none")])
    drawn = [MixPart(source, 1.0, "none", num_documents=5), MixPart(source, 1.0, "none")]
    assert Data("d", sources=drawn, fraction=0.5).sources == drawn
    with pytest.raises(ValueError, match=r"data.num_documents=7 is for a single source, and this"):
        Data("d", sources=drawn, num_documents=7)


def test_the_shipped_mix_is_bounded_where_its_conversations_end_first(
    configure: Callable[..., Any],
):
    conversations, pages = configure("data=tulu3_fineweb", "gpu=cpu").data.sources
    assert conversations.source.num_rows is None
    # Of the data cards: 2.9 GB of conversations, at 3.2 bytes a token or more; 9.67 million pages
    # of 10 billion tokens, of which the first file of fourteen has 0.69 million.
    most_tokens = 2.9e9 / 3.2
    needed_pages = most_tokens * pages.weight / conversations.weight * 9.67e6 / 10e9
    assert needed_pages < pages.source.num_rows < 9.67e6 / 14


def _texts(path: Path, word: str, count: int) -> str:
    path.write_text("".join(json.dumps({"text": f"{word} " * 30}) + "\n" for _ in range(count)))
    return str(path)


@pytest.fixture
def mix(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes the shards of a mix of two local files; their index."""

    def build(name: str, first: str, second: str) -> dict[str, Any]:
        sources = (
            f"data.sources=[{{source:{{path:{_texts(tmp_path / 'a.jsonl', 'Rome', 60)}}},"
            f"weight:3,licence:none{first}}},"
            f"{{source:{{path:{_texts(tmp_path / 'b.jsonl', 'Verona', 20)}}},"
            f"weight:1,licence:public{second}}}]"
        )
        asked = ["until=shards", "gpu=cpu", "data.source=null", "data.name=mix", sources]
        whole_runs.run(tmp_path / name, *asked, f"store_dir={tmp_path}/{name}-store")
        (found,) = (tmp_path / f"{name}-store" / "shards").glob("*/index.json")
        return json.loads(found.read_text())

    return build


def test_a_mix_of_two_files_becomes_shards_that_say_what_each_gave(mix: Callable[..., Any]):
    index = mix("once", "", "")
    first, second = index["parts"]
    assert (first["weight"], first["licence"], second["licence"]) == (3, "none", "public")
    assert sum(part["num_tokens"] for part in index["parts"]) == index["num_tokens"]
    assert first["num_tokens"] / index["num_tokens"] == pytest.approx(0.75, abs=0.03)
    assert min(first["num_documents"] - 60, second["num_documents"] - 20) <= 0


def test_a_source_may_be_read_again_where_it_is_short(mix: Callable[..., Any]):
    once, again = (
        mix("once", "", ",num_documents:5"),
        mix("twice", "", ",num_documents:5,max_epochs:2"),
    )
    counts = [index["parts"][1]["num_documents"] for index in (once, again)]
    assert counts == [5, 10]


def test_the_index_says_which_source_ended_the_mix(mix: Callable[..., Any]):
    """Three documents of Rome for each of Verona, which are a little longer: 20 of 60 end first."""
    short = [part["is_exhausted"] for part in mix("short", "", ",num_documents:5")["parts"]]
    assert short == [False, True]
    other = [part["is_exhausted"] for part in mix("other", ",num_documents:5", "")["parts"]]
    assert other == [True, False]


@pytest.mark.parametrize("first", [True, False])
def test_a_source_that_gives_no_document_is_refused_and_does_not_end_a_mix_at_its_first(
    first: bool, tmp_path: Path
):
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n' * 3)
    parts = [
        f"{{source:{{path:{tmp_path}/blank.jsonl}},weight:1,licence:none}}",
        f"{{source:{{path:{_texts(tmp_path / 'a.jsonl', 'Rome', 5)}}},weight:1,licence:none}}",
    ]
    sources = f"data.sources=[{','.join(parts if first else parts[::-1])}]"
    asked = ["until=shards", "gpu=cpu", "data.source=null", "data.name=mix", sources]
    (tmp_path / "run").mkdir()
    with pytest.raises(
        ValueError,
        match=r"data.sources: .*blank.jsonl gave no document to the mix \(3 read, 3 empty\); check",
    ):
        whole_runs.run(tmp_path / "run", *asked, f"store_dir={tmp_path}/store")


def test_the_index_says_of_each_source_what_was_read_and_left_out_and_why(
    mix: Callable[..., Any], tmp_path: Path
):
    first, second = mix("once", "", ",num_documents:5,max_epochs:2")["parts"]
    assert second["path"] == str(tmp_path / "b.jsonl")
    assert second["sha256"] == hashlib.sha256((tmp_path / "b.jsonl").read_bytes()).hexdigest()
    assert (second["revision"], second["name"], second["split"]) == (None, None, None)
    # Twenty rows are read twice, five drawn of each reading.
    assert (second["num_seen"], second["num_dropped"]) == (40, {"not_drawn": 30})
    assert (first["num_seen"], first["num_dropped"]) == (first["num_documents"], {})


def test_a_corpus_of_one_source_is_drawn_and_described_likewise(tmp_path: Path):
    rows = [{"id": str(i), "messages": [{"role": "assistant", "content": "x"}]} for i in range(50)]
    rows[0]["messages"] = []
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def index(name: str, *overrides: str) -> dict[str, Any]:
        asked = ["until=shards", "gpu=cpu", f"data.source.path={path}", "model.tokenizer=" + chat]
        asked += ["data.source.text_field=null", "data.source.messages_field=messages", *overrides]
        store = tmp_path / f"{name}-store"
        whole_runs.run(tmp_path / name, *asked, f"store_dir={store}")
        (found,) = (store / "shards").glob("*/index.json")
        return json.loads(found.read_text())

    chat = str(tmp_path / "tokenizer")
    tokenizer = load_tokenizer("tiny:tokenizer")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(chat)
    whole = index("whole")
    assert (whole["num_documents"], whole["schema"]) == (49, 1)
    (part,) = whole["parts"]
    assert part["is_exhausted"]
    assert (part["num_seen"], part["num_dropped"]) == (50, {"empty": 1})
    assert (part["num_tokens"], part["num_targets"]) == (whole["num_tokens"], whole["num_targets"])
    for seed in (0, 1, 2):
        asked = ["data.num_documents=10", f"data.sample_seed={seed}"]
        (part,) = index(f"drawn-{seed}", *asked)["parts"]
        # What is empty is no document, so that it is not among those that are drawn.
        assert part["num_documents"] == 10
        assert (part["num_seen"], part["num_dropped"]) == (50, {"empty": 1, "not_drawn": 39})
