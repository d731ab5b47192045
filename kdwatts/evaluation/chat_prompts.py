"""Chat prompts of an evaluation: the same words for student and teacher."""

from __future__ import annotations

from typing import Any

from kdwatts.data.chat import template_arguments

_QUESTION = {"role": "user", "content": "Which is it?\nA. this\nB. that"}
_ANSWER = {"role": "assistant", "content": "B"}
_CONVERSATIONS = (
    [_QUESTION],
    [{"role": "system", "content": "Choose."}, _QUESTION, _ANSWER, _QUESTION],
)
"""What harnesses send: a question alone, and examples as turns after a description."""


def check_same_prompts(
    student: Any, teacher: Any | None, *, student_path: str, teacher_path: str | None, task: str
) -> None:
    """Raise ValueError unless both tokenizers' chat templates render a conversation alike.

    What they print on a fixed date is compared, not the text of the templates. A teacher without
    its own tokenizer is asked through the student's.
    """
    advice = (
        "set apply_chat_template=false for this task, set model.tokenizer to the teacher's, or "
        "choose a pair with one template"
    )
    if not student.chat_template:
        raise ValueError(
            f"eval: {task} is asked through a chat template, but the tokenizer {student_path} has "
            f"none; {advice}"
        )
    if teacher is None:
        return
    if not teacher.chat_template:
        raise ValueError(
            f"eval: {task} is asked through a chat template, but the teacher's tokenizer "
            f"{teacher_path} has none; {advice}"
        )
    for conversation in _CONVERSATIONS:
        printed, expected = (_rendered(one, conversation) for one in (student, teacher))
        if printed != expected:
            raise ValueError(
                f"eval: {task} would be asked in different words, since the chat template of "
                f"{student_path} prints {_differing(printed, expected)!r} where that of the "
                f"teacher {teacher_path} prints {_differing(expected, printed)!r}; {advice}"
            )


def _rendered(tokenizer: Any, conversation: list[dict[str, str]]) -> str:
    """The text; of a template that refuses the conversation, that it does."""
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(
            conversation,
            tokenize=False,
            add_generation_prompt=True,
            **template_arguments(tokenizer),
        )
    except TemplateError as error:
        return f"refused: {error}"


def _differing(text: str, other: str) -> str:
    """Where a text begins to be another, 40 characters at most."""
    same = next(
        (n for n, (a, b) in enumerate(zip(text, other, strict=False)) if a != b),
        min(len(text), len(other)),
    )
    return text[max(0, same - 10) : same + 30]
