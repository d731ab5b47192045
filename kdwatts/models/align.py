"""One vocabulary for two models: what must hold before their logits may be compared."""

from __future__ import annotations

from typing import Any


def shared_vocabulary(student_rows: int, teacher_rows: int) -> int:
    """Number of leading rows both heads have; rows beyond it are padding of one of them.

    Qwen2.5 has 152,064 rows at 7B and above and 151,936 below, over the same token ids.
    """
    return min(student_rows, teacher_rows)


def check_same_tokens(student: Any, teacher: Any, *, rows: int) -> None:
    """Raise ValueError unless both tokenizers give every id below `rows` the same token.

    Tokens that only one tokenizer has are allowed where their id is beyond the other's rows.
    """
    student_ids, teacher_ids = student.get_vocab(), teacher.get_vocab()
    for token in sorted(student_ids.keys() | teacher_ids.keys()):
        mine, theirs = student_ids.get(token), teacher_ids.get(token)
        if mine != theirs and any(index is not None and index < rows for index in (mine, theirs)):
            raise ValueError(
                f"the vocabularies do not match: token {token!r} is id {mine} for the student and "
                f"{theirs} for the teacher; choose a pair of one family, or compare texts with "
                "model.one_vocabulary=false and paradigm.response.divergence=universal"
            )
