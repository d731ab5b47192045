"""Evaluation texts in documents: runs of words in common, whatever their case and punctuation."""

from __future__ import annotations

import random

import pytest

from kdwatts.data.overlap import Tally, TaskText, describe, index_texts, texts_in, words_of

THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def test_words_are_lower_case_and_without_punctuation():
    assert words_of("Don't STOP -- at_once, Ärger…!") == ["dont", "stop", "atonce", "ärger"]


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
    assert not tally.add("cut", [" ".join(cut[:6]), " ".join(cut[6:])], grams)
    assert tally.add("whole", ["x a b c d e f g h y", THIRTEEN], grams)
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
    found = [tally.add(f"d{i}", [text], grams) for i, text in enumerate([THIRTEEN, "no", THIRTEEN])]
    assert found == [True, False, True]
    assert (tally.num_documents, tally.num_documents_hit) == (3, 2)
    report = describe(tally, grams, {"third": "no network"})
    example = {"document": "d0", "text": 2, "words": THIRTEEN}
    assert report["second"] == {
        "num_texts": 3,
        "num_texts_too_short": 1,
        "num_texts_hit": 1,
        "num_documents_hit": 2,
        "examples": [example, {**example, "document": "d2"}],
        "reason": None,
    }
    assert (report["first"]["num_texts_hit"], report["first"]["num_documents_hit"]) == (1, 2)
    assert report["third"] == {
        "num_texts": None,
        "num_texts_too_short": None,
        "num_texts_hit": None,
        "num_documents_hit": None,
        "examples": None,
        "reason": "no network",
    }
