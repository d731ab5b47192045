"""Sentences about several runs: said once, with a count, and with a list that unfolds.

Sentences that differ only in their numbers become one, with the least and the largest of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_SLOT = re.compile(
    # A moment, a day, or a number or range that is no part of a name, a path or a version.
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?"
    r"|(?<![\w./-])\d{4}-\d\d-\d\d(?![\w/.-])"
    rf"|(?<![\w.,/:=-]){_NUMBER}(?: to {_NUMBER})?(?![\w/]|[.-]\w)"
)


@dataclass(frozen=True)
class Notice:
    """A sentence without its full stop, and the names of all that it is about."""

    sentence: str
    names: tuple[str, ...]
    what: str = "runs"

    @property
    def head(self) -> str:
        """The sentence with the name of the one, or with the number of the many."""
        return f"{self.sentence}: {self._about}"

    @property
    def _about(self) -> str:
        return self.names[0] if len(self.names) == 1 else f"{len(self.names)} {self.what}"

    @property
    def list(self) -> str:
        """The names, where the head does not have them."""
        return ", ".join(self.names) if len(self.names) > 1 else ""


Passage = str | Notice
"""A piece of a text: whole sentences, or one that unfolds."""


def notices_of(sentences: Iterable[tuple[str, str]], *, what: str = "runs") -> list[Notice]:
    """Each sentence once, with all the names beside it, in order of appearance."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, sentence in sentences:
        alike.setdefault(_SLOT.sub("#", sentence), []).append((name, sentence))
    return [
        Notice(_merged([s for _, s in same]), tuple(dict.fromkeys(name for name, _ in same)), what)
        for same in alike.values()
    ]


def _merged(sentences: Sequence[str]) -> str:
    """One sentence for those that differ in their numbers alone."""
    slots = zip(*(_SLOT.findall(sentence) for sentence in sentences), strict=True)
    spans = iter([_span([end for slot in found for end in _ends(slot)]) for found in slots])
    return _SLOT.sub(lambda _: next(spans), sentences[0])


def _ends(slot: str) -> list[str]:
    return slot.split(" to ")


def _span(values: list[str]) -> str:
    """The least and the largest of some numbers, or moments; one where they are equal."""
    order: Callable[[str], tuple[float, str]] = _moment_or_number
    low, high = min(values, key=order), max(values, key=order)
    return low if order(low) == order(high) else f"{low} to {high}"


def _moment_or_number(text: str) -> tuple[float, str]:
    try:
        return float(text.replace(",", "")), ""
    except ValueError:
        return 0.0, text


def plain(passage: Passage) -> str:
    """The notice for a terminal: the names are behind the count, in brackets."""
    if isinstance(passage, str):
        return passage
    return f"{passage.head} ({passage.list})" if passage.list else passage.head


def notice_line(notice: Notice) -> str:
    """The notice for a terminal, in the form of errors: what it is about, then the sentence."""
    return f"{notice.names[0]}: {notice.sentence}" if len(notice.names) == 1 else plain(notice)


def plain_text(passages: Iterable[Passage]) -> str:
    """A paragraph of plain text."""
    return " ".join(each if isinstance(each, str) else f"{plain(each)}." for each in passages)
