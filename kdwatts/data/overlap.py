"""Which evaluation texts appear in a document: runs of n common words, as in GPT-3's appendix C.

Words are lower-cased and without punctuation (Brown et al. 2020), in one Unicode form (NFKC).
Ideographs and hiragana have no blanks between them, so each is a word of its own (Unicode Standard
Annex 29, section 4.1). A Chinese word has one or two of them, and a name may have 13. So for a text
that is mostly ideographs, runs are twice as long. Thai, Lao, Khmer, Burmese and Tibetan have
neither blanks nor such a rule: the report counts such texts.

A text with fewer than n words counts as a whole if it has at least MIN_WORDS. A run of words is
known by a polynomial of its words' hashes modulo 2^64. So a document is one pass of additions for
each length. A billion runs and ten million others have an equal hash by chance with a probability
of about 5e-4. A document comes in pieces, such as the turns of a conversation. No run goes from one
piece into the next.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.data import LEAST_NGRAM
from kdwatts.data.documents import Document
from kdwatts.data.shards import encode_documents

MIN_WORDS = LEAST_NGRAM
MAX_EXAMPLES = 20
"""How many documents a report names per task."""

_PUNCTUATION = re.compile(r"[^\w\s]|_", re.ASCII)
_ALONE = re.compile(r"[々〆〇぀-ゟ㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff]")
_UNBROKEN = re.compile(r"[\u0e00-\u109f\u1780-\u17ff]")
"""A letter of a script in which neither blanks nor Unicode's rule separate words."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_UNKNOWN = 0x2545F4914F6CDD1D
"""Stands for every word that no evaluation text has."""
_FILTER_BITS = np.uint64(24)


@dataclass(frozen=True)
class TaskText:
    """The text of one document of a task."""

    task: str
    strings: Sequence[str]


@dataclass(frozen=True)
class Grams:
    """Runs of words of evaluation texts, to be looked up in documents."""

    tasks: list[str]
    """The task of each text."""
    is_short: list[bool]
    """Whether each text has no string of MIN_WORDS words, so that it is never found."""
    is_unbroken: list[bool]
    """Whether each text is short because its words cannot be separated."""
    words: dict[str, int]
    hashes: dict[int, NDArray[np.uint64]]
    """Number of words to the hashes of such runs, ascending."""
    texts: dict[int, NDArray[np.int64]]
    """The text that each hash is of."""
    is_possible: NDArray[np.bool_]
    """Whether any hash begins with these bits. So few runs of a document need a look-up."""


@cache
def _no_words() -> re.Pattern[str]:
    """Punctuation; what combines with a letter is none, such as a vowel's sign in Hindi.

    Python takes such marks for no part of a word. What chooses between the forms of a character
    (FE00 to FE0F) is left out with punctuation.
    """
    marks = "".join(
        chr(number)
        for number in range(0x20000)
        if unicodedata.category(chr(number)) in ("Mn", "Mc") and not 0xFE00 <= number <= 0xFE0F
    )
    return re.compile(rf"[^\w\s{marks}]|_")


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    if text.isascii():
        return _PUNCTUATION.sub("", text.lower()).split()
    # Punctuation first: NFKC turns an accent that stands alone into a blank and a mark.
    text = unicodedata.normalize("NFKC", _no_words().sub("", text))
    text = _no_words().sub("", unicodedata.normalize("NFKC", text.casefold()))
    return _ALONE.sub(r" \g<0> ", text).split()


def _least_words(spelled: list[str]) -> int:
    """How many of such words may be looked for: those of one ideograph say half as much."""
    num_alone = sum(_ALONE.fullmatch(word) is not None for word in spelled)
    return MIN_WORDS * (2 if 2 * num_alone > len(spelled) else 1)


def index_texts(texts: Iterable[TaskText], *, ngram: int) -> Grams:
    """The runs of `ngram` words of all texts. Shorter texts are taken as a whole."""
    is_unbroken: list[bool] = []
    words: dict[str, int] = {}
    tasks: list[str] = []
    is_short: list[bool] = []
    found: dict[int, list[tuple[NDArray[np.uint64], int]]] = {}
    for number, text in enumerate(texts):
        tasks.append(text.task)
        is_short.append(True)
        is_unbroken.append(any(map(_UNBROKEN.search, text.strings)))
        for string in text.strings:
            spelled = words_of(string)
            least = _least_words(spelled)
            length = min(ngram * least // MIN_WORDS, len(spelled))
            if length < least:
                continue
            is_short[-1] = is_unbroken[-1] = False
            for word in spelled:
                words.setdefault(word, _word_hash(word))
            (runs,) = _runs(spelled, words, [length]).values()
            found.setdefault(length, []).append((np.unique(runs), number))
    hashes, numbers = {}, {}
    is_possible = np.zeros(1 << int(_FILTER_BITS), dtype=bool)
    for length, pairs in sorted(found.items()):
        of_all = np.concatenate([runs for runs, _ in pairs])
        beside = np.repeat([number for _, number in pairs], [len(runs) for runs, _ in pairs])
        order = np.argsort(of_all, kind="stable")
        hashes[length], numbers[length] = of_all[order], beside[order]
        is_possible[_first_bits(of_all)] = True
    return Grams(tasks, is_short, is_unbroken, words, hashes, numbers, is_possible)


def texts_in(pieces: Sequence[str], grams: Grams) -> dict[int, str]:
    """Number of each evaluation text that shares a run with a piece, to the first such words."""
    # A word of no text ends each piece, so no run goes from one piece into the next.
    spelled = [word for piece in pieces for word in (*words_of(piece), "")]
    found: dict[int, str] = {}
    for length, runs in _runs(spelled, grams.words, list(grams.hashes)).items():
        table = grams.hashes[length]
        places = np.flatnonzero(grams.is_possible[_first_bits(runs)])
        firsts = np.searchsorted(table, runs[places], side="left")
        lasts = np.searchsorted(table, runs[places], side="right")
        for hit in np.flatnonzero(lasts > firsts):
            place = int(places[hit])
            for number in grams.texts[length][firsts[hit] : lasts[hit]]:
                found.setdefault(int(number), " ".join(spelled[place : place + length]))
    return found


def texts_in_tokens(
    documents: Sequence[NDArray[np.uint32]],
    tokenizer: Any,
    control_ids: NDArray[np.int64],
    grams: Grams,
) -> list[dict[int, str]]:
    """What `texts_in` finds in each document of tokens.

    A piece is what stands between two control tokens. A template may put a text's first word
    directly after its mark, and without the marks the words of two turns would run together.
    """
    pieces = [_pieces(tokens, control_ids) for tokens in documents]
    texts = iter(
        tokenizer.batch_decode(
            [piece for of_one in pieces for piece in of_one], clean_up_tokenization_spaces=False
        )
    )
    return [texts_in(list(islice(texts, len(of_one))), grams) for of_one in pieces]


def _pieces(tokens: NDArray[np.uint32], control_ids: NDArray[np.int64]) -> list[list[int]]:
    """The tokens between control tokens, in their order."""
    is_control = np.isin(tokens, control_ids)
    parts = np.split(tokens, np.flatnonzero(is_control))
    # Each part except the first begins with the control token at the cut.
    return [ids for ids in (parts[0].tolist(), *(part[1:].tolist() for part in parts[1:])) if ids]


def _runs(
    spelled: list[str], words: dict[str, int], lengths: list[int]
) -> dict[int, NDArray[np.uint64]]:
    """Hashes of all runs of each of these lengths that the words have, by their first word."""
    ids = np.fromiter(
        (words.get(word, _UNKNOWN) for word in spelled), dtype=np.uint64, count=len(spelled)
    )
    runs, found = ids, {}
    for length in range(1, min(max(lengths, default=0), len(spelled)) + 1):
        if length > 1:
            runs = runs[:-1] * _FACTOR + ids[length - 1 :]
        if length in lengths:
            found[length] = runs
    return found


def _first_bits(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return hashes >> (np.uint64(64) - _FILTER_BITS)


def _word_hash(word: str) -> int:
    digest = hashlib.sha256(word.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


@dataclass
class Tally:
    """What was found in the documents so far.

    It holds JSON types alone, so that a build can go on.
    """

    num_documents: int = 0
    num_documents_hit: int = 0
    texts_hit: list[int] = field(default_factory=list)
    documents_hit: dict[str, int] = field(default_factory=dict)
    """Task to the number of documents with one of its texts."""
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def count(self, name: str | int, found: dict[int, str], grams: Grams) -> bool:
        """Count a document with these texts. Returns whether there are any."""
        self.num_documents += 1
        self.num_documents_hit += bool(found)
        self.texts_hit = sorted({*self.texts_hit, *found}) if found else self.texts_hit
        first = {grams.tasks[number]: number for number in sorted(found, reverse=True)}
        for task, number in sorted(first.items()):
            self.documents_hit[task] = self.documents_hit.get(task, 0) + 1
            examples = self.examples.setdefault(task, [])
            if len(examples) < MAX_EXAMPLES:
                in_task = number - grams.tasks.index(task)
                examples.append({"document": name, "text": in_task, "words": found[number]})
        return bool(found)


def describe(tally: Tally, grams: Grams, unread: dict[str, str]) -> dict[str, Any]:
    """The counts of each task, for a report. A task that could not be read has null and the reason.

    The texts of a task are numbered from 0 in the task's own order and stand together.
    """
    hit = [grams.tasks[number] for number in tally.texts_hit]
    report: dict[str, Any] = {}
    for task in dict.fromkeys(grams.tasks):
        numbers = [number for number, name in enumerate(grams.tasks) if name == task]
        report[task] = {
            "num_texts": len(numbers),
            "num_texts_too_short": sum(grams.is_short[number] for number in numbers),
            "num_texts_unbroken": sum(grams.is_unbroken[number] for number in numbers),
            "num_texts_hit": hit.count(task),
            "num_documents_hit": tally.documents_hit.get(task, 0),
            "examples": tally.examples.get(task, []),
            "reason": None,
        }
    counts = (
        *("num_texts", "num_texts_too_short", "num_texts_unbroken"),
        *("num_texts_hit", "num_documents_hit"),
    )
    for task, reason in unread.items():
        report[task] = {**dict.fromkeys(counts), "examples": None, "reason": reason}
    return report


def encode_screened(
    documents: Sequence[Document], tokenizer: Any, grams: Grams | None
) -> list[NDArray[np.uint32] | dict[int, str]]:
    """The tokens of each document, or what `texts_in` finds where evaluation texts appear in it.

    Without `grams` nothing is searched.
    """
    found = [texts_in(one.pieces, grams) if grams else {} for one in documents]
    passed = [one for one, texts in zip(documents, found, strict=True) if not texts]
    encoded = iter(encode_documents(passed, tokenizer))
    return [texts or next(encoded) for texts in found]
