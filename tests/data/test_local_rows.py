"""Local files of text: which a path names, what stands in them, and what is said of a bad row."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdwatts.data.local_rows import digests, kind_of, local_files, read_rows


def texts(path: Path | str) -> list[str]:
    files = local_files(str(path))
    assert files is not None
    return [fields["text"] for _, fields in read_rows(files)]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_folder_is_its_files_of_a_known_kind_by_name_at_any_depth(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "c.jsonl").write_text(lines({"text": "four"}))
    (tmp_path / "a.jsonl").write_text(lines({"text": "one"}, {"text": "two"}))
    with lzma.open(tmp_path / "b" / "x.jsonl.xz", "wt") as file:
        file.write(lines({"text": "three"}))
    (tmp_path / ".cache" / "a.jsonl").write_text("hidden, and no JSON")
    (tmp_path / "README.md").write_text("What these are.")
    assert texts(tmp_path) == ["one", "two", "three", "four"]


def test_what_a_folder_holds_and_is_not_read_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv"):
        (tmp_path / name).write_text("")
    for _ in range(2):
        assert local_files(str(tmp_path)) == [tmp_path / "a.jsonl"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert (
        f"{tmp_path}: files are left out (2, such as b.jsonl.gz); only files that end in one of"
        in told
    )


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_hidden_texts_linked_folders_and_empty_files_of_a_folder_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "texts").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("texts/a.jsonl", "texts/.b.jsonl", "elsewhere/c.jsonl"):
        (tmp_path / name).write_text(lines({"text": name}))
    (tmp_path / "texts" / ".DS_Store").write_text("nobody misses it")
    (tmp_path / "texts" / "e.jsonl").write_text("")
    (tmp_path / "texts" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "linked.jsonl").symlink_to(tmp_path / "elsewhere" / "c.jsonl")
    assert texts(tmp_path / "texts") == ["texts/a.jsonl", "elsewhere/c.jsonl"]
    assert (
        "texts: hidden files are left out (1, such as .b.jsonl); only files that end in one of .txt"
        in told(caplog)
    )
    assert (
        "texts: links to folders are left out (1, such as more); only files that end in one of .txt"
        in told(caplog)
    )
    assert f"{tmp_path}/texts/e.jsonl has no rows" in told(caplog)
    assert "DS_Store" not in told(caplog)


def test_folders_that_a_pattern_matches_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").write_text("b")
    assert texts(f"{tmp_path}/*") == ["b"]
    assert "*: folders are left out (1, such as a); give /** for what they hold" in told(caplog)


@pytest.mark.parametrize("suffix", ["", "/*.txt"])
def test_a_link_to_nothing_is_refused_since_a_file_is_missing(suffix: str, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(
        ValueError,
        match=r"b.txt is a link to a file that does not exist; repair the link or remove",
    ):
        local_files(f"{tmp_path}{suffix}")


def test_one_object_is_a_row_or_refused_with_the_field_that_has_the_rows(tmp_path: Path):
    path = tmp_path / "a.json"
    for indent in (None, 1):
        path.write_text(json.dumps({"version": 1, "data": [{"text": "a"}]}, indent=indent))
        with pytest.raises(ValueError, match=r"a.json holds one object, whose field 'data' has t"):
            texts(path)
        turns = [{"role": "user", "content": "Hi"}]
        path.write_text(json.dumps({"text": "one", "messages": turns}, indent=indent))
        assert texts(path) == ["one"]


def test_a_pattern_is_the_files_that_it_matches_by_name(tmp_path: Path):
    for name in ("b1.txt", "a1.txt", "a2.txt"):
        (tmp_path / name).write_text(name)
    assert texts(tmp_path / "a?.txt") == ["a1.txt", "a2.txt"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.txt").write_text("c.txt")
    assert texts(f"{tmp_path}/**/*.txt") == ["a1.txt", "a2.txt", "b1.txt", "c.txt"]


def test_json_is_a_list_of_rows_or_a_row_a_line_with_or_without_a_mark_of_its_encoding(
    tmp_path: Path,
):
    rows = [{"text": "äh"}, {"text": "oh"}]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "lines.json").write_text(lines(*rows))
    (tmp_path / "marked.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "marked.jsonl").write_text(lines(*rows), encoding="utf-8-sig")
    for name in ("list.json", "lines.json", "marked.json", "marked.jsonl"):
        assert texts(tmp_path / name) == ["äh", "oh"]


def test_rows_are_told_by_file_and_line_and_blank_lines_are_counted(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n \n')
    files = local_files(str(path))
    assert files is not None
    assert [place for place, _ in read_rows(files)] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize("suffix", ["", "/*.parquet"])
def test_parquet_rows_are_counted_through_their_groups_and_begin_anew_with_each_file(
    suffix: str, tmp_path: Path
):
    for name in ("a", "b"):
        table = pa.table({"text": [f"{name}{i}" for i in range(2500)]})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=700)
    files = local_files(f"{tmp_path}{suffix}")
    assert files is not None
    rows = list(read_rows(files))
    assert rows[2499] == (f"{tmp_path}/a.parquet:2500", {"text": "a2499"})
    assert rows[2500] == (f"{tmp_path}/b.parquet:1", {"text": "b0"})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            b'{"text": "one"}\n{"text": "\xff"}\n',
            r"a.jsonl:2: this is not JSON \(.*0xff",
        ),
        (
            "a.json",
            b'[{"text": "one"},\n {]',
            r"a.json: this is not JSON \(.*line 2.*; repair the file",
        ),
        (
            "a.json",
            b'[{"text": "one"}, 7]',
            r"a.json:2: the row holds int, not an object; repair the row",
        ),
        (
            "a.txt",
            b"one\xff",
            r"a.txt cannot be read as the kind of file that its name says \(.*0xff",
        ),
        (
            "a.jsonl.xz",
            b"one",
            r"a.jsonl.xz cannot be read as the kind of file that its name says \(Input format",
        ),
        ("a.parquet", b"one", r"a.parquet cannot be read as parquet after row 0 \(.*; repair"),
    ],
)
def test_what_is_not_what_its_name_says_is_refused_with_file_and_row(
    name: str, content: bytes, said: str, tmp_path: Path
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        texts(tmp_path / name)


def test_folders_and_patterns_without_text_or_of_several_kinds_are_refused(tmp_path: Path):
    (tmp_path / "notes.md").write_text("no corpus")
    with pytest.raises(
        ValueError, match=r"holds no file of text; give a file that ends in one of .txt"
    ):
        local_files(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"holds no file of text; give a file that ends in one of .txt"
    ):
        local_files(f"{tmp_path}/*.jsonl")
    with pytest.raises(
        ValueError,
        match=r"notes.md is a file of an unknown kind; give a file that ends in one of .txt",
    ):
        local_files(f"{tmp_path}/*")
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"several kinds, such as a.jsonl and b.txt; give a pattern for on"
    ):
        local_files(str(tmp_path))


def test_a_hub_id_names_no_file():
    assert local_files("allenai/tulu-3-sft-mixture") is None


def test_a_digest_is_of_bytes_and_follows_them(tmp_path: Path):
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(b"one")
    # printf one | sha256sum
    one = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert digests([path]) == [one]
    path.write_bytes(b"two")
    assert digests([path]) != [one]
    assert kind_of(path) == "jsonl"
