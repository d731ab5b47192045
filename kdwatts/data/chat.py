"""Conversations as the tokenizer's chat template renders them, on a day that never changes."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.turns import Turn

FIXED_TIME = datetime(2024, 7, 26)
"""The date for chat templates that print today's. It is the one that Llama 3.1's template has."""
DATE_STRING = f"{FIXED_TIME:%d %b %Y}"
"""The variable by which Llama 3.2's template takes a date."""

_DIRECTIVES = [*"aAbBcCdDeFgGhHIjmMpPrRSTuUVwWxXyYzZ", *("-" + name for name in "dmyHIMSj")]
_REPLACED = "".join(f"|replace('%{name}', '{FIXED_TIME:%{name}}')" for name in _DIRECTIVES)
CLOCK = (
    f"{{% macro strftime_now(format) %}}{{{{ format{_REPLACED}|replace('%%', '%') }}}}"
    "{% endmacro %}\n"
)
"""Jinja code before a template that replaces the clock which transformers gives to templates.

Other values given to a template cannot be functions. Jinja drops the line end after it.
"""
_RANDOM = re.compile(r"\|\s*random\b|\blipsum\b")
"""The random functions of Jinja."""

_KNOWN_WORDS = "What no template says"
OTHER = "choose the tokenizer of an instruct model, or a source of plain text"


def template_arguments(tokenizer: Any) -> dict[str, str]:
    """The arguments of `apply_chat_template` with which a template prints the same on every day.

    Raises ValueError for a template that uses random numbers.
    """
    return dict(_arguments(tokenizer.get_chat_template() if tokenizer.chat_template else ""))


@lru_cache
def _arguments(template: str) -> dict[str, str]:
    if found := _RANDOM.search(template):
        raise ValueError(
            f"the tokenizer's chat template uses random numbers ({found[0]}), so it prints a "
            f"conversation differently each time; {OTHER}"
        )
    clock = {"chat_template": CLOCK + template} if "strftime_now" in template else {}
    return {"date_string": DATE_STRING, **clock}


def render(
    turns: list[Turn], tokenizer: Any, place: str, *, add_generation_prompt: bool = False
) -> str:
    """The text of a conversation. Raises ValueError where the template refuses it."""
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **template_arguments(tokenizer),
        )
    except TemplateError as error:
        raise ValueError(
            f"{place}: the tokenizer's chat template refuses this conversation ({error}); leave "
            f"such rows out, or {OTHER}"
        ) from error


def encode_conversation(
    turns: list[Turn], tokenizer: Any, place: str
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Tokens [L] of a whole conversation, and a mask [L] of the targets.

    Targets are the tokens that begin inside an answer. Turns are found by characters, since the
    tokens of a part need not be a part of the tokens. Control tokens come from the template alone:
    a control token that a turn quotes is encoded as ordinary words.

    Raises ValueError, which begins with `place`, for a conversation whose answers cannot be found
    in the template's text.
    """
    if not turns:
        return np.empty(0, dtype=np.uint32), np.empty(0, dtype=bool)
    text = render(turns, tokenizer, place)
    ids, begins = _tokens(text, _quoted(turns, text, tokenizer, place), tokenizer, place)
    is_target = np.zeros(len(ids), dtype=bool)
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = _before_answer(turns[:index], tokenizer, place)
        is_last = index + 1 == len(turns)
        after = text if is_last else render(turns[: index + 1], tokenizer, place)
        if not (after.startswith(before) and text.startswith(after)):
            raise ValueError(
                f"{place}: the tokenizer's chat template prints turn {index + 1} of a conversation "
                "differently when more turns follow, so the tokens of the answers cannot be found; "
                f"{OTHER}"
            )
        is_target |= (begins >= len(before)) & (begins < len(after))
    return ids, is_target


def _before_answer(turns: list[Turn], tokenizer: Any, place: str) -> str:
    """What an answer to `turns` is given: its header is part of its prompt and not produced.

    Templates ask for a first turn, so where the assistant has it a turn of known words is rendered.
    """
    if turns:
        return render(turns, tokenizer, place, add_generation_prompt=True)
    known, question = ([{"role": role, "content": _KNOWN_WORDS}] for role in ("assistant", "user"))
    header, found, _ = render(known, tokenizer, place).partition(_KNOWN_WORDS)
    asked = render(question, tokenizer, place)
    opening = render(question, tokenizer, place, add_generation_prompt=True).removeprefix(asked)
    if not (found and header.endswith(opening)):
        raise ValueError(
            f"{place}: the conversation begins with the assistant, but the tokenizer's chat "
            f"template has no header {opening!r} for it; leave such rows out, or {OTHER}"
        )
    return header


Span = tuple[int, int]
"""First character of a part of a text, and the one after its last."""


@lru_cache(maxsize=4)
def _marks(tokenizer: Any, num_tokens: int) -> tuple[re.Pattern[str], frozenset[int]]:
    """What spells one of a tokenizer's special tokens, and their ids; `num_tokens` is its size."""
    del num_tokens
    known = tokenizer.added_tokens_decoder
    special = {number for number, token in known.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    names = [str(known.get(n) or tokenizer.convert_ids_to_tokens(n)) for n in special]
    # Of tokens with the same beginning the longest counts, as in the tokenizer.
    names.sort(key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or "(?!)"), frozenset(special)


def _quoted(turns: list[Turn], text: str, tokenizer: Any, place: str) -> list[Span]:
    """Where `text`, the rendering of `turns`, has special tokens that a turn quotes.

    Each is rendered once more between two characters that stand nowhere else, to be found again.
    """
    marks, _ = _marks(tokenizer, len(tokenizer))
    if not any(marks.search(turn["content"]) for turn in turns):
        return []
    # Noncharacters: Unicode keeps them for a program's own use.
    opening, closing = [c for c in map(chr, range(0xFDD0, 0xFDF0)) if c not in text][:2]
    fenced = [
        {**turn, "content": marks.sub(rf"{opening}\g<0>{closing}", turn["content"])}
        for turn in turns
    ]
    spans: list[Span] = []
    plain, begin = "", 0
    for piece in re.split(f"([{opening}{closing}])", render(fenced, tokenizer, place)):
        if piece == opening:
            begin = len(plain)
        elif piece == closing:
            spans.append((begin, len(plain)))
        else:
            plain += piece
    if plain != text or not all(marks.fullmatch(plain[begin:end]) for begin, end in spans):
        raise ValueError(
            f"{place}: a turn quotes a control token of the tokenizer, and the chat template does "
            f"not print it as ordinary words; leave such rows out, or {OTHER}"
        )
    return spans


def _tokens(
    text: str, quoted: list[Span], tokenizer: Any, place: str
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Tokens of a rendering and the character at which each begins; what is quoted is words.

    A tokenizer reads special tokens everywhere or nowhere. So where some are quoted, the others are
    found in a text that has stops for them, and what stands between is read as words.
    """
    hidden = text
    for begin, end in quoted:
        hidden = hidden[:begin] + "." * (end - begin) + hidden[end:]
    encoded = tokenizer(hidden, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    if quoted:
        _, special = _marks(tokenizer, len(tokenizer))
        real = [(n, span) for n, span in zip(ids, spans, strict=True) if n in special]
        if [number for number, _ in _between(hidden, real, tokenizer)] != ids:
            raise ValueError(
                f"{place}: a turn quotes a control token, and the tokenizer cannot encode it as "
                "ordinary words without changing the words beside it; leave such rows out, or "
                f"{OTHER}"
            )
        ids, spans = zip(*_between(text, real, tokenizer), strict=True)
    begins = np.asarray([begin for begin, _ in spans], dtype=np.int64)
    return np.asarray(ids, dtype=np.uint32), begins


def _between(text: str, real: list[tuple[int, Span]], tokenizer: Any) -> list[tuple[int, Span]]:
    """The tokens of a text with these control tokens and no others."""
    found: list[tuple[int, Span]] = []
    begin = 0
    for mark in [*real, None]:
        end = mark[1][0] if mark else len(text)
        words = tokenizer(
            text[begin:end],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
        )
        for number, (first, last) in zip(words["input_ids"], words["offset_mapping"], strict=True):
            found.append((number, (begin + first, begin + last)))
        if mark:
            found.append(mark)
            begin = mark[1][1]
    return found
