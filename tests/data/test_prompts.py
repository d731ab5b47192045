"""Prompts: beginnings of plain text, what comes before answers, and never two documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdwatts.data.prompts import corpus_prompts, row_prompt
from kdwatts.data.shards import NO_TARGET, TokenShards, write_shards

C = int(NO_TARGET)
"""Added to a token that is context."""


def shards_of(directory: Path, *documents: list[int]) -> TokenShards:
    directory.mkdir(exist_ok=True)
    arrays = [np.array(document, dtype=np.uint32) for document in documents]
    # Shards of about two documents: prompts are read over the files' edges too.
    write_shards(directory, arrays, shard_tokens=12, source={"path": "x"})
    return TokenShards(directory)


def prompts(shards: TokenShards, **changes: int) -> dict[int, list[int]]:
    settings = {"prompt_tokens": 2, "piece_tokens": 4, "num_prompts": 100, **changes}
    return {place: ids.tolist() for place, ids in corpus_prompts(shards, **settings).items()}


def test_plain_text_gives_the_beginning_of_every_piece_that_goes_on_after_it(tmp_path: Path):
    # Pieces of 4 from 0, 4 and 8; the third has its prompt and no token after it.
    shards = shards_of(tmp_path, list(range(10, 20)), [30, 31, 32], [40, 41])
    assert prompts(shards) == {0: [10, 11], 4: [14, 15], 10: [30, 31]}


def test_a_conversation_gives_all_before_its_first_answer_and_only_that(tmp_path: Path):
    talk = [C + 1, C + 2, C + 3, 4, 5, C + 6, 7]
    shards = shards_of(tmp_path, talk, [C + 8, 9], [C + 5, C + 6])
    assert prompts(shards, prompt_tokens=3) == {0: [1, 2, 3], 7: [8]}
    # Longer than allowed, it is left out and not cut: an instruction's end may be its point.
    assert prompts(shards, prompt_tokens=2) == {7: [8]}


def test_conversations_and_plain_text_stand_side_by_side(tmp_path: Path):
    shards = shards_of(tmp_path, [C + 1, 2, 3], [10, 11, 12, 13])
    assert prompts(shards) == {0: [1], 3: [10, 11]}


def test_more_prompts_hold_the_fewer_and_they_are_drawn_from_all_over(tmp_path: Path):
    shards = shards_of(tmp_path, *[list(range(1 + 9 * i, 10 + 9 * i)) for i in range(40)])
    few, more = prompts(shards, num_prompts=10), prompts(shards, num_prompts=30)
    assert (len(few), len(more)) == (10, 30)
    assert few.items() <= more.items()
    assert list(more) == sorted(more)
    assert max(few) - min(few) > 180


def test_a_corpus_without_a_prompt_is_refused_with_the_remedy(tmp_path: Path):
    plain = shards_of(tmp_path / "plain", [1, 2])
    with pytest.raises(
        ValueError, match=r"prompt_tokens=2: no text in .* lower it, or choose other"
    ):
        prompts(plain)
    talk = shards_of(tmp_path / "talk", [C + 1, C + 2, C + 3, 4])
    with pytest.raises(ValueError, match="raise it, or choose other"):
        prompts(talk)


def of_row(shards: TokenShards, row: int, prompt_tokens: int = 4) -> list[int] | None:
    prompt = row_prompt(shards, row, sequence_length=8, prompt_tokens=prompt_tokens)
    return None if prompt is None else prompt.tolist()


def test_a_plain_row_gives_its_first_tokens_from_the_last_document_s_start(tmp_path: Path):
    shards = shards_of(tmp_path, list(range(10, 20)), list(range(30, 50)))
    assert of_row(shards, 0) == [10, 11, 12, 13]
    # Row 1 holds tokens 8 to 16: the end of one document, and from token 10 on another.
    assert of_row(shards, 1) == [30, 31]
    assert of_row(shards, 1, prompt_tokens=2) == [18, 19]


def test_a_row_of_a_conversation_gives_all_before_an_answer_that_fits(tmp_path: Path):
    talk = [C + 1, C + 2, 3, C + 4, 5, 6, 7, 8]
    shards = shards_of(tmp_path, talk, [C + 11, C + 12, C + 13, 14, 15, 16, 17, 18], [20])
    assert of_row(shards, 0) == [1, 2]
    # Row 1 is the second document and the first token of the third.
    assert of_row(shards, 1) == [11, 12, 13]
    assert of_row(shards, 1, prompt_tokens=2) is None


def test_a_document_that_begins_with_a_target_is_no_answer_to_the_one_before(tmp_path: Path):
    shards = shards_of(tmp_path, [1, 2, C + 3], [4, 5, 6, 7, 8, 9])
    assert of_row(shards, 0) is None
