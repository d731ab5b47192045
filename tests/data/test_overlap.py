"""Evaluation texts in documents: runs of words in common, whatever their case and punctuation."""

from __future__ import annotations

import random
import unicodedata

import pytest

from kdwatts.data.overlap import (
    Grams,
    Tally,
    TaskText,
    describe,
    index_texts,
    texts_in,
    words_of,
)

THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def test_words_are_lower_case_and_without_punctuation():
    assert words_of("Don't STOP -- at_once, Ärger…!") == ["dont", "stop", "atonce", "ärger"]


GERMAN = "Während der großen Überschwemmung können Bäcker, Müller und Gärtner früh nach Süden gehen"
CHINESE = "山下的小村里住着一位老木匠他每天清早起来先给院子里的花浇水然后坐在窗前慢慢地磨他的刀子"


def found_in(tally: Tally, name: str, pieces: list[str], grams: Grams) -> bool:
    """Count a document; whether an evaluation text stands in it."""
    return tally.count(name, texts_in(pieces, grams), grams)


def grams_of(text: str, ngram: int = 13) -> Grams:
    return index_texts([TaskText("t", [text])], ngram=ngram)


def test_a_text_is_found_in_every_form_that_unicode_has_of_it():
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in GERMAN)
    forms = (unicodedata.normalize("NFD", GERMAN), wide, GERMAN.replace("ß", "ss"), GERMAN.upper())
    for form in (GERMAN, *forms):
        assert set(texts_in([form], grams_of(GERMAN))) == {0}
        assert set(texts_in([GERMAN], grams_of(form))) == {0}
    assert words_of("ﬁne don\u00b4t \u0130stanbul, so\u00adft") == words_of(
        "fine dont i̇stanbul soft"
    )


def test_signs_of_vowels_are_parts_of_words_and_tell_them_apart():
    # Hindi, "that" and "of": the letters are one, the signs behind it are not.
    assert words_of("की, के।") == ["की", "के"]
    assert words_of("Zu\u0308rich") == ["zürich"]


def test_ideographs_are_words_of_their_own_and_twice_as_many_are_looked_for():
    assert words_of("新しいテスト、 GPT-3") == ["新", "し", "い", "テスト", "gpt3"]
    grams = grams_of(CHINESE)
    assert set(texts_in([f"前言。{CHINESE[:26]}后记"], grams)) == {0}
    assert texts_in([f"前言。{CHINESE[:25]}后记"], grams) == {}
    # From 16 of them on a shorter text counts as a whole.
    assert [grams_of(CHINESE[:number]).is_short for number in (16, 15)] == [[False], [True]]
    assert set(texts_in([CHINESE], grams_of(CHINESE[:16]))) == {0}
    # A text of words is looked for in words, whatever it quotes.
    assert set(texts_in([f"{THIRTEEN} 山 x"], grams_of(f"山 {THIRTEEN}"))) == {0}


def test_texts_whose_words_nothing_tells_apart_are_counted_as_not_looked_for():
    thai = "กาลครั้งหนึ่งนานมาแล้วมีช่างไม้แก่คนหนึ่งอาศัยอยู่ในหมู่บ้านเล็กๆ"
    grams = index_texts([TaskText("t", [thai]), TaskText("t", ["short"])], ngram=13)
    report = describe(Tally(), grams, {})["t"]
    assert (report["num_texts_too_short"], report["num_texts_unbroken"]) == (2, 1)


def test_thirteen_words_in_common_are_found_and_twelve_are_not():
    grams = index_texts([TaskText("t", [f"Zero {THIRTEEN} fourteen."])], ngram=13)
    shout = THIRTEEN.upper().replace(" ", ", ")
    assert texts_in([f"Count:\n{shout}! And so on"], grams) == {0: THIRTEEN}
    assert texts_in([THIRTEEN.rpartition(" ")[0] + " dozen"], grams) == {}
    assert texts_in([""], grams) == texts_in([], grams) == {}


def test_a_shorter_text_counts_as_a_whole_from_eight_words_on():
    eight, seven = "a b c d e f g h", "i j k l m n o"
    grams = index_texts([TaskText("t", [eight]), TaskText("t", [seven])], ngram=13)
    assert texts_in([f"x {eight} y {seven} z"], grams) == {0: eight}
    assert texts_in(["a b c d e f g x h"], grams) == {}
    assert grams.is_short == [False, True]


def test_runs_never_reach_from_one_string_of_a_text_into_another():
    grams = index_texts([TaskText("t", ["a b c d e f g h", "i j k l m n o p"])], ngram=10)
    assert texts_in(["c d e f g h i j k l m n"], grams) == {}
    assert set(texts_in(["a b c d e f g h"], grams)) == {0}


def test_runs_never_reach_from_one_piece_of_a_document_into_another():
    texts = [TaskText("t", [THIRTEEN]), TaskText("t", ["a b c d e f g h"])]
    grams, tally = index_texts(texts, ngram=13), Tally()
    cut = THIRTEEN.split()
    assert not found_in(tally, "cut", [" ".join(cut[:6]), " ".join(cut[6:])], grams)
    assert found_in(tally, "whole", ["x a b c d e f g h y", THIRTEEN], grams)
    assert (tally.num_documents, tally.num_documents_hit, tally.texts_hit) == (2, 1, [0, 1])


@pytest.mark.parametrize("ngram", [8, 13])
def test_what_is_found_is_what_a_search_in_plain_strings_finds(ngram: int):
    draw = random.Random(ngram)
    vocabulary = ["to", "be", "or", "not", "that", "is"]

    def write(count: int) -> str:
        return " ".join(draw.choices(vocabulary, k=count))

    # Pieces of the documents are among the texts, so that there is something to find.
    documents = [write(draw.randrange(60)) for _ in range(200)]
    texts = [write(draw.randrange(5, 25)) for _ in range(200)]
    texts += [" ".join(words_of(d)[5:25]) for d in documents[::5]]
    grams = index_texts([TaskText("t", [text]) for text in texts], ngram=ngram)
    num_found = 0
    for document in documents:
        expected = set()
        for number, text in enumerate(texts):
            words = text.split()
            length = min(ngram, len(words))
            runs = [" ".join(words[i : i + length]) for i in range(len(words) - length + 1)]
            if length >= 8 and any(f" {run} " in f" {document} " for run in runs):
                expected.add(number)
        assert set(texts_in([document], grams)) == expected
        num_found += len(expected)
    assert num_found > 20


def test_a_report_counts_texts_and_documents_of_each_task_and_is_null_of_one_unread():
    texts = [
        TaskText("first", [THIRTEEN]),
        TaskText("second", ["short"]),
        TaskText("second", ["nothing of this kind stands in any of the documents here"]),
        TaskText("second", [f"{THIRTEEN} fourteen"]),
    ]
    grams, tally = index_texts(texts, ngram=13), Tally()
    found = [
        found_in(tally, f"d{i}", [text], grams) for i, text in enumerate([THIRTEEN, "no", THIRTEEN])
    ]
    assert found == [True, False, True]
    assert (tally.num_documents, tally.num_documents_hit) == (3, 2)
    report = describe(tally, grams, {"third": "no network"})
    example = {"document": "d0", "text": 2, "words": THIRTEEN}
    assert report["second"] == {
        "num_texts": 3,
        "num_texts_too_short": 1,
        "num_texts_unbroken": 0,
        "num_texts_hit": 1,
        "num_documents_hit": 2,
        "examples": [example, {**example, "document": "d2"}],
        "reason": None,
    }
    assert (report["first"]["num_texts_hit"], report["first"]["num_documents_hit"]) == (1, 2)
    assert report["third"] == {
        "num_texts": None,
        "num_texts_too_short": None,
        "num_texts_unbroken": None,
        "num_texts_hit": None,
        "num_documents_hit": None,
        "examples": None,
        "reason": "no network",
    }
