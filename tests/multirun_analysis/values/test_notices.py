from multirun_analysis.values.notices import notice_line, notices_of, plain


def test_sentences_that_differ_in_numbers_alone_are_one_with_their_ends():
    found = notices_of(
        [
            ("a", "rises 999.5 to 999.7 times, so 1,200 tokens at 2025-11-14T01:40:00Z"),
            ("b", "rises 998 to 1001 times, so 1,100 tokens at 2025-11-13T23:59:00Z"),
            ("c", "stands still"),
        ]
    )
    assert [notice.sentence for notice in found] == [
        "rises 998 to 1001 times, so 1,100 to 1,200 tokens at "
        "2025-11-13T23:59:00Z to 2025-11-14T01:40:00Z",
        "stands still",
    ]
    assert [notice.names for notice in found] == [("a", "b"), ("c",)]


def test_numbers_that_are_part_of_a_name_a_path_or_a_line_keep_sentences_apart():
    words = ["same student as 0-sft_1", "same student as 1-sft_1", "x.jsonl:4: bad",
             "x.jsonl:5: bad", "see /scratch/1", "see /scratch/2", "lr=1 fails", "lr=2 fails",
             "llama-3.1 is missing", "llama-3.2 is missing"]  # fmt: skip
    assert len(notices_of((str(i), word) for i, word in enumerate(words))) == len(words)


def test_one_is_named_and_many_are_counted_with_their_names_in_brackets():
    one, many = notices_of([("a", "x"), ("<b>", "y"), ("c", "y")], what="folders")
    assert (plain(one), notice_line(one)) == ("x: a", "a: x")
    assert plain(many) == notice_line(many) == "y: 2 folders (<b>, c)"
