"""Prompts of the energy-per-token benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdwatts.config.evaluation import InferenceGrid
from kdwatts.data.shards import TokenShards, write_shards
from kdwatts.models.load import load_tokenizer
from kdwatts.serving.serving_text import prompts_file, prompts_of_corpus, prompts_of_file
from kdwatts.stages.inference import check


@pytest.fixture
def shards(tmp_path: Path) -> TokenShards:
    """One document of the tokens 0 to 99, in shards of 30."""
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [np.arange(100, dtype=np.uint32)], shard_tokens=30, source={})
    return TokenShards(tmp_path / "shards")


def test_prompts_of_the_corpus_are_its_last_tokens(shards: TokenShards):
    found = prompts_of_corpus(shards)(3, 8)
    assert found.flatten().tolist() == list(range(76, 100))
    assert found.shape == (3, 8)


def test_a_corpus_that_is_too_short_is_refused(shards: TokenShards):
    with pytest.raises(ValueError, match=r"26 prompts of 4 tokens need 104 .* the corpus has 100;"):
        prompts_of_corpus(shards)(26, 4)


def test_a_model_of_another_vocabulary_reads_the_same_text(tmp_path: Path):
    """Every id shifted by one stands for another tokenizer."""
    tokenizer = load_tokenizer("tiny:tokenizer")

    class Shifted:
        def __call__(self, text: str, **options: bool):
            return {"input_ids": [i + 1 for i in tokenizer(text, **options)["input_ids"]]}

    ids = tokenizer("To be, or not to be, that is the question. " * 9)["input_ids"]
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [np.array(ids, np.uint32)], shard_tokens=900, source={})
    cut = prompts_of_corpus(
        TokenShards(tmp_path / "shards"), read_by=Shifted(), written_by=tokenizer
    )
    assert cut(2, 8).flatten().tolist() == [i + 1 for i in ids[-32:][:16]]


def test_prompts_of_a_text_follow_one_another(tmp_path: Path):
    tokenizer = load_tokenizer("tiny:tokenizer")
    path = tmp_path / "service.txt"
    path.write_text("To be, or not to be, that is the question. " * 20)
    found = prompts_of_file(path, tokenizer)(2, 16)
    assert tokenizer.decode(found.flatten()).startswith("To be, or not to be")
    assert found.flatten().tolist() == tokenizer(path.read_text())["input_ids"][:32]


def test_lines_of_json_give_their_text(tmp_path: Path):
    tokenizer = load_tokenizer("tiny:tokenizer")
    path = tmp_path / "service.jsonl"
    path.write_text("".join(json.dumps({"text": f"Line {n}."}) + "\n" for n in range(50)))
    text = tokenizer.decode(prompts_of_file(path, tokenizer)(1, 32)[0])
    assert text.startswith("Line 0.\n\nLine 1.\n\n")


def test_lines_end_where_json_says_and_a_mark_at_the_beginning_is_none_of_them(tmp_path: Path):
    """U+2028 and U+0085 end lines of Unicode's, none of a JSONL file's."""
    tokenizer = load_tokenizer("tiny:tokenizer")
    texts = ["Grey \u2028 mare \x85 " * 9, "Mill " * 9]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    expected = tokenizer("\n\n".join(texts))["input_ids"][:40]
    for content in ("\n".join(lines), "\ufeff" + "\r\n".join(lines) + "\n\n"):
        path = tmp_path / "service.jsonl"
        path.write_bytes(content.encode())
        assert prompts_of_file(path, tokenizer)(1, 40)[0].tolist() == expected


def test_a_plain_text_is_utf_8_in_every_locale_or_refused(tmp_path: Path):
    tokenizer, path = load_tokenizer("tiny:tokenizer"), tmp_path / "service.txt"
    path.write_bytes("\ufeffSüd\r\nroad ".encode() * 1)
    found = prompts_of_file(path, tokenizer)(1, 4)[0].tolist()
    assert found == tokenizer("Süd\nroad ")["input_ids"][:4]
    path.write_bytes("Süd".encode("latin-1"))
    with pytest.raises(ValueError, match=r"service\.txt is not UTF-8 .*; save it as UTF-8"):
        prompts_of_file(path, tokenizer)


def test_prompts_that_cannot_be_read_or_are_too_short_are_refused_before_training(
    tmp_path: Path, configure: Callable[..., Any]
):
    path = tmp_path / "service.jsonl"
    config = configure("eval=offline", f"eval.inference.prompts={path}")
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(ValueError, match="not a JSON object with `text`"):
        check(config)
    path.write_text('{"text": "Too short."}\n')
    with pytest.raises(
        ValueError, match=r"4 prompts of 64 tokens need 256 tokens, .*service\.jsonl"
    ):
        check(config)
    path.write_text(json.dumps({"text": "Long enough. " * 200}) + "\n")
    check(config)
    check(configure("eval=none"))


def test_a_line_without_text_is_refused(tmp_path: Path):
    path = tmp_path / "service.jsonl"
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(ValueError, match=r"not a JSON object with `text` .*; correct it, or give"):
        prompts_of_file(path, load_tokenizer("tiny:tokenizer"))


def test_a_file_that_is_not_there_is_refused_before_anything_is_built():
    grid = InferenceGrid(prompts="no/such.txt")
    with pytest.raises(ValueError, match=r"prompts=no/such.txt: this file does not exist; give"):
        prompts_file(grid)
    assert prompts_file(InferenceGrid()) is None
    shipped = prompts_file(InferenceGrid(prompts="tiny:tasks/held_out.jsonl"))
    assert shipped and shipped.name == "held_out.jsonl"
