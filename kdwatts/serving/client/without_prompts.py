"""Words of a server that may go into records: cut where it repeats what it was sent."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_CHARACTERS = 300
RUN = 12
"""So many characters in a row that stand in the prompt too are a quotation."""

_NUMBERS = re.compile(r"\d+(?:\s*,\s*\d+){3,}")
"""A list of tokens, which a tokenizer turns back into text."""


QUOTES = "(it quotes the prompt)"


def without_prompts(words: str, prompts: Iterable[str]) -> str:
    """The words on one line, up to where they quote one of the prompts, and without its tokens."""
    whole = without_prompt(words, "", at_most=len(words))
    kept = (without_prompt(words, prompt, at_most=len(words) + len(QUOTES)) for prompt in prompts)
    return min((one for one in kept if one != whole), key=len, default=whole)


def without_prompt(words: str, prompt: str, *, at_most: int = MAX_CHARACTERS) -> str:
    """At most so many characters of the words, on one line, up to where they quote the prompt."""
    line = " ".join(_NUMBERS.sub("(numbers)", words).split())[:at_most]
    plain = " ".join(prompt.split())
    run = min(RUN, len(plain))
    if not run:
        return line
    for start in range(len(line) - run + 1):
        if line[start : start + run] in plain:
            return f"{line[:start]}{QUOTES}"[:at_most]
    return line
