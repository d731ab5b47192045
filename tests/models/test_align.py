"""Vocabularies that may and may not be compared."""

from __future__ import annotations

from typing import Any

import pytest

from kdwatts.data.text_size import bytes_of_tokens
from kdwatts.models.align import (
    check_rows,
    check_same_tokens,
    check_tokenizer,
    shared_vocabulary,
)


class Vocabulary:
    """As much of a tokenizer as is asked: its tokens by id."""

    def __init__(self, *tokens: str) -> None:
        self._ids = {token: index for index, token in enumerate(tokens)}

    def get_vocab(self) -> dict[str, int]:
        return self._ids


def test_qwen_heads_of_152064_and_151936_rows_share_151936():
    assert shared_vocabulary(151_936, 152_064) == 151_936
    assert shared_vocabulary(152_064, 151_936) == 151_936


def test_equal_vocabularies_pass():
    check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "b"), rows=2)


def test_a_token_beyond_the_shared_rows_may_be_one_models_own():
    check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "b", "c"), rows=2)
    check_same_tokens(Vocabulary("a", "b", "c"), Vocabulary("a", "b"), rows=2)


def test_swapped_ids_are_refused_by_the_token_and_both_its_ids():
    message = r"token 'b' has id 1 for the student and 2 for the teacher; choose a pair of one"
    with pytest.raises(ValueError, match=message):
        check_same_tokens(Vocabulary("a", "b", "c"), Vocabulary("a", "c", "b"), rows=3)


def test_a_token_within_the_shared_rows_that_one_side_lacks_is_refused():
    with pytest.raises(
        ValueError, match=r"token 'c' has id None for the student and 2 for the tea"
    ):
        check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "b", "c"), rows=3)


def test_a_token_whose_id_leaves_the_shared_rows_in_one_model_is_refused():
    with pytest.raises(
        ValueError, match=r"token 'b' has id 1 for the student and 3 for the teacher"
    ):
        check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "x", "y", "b"), rows=1 + 1)


def test_the_shipped_tokenizer_shares_its_vocabulary_with_itself(tokenizer):
    check_same_tokens(tokenizer, tokenizer, rows=len(tokenizer))


def test_a_tokenizer_without_an_end_token_is_refused_in_one_sentence(tokenizer: Any):
    check_tokenizer(tokenizer, path="p", renders=True)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"^model.tokenizer=p has no end token, .*; set eos_token"):
        check_tokenizer(tokenizer, path="p", renders=False)


def test_conversations_need_a_chat_template_and_plain_text_does_not(tokenizer: Any):
    tokenizer.chat_template = None
    check_tokenizer(tokenizer, path="p", renders=False)
    with pytest.raises(ValueError, match=r"^model.tokenizer=p has no chat template, but the corpu"):
        check_tokenizer(tokenizer, path="p", renders=True)


def test_a_token_that_texts_may_hold_needs_a_row_and_one_that_none_holds_does_not(tokenizer: Any):
    def check(rows: int, *, renders: bool) -> None:
        check_rows(tokenizer, path="p", subject="model.student", rows=rows, renders=renders)

    said = (
        r"^the tokenizer p has the token '{}' with id {}, but model.student has {} rows, for ids "
        r"up to {}; choose the tokenizer that belongs to it, or a model with a row for every token$"
    )
    check(1024, renders=True)
    # A mark of conversations, which plain text never holds: there it is spelt in words.
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    check(1025, renders=True)
    check(1024, renders=False)
    with pytest.raises(ValueError, match=said.format("<turn>", 1024, 1024, 1023)):
        check(1024, renders=True)
    # Llama 2's with a token for padding: no text holds it.
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    check(1025, renders=True)
    # A word that was added is found in any text.
    tokenizer.add_tokens(["sooth"])
    with pytest.raises(ValueError, match=said.format("sooth", 1026, 1026, 1025)):
        check(1026, renders=False)
    check(1027, renders=True)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    with pytest.raises(ValueError, match=said.format("<end>", 1027, 1027, 1026)):
        check(1027, renders=False)


def test_conversations_need_a_tokenizer_that_tells_where_its_tokens_stand():
    from transformers import PreTrainedTokenizer

    class Letters(PreTrainedTokenizer):
        """One written in Python, as those of some model families are."""

        @property
        def vocab_size(self) -> int:
            return 256

        def get_vocab(self) -> dict[str, int]:
            return {chr(number): number for number in range(256)} | self.added_tokens_encoder

        def _convert_token_to_id(self, token: str) -> int:
            return ord(token)

        def _convert_id_to_token(self, index: int) -> str:
            return chr(index)

    slow = Letters(eos_token="<|e|>")
    slow.chat_template = "{{ messages }}"
    check_tokenizer(slow, path="p", renders=False)
    assert bytes_of_tokens(slow) is None
    with pytest.raises(ValueError, match=r"^model.tokenizer=p does not say where in a text its to"):
        check_tokenizer(slow, path="p", renders=True)
