"""Vocabularies that may and may not be compared."""

from __future__ import annotations

import pytest

from kdwatts.models.align import check_same_tokens, shared_vocabulary


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
    message = (
        r"token 'b' is id 1 for the student and 2 for the teacher; choose a pair of one family, or "
    )
    with pytest.raises(ValueError, match=message):
        check_same_tokens(Vocabulary("a", "b", "c"), Vocabulary("a", "c", "b"), rows=3)


def test_a_token_within_the_shared_rows_that_one_side_lacks_is_refused():
    with pytest.raises(ValueError, match=r"token 'c' is id None for the student and 2 for the tea"):
        check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "b", "c"), rows=3)


def test_a_token_whose_id_leaves_the_shared_rows_in_one_model_is_refused():
    with pytest.raises(
        ValueError, match=r"token 'b' is id 1 for the student and 3 for the teacher"
    ):
        check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "x", "y", "b"), rows=1 + 1)


def test_the_shipped_tokenizer_shares_its_vocabulary_with_itself(tokenizer):
    check_same_tokens(tokenizer, tokenizer, rows=len(tokenizer))
