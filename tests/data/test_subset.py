"""Parts of a source: drawn by the documents themselves, whatever their order."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import pytest

from kdwatts.data.documents import Document
from kdwatts.data.subset import drawing, place

DOCUMENTS = [Document(f"text {number}", f"id-{number}") for number in range(2000)]


def drawn(
    documents: list[Document],
    *,
    fraction: float = 1.0,
    num_documents: int | None = None,
    sample_seed: int = 0,
) -> list[Document]:
    draw = drawing(
        lambda: documents,
        fraction=fraction,
        num_documents=num_documents,
        sample_seed=sample_seed,
    )
    first, second = draw(), draw()
    chosen = [document for document in documents if first(document)]
    assert chosen == [document for document in documents if second(document)]
    return chosen


def test_a_place_is_the_first_64_bits_of_the_hash_of_seed_and_id():
    digest = hashlib.sha256(b"3\nid-7").hexdigest()
    assert place(3, "id-7") == int(digest[:16], 16)


def test_all_are_drawn_in_their_order_where_nothing_is_asked():
    assert drawn(DOCUMENTS) == DOCUMENTS
    assert drawn(DOCUMENTS, num_documents=5000) == DOCUMENTS


def test_a_smaller_part_lies_in_a_larger_one_by_fraction_and_by_number():
    parts = [
        drawn(DOCUMENTS, num_documents=50),
        drawn(DOCUMENTS, fraction=0.1),
        drawn(DOCUMENTS, num_documents=500),
        drawn(DOCUMENTS, fraction=0.5),
    ]
    # 200 and 1000 are expected, with deviations of 13 and 22.
    assert len(parts[0]) == 50 and len(parts[2]) == 500
    assert 150 < len(parts[1]) < 250 and 910 < len(parts[3]) < 1090
    for smaller, larger in pairwise(parts):
        assert {d.id for d in smaller} < {d.id for d in larger}


def test_a_part_does_not_depend_on_order_nor_on_where_the_source_is_cut():
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    for asked in ({"fraction": 0.2}, {"num_documents": 300}):
        expected = {d.id for d in drawn(DOCUMENTS, **asked)}
        assert {d.id for d in drawn(shuffled, **asked)} == expected
    halves = [drawn(half, fraction=0.2) for half in (shuffled[:700], shuffled[700:])]
    assert {d.id for half in halves for d in half} == {d.id for d in drawn(DOCUMENTS, fraction=0.2)}


def test_another_seed_draws_others_independently():
    first, second = (
        {d.id for d in drawn(DOCUMENTS, fraction=0.5, sample_seed=seed)} for seed in (0, 1)
    )
    # A quarter is in both: 500, with a deviation of 19.
    assert 420 < len(first & second) < 580


def test_a_number_is_met_where_documents_are_copies_or_share_an_id():
    copies = [Document("same", None)] * 20
    assert len(drawn(copies, num_documents=5)) == 5
    namesakes = [Document(f"text {number}", "one") for number in range(20)]
    assert len(drawn(namesakes, num_documents=5)) == 5
    mixed = drawn([*copies, *DOCUMENTS], num_documents=1000)
    assert len(mixed) == 1000


def contents(documents: list[Document]) -> set[str]:
    return {str(document.content) for document in documents}


@pytest.mark.parametrize("seed", range(4))
def test_half_of_the_rows_that_share_an_id_are_drawn_and_a_smaller_part_lies_in_a_larger_one(
    seed: int,
):
    namesakes = [Document(f"Row {number} of two hundred.", "set-a") for number in range(200)]
    small = contents(drawn(namesakes, num_documents=30, sample_seed=seed))
    half = contents(drawn(namesakes, fraction=0.5, sample_seed=seed))
    large = contents(drawn(namesakes, num_documents=160, sample_seed=seed))
    # 100 with a deviation of 7.
    assert len(small) == 30 and 70 < len(half) < 130 and len(large) == 160
    assert small < half < large


def test_ids_that_begin_anew_in_each_file_are_not_drawn_together():
    files = [[Document(f"{name} {n}", str(n)) for n in range(1000)] for name in "ab"]
    chosen = contents(drawn([*files[0], *files[1]], fraction=0.5))
    first = contents(drawn(files[0], fraction=0.5))
    # The first file's are drawn as if it were alone, the other's independently of them.
    assert {content for content in chosen if content.startswith("a")} == first
    both = sum(f"a {n}" in chosen and f"b {n}" in chosen for n in range(1000))
    assert 200 < both < 300  # 250, with a deviation of 14.


def test_unique_ids_are_drawn_as_ever():
    expected = [d for d in DOCUMENTS if place(0, d.id) < 2**63]
    assert drawn(DOCUMENTS, fraction=0.5) == expected


def test_a_number_of_a_fraction_is_drawn_of_that_fraction():
    small = {d.id for d in drawn(DOCUMENTS, fraction=0.1)}
    both = drawn(DOCUMENTS, fraction=0.1, num_documents=20)
    assert len(both) == 20 and {d.id for d in both} < small
    assert {d.id for d in drawn(DOCUMENTS, fraction=0.1, num_documents=1999)} == small
