"""Tokens and models: what a tokenizer must have, and what two must share to be compared."""

from __future__ import annotations

from typing import Any


def shared_vocabulary(student_rows: int, teacher_rows: int) -> int:
    """Number of leading vocabulary rows that both heads have.

    Rows beyond it are padding of one head.

    Qwen2.5 has 152,064 rows in models of 7B and more and 151,936 in smaller ones, for the same
    token ids.
    """
    return min(student_rows, teacher_rows)


def check_same_tokens(student: Any, teacher: Any, *, rows: int) -> None:
    """Raise ValueError unless both tokenizers have the same token at every id below `rows`.

    A token that only one tokenizer has is allowed where its id is beyond the other's rows.
    """
    student_ids, teacher_ids = student.get_vocab(), teacher.get_vocab()
    for token in sorted(student_ids.keys() | teacher_ids.keys()):
        mine, theirs = student_ids.get(token), teacher_ids.get(token)
        if mine != theirs and any(index is not None and index < rows for index in (mine, theirs)):
            raise ValueError(
                f"the vocabularies do not match: token {token!r} has id {mine} for the student and "
                f"{theirs} for the teacher; choose a pair of one family, or compare texts with "
                "model.one_vocabulary=false and paradigm.response.divergence=universal"
            )


def check_tokenizer(tokenizer: Any, *, path: str, renders: bool) -> None:
    """Raise ValueError for a tokenizer without an end token or without what conversations need.

    `renders` says whether texts are rendered by its chat template.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"model.tokenizer={path} has no end token, which marks the end of documents and of "
            "texts that models write; set eos_token in its tokenizer_config.json"
        )
    if renders and not tokenizer.chat_template:
        raise ValueError(
            f"model.tokenizer={path} has no chat template, but the corpus holds conversations; "
            "choose the tokenizer of an instruct model, or a source of plain text"
        )
    if renders and not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"model.tokenizer={path} does not say where in a text its tokens are, so answers "
            "cannot be told from prompts; save it as a fast tokenizer (tokenizer.json)"
        )


def check_rows(tokenizer: Any, *, path: str, subject: str, rows: int, renders: bool) -> None:
    """Raise ValueError for a token that texts may hold and for which `subject` has no row.

    Plain text holds no special token but the end token. A rendered text may hold all of them,
    except for one for padding: some models were published without a row for it.
    """
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return
    template = tokenizer.get_chat_template() if renders and tokenizer.chat_template else ""
    added = tokenizer.added_tokens_decoder
    special = {number for number, token in added.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    for token, number in sorted(beyond.items(), key=lambda pair: -pair[1]):
        is_held = number == tokenizer.eos_token_id or number not in special
        if renders:
            is_held |= number != tokenizer.pad_token_id or token in template
        if is_held:
            raise ValueError(
                f"the tokenizer {path} has the token {token!r} with id {number}, but {subject} has "
                f"{rows} rows, for ids up to {rows - 1}; choose the tokenizer that belongs to it, "
                "or a model with a row for every token"
            )
