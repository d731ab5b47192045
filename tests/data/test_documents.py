from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from kdwatts.data.documents import Document, Turn, read_documents
from kdwatts.schema import TextSource

TURN = {"role": "user", "content": "Hi"}


def _contents(source: TextSource) -> list[str | list[Turn]]:
    return [document.content for document in read_documents(source)]


def _jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_text_file_is_one_document_compressed_or_not(tmp_path: Path):
    (tmp_path / "a.txt").write_text("äh\n\noh", encoding="utf-8")
    with lzma.open(tmp_path / "b.txt.xz", "wt", encoding="utf-8") as file:
        file.write("äh\n\noh")
    for name in ("a.txt", "b.txt.xz"):
        assert _contents(TextSource(str(tmp_path / name))) == ["äh\n\noh"]


def test_rows_come_in_order_from_jsonl_its_compressed_form_and_parquet(tmp_path: Path):
    rows = [{"text": "one", "n": 1}, {"text": "two", "n": 2}, {"text": "", "n": 3}]
    with lzma.open(tmp_path / "b.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    _jsonl(tmp_path / "a.jsonl", rows)
    for name in ("a.jsonl", "b.jsonl.xz", "c.parquet"):
        source = TextSource(str(tmp_path / name))
        assert _contents(source) == ["one", "two", ""]
        source.num_rows = 2
        assert _contents(source) == ["one", "two"]


def test_the_shipped_corpus_is_text_and_leaves_out_the_held_out_works():
    documents = _contents(TextSource("tiny:corpus/train.jsonl.xz"))
    assert 4e6 < sum(len(str(document)) for document in documents) < 6e6
    assert not any("Lady Macbeth" in document or "Prospero" in document for document in documents)


def test_conversations_come_as_roles_and_contents_whatever_their_form(tmp_path: Path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    rows = [{"messages": turns, "ask": "Hi", "say": "Ho", "shared": shared}]
    path = _jsonl(tmp_path / "a.jsonl", rows)
    sources = [
        TextSource(path, text_field=None, messages_field="messages"),
        TextSource(path, text_field=None, messages_field="shared"),
        TextSource(path, text_field=None, prompt_field="ask", response_field="say"),
    ]
    for source in sources:
        assert _contents(source) == [turns]


def test_a_passage_that_a_prompt_asks_about_follows_it_and_may_be_missing(tmp_path: Path):
    rows = [
        {"ask": "Who rules?", "about": "Duncan is king.", "say": "Duncan."},
        {"ask": "Who comes?", "about": "", "say": "Banquo."},
        {"ask": "Who goes?", "about": None, "say": "Ross."},
    ]
    source = TextSource(
        _jsonl(tmp_path / "a.jsonl", rows),
        text_field=None,
        prompt_field="ask",
        response_field="say",
        context_field="about",
    )
    prompts = [turns[0] for turns in _contents(source)]
    assert prompts == [
        {"role": "user", "content": "Who rules?\n\nDuncan is king."},
        {"role": "user", "content": "Who comes?"},
        {"role": "user", "content": "Who goes?"},
    ]
    source.context_field = "passage"
    with pytest.raises(ValueError, match="has no field 'passage', its rows have about, ask, say"):
        _contents(source)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"a.jsonl:2: not JSON \(.*\); mend the line"),
        ("[1]", r"a.jsonl:2: holds list, not an object; mend the row"),
        ('{"body": "b", "id": 7}', r"a.jsonl:2 has no field 'text', its rows have body, id; set"),
        ('{"text": null}', r"field 'text' holds None, not text; name another field or leave"),
        ('{"text": "\\ud800"}', r"a.jsonl:2: field 'text' holds half a"),
        ('{"text": ["a"]}', r"a.jsonl:2: field 'text' holds \['a'\], not text"),
    ],
)
def test_a_row_that_is_not_text_is_refused_and_never_trained_on(
    line: str, said: str, tmp_path: Path
):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "one"}}\n{line}\n')
    documents = read_documents(TextSource(str(path)))
    assert next(documents).content == "one"
    with pytest.raises(ValueError, match=said):
        next(documents)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, r"a.jsonl:2: field 'messages' holds None, not a list of turns; name another"),
        ("Hi", r"a.jsonl:2: field 'messages' holds 'Hi', not a list of turns"),
        (["Hi"], r"turn 1 of 'messages' is 'Hi', without role and content \(or from and value\)"),
        ([{"role": "user"}], r"turn 1 of 'messages' is {'role': 'user'}, without role and conte"),
        ([{"from": "gpt", "content": "Ho"}], r"turn 1 of 'messages' is .* without role and cont"),
        ([TURN, {**TURN, "content": None}], r"a.jsonl:2: turn 2 of 'messages' holds None, not te"),
        ([{**TURN, "content": {"a": 1}}], r"turn 1 of 'messages' holds {'a': 1}, not text"),
        ([{**TURN, "content": [{"type": "text", "text": "Hi"}]}], r"holds \[{'type'.*, not text"),
        ([{**TURN, "role": "tool"}], r"turn 1 of 'messages' has the role 'tool', known are system"),
        ([{**TURN, "role": None}], r"turn 1 of 'messages' has the role None, known are system"),
        ([{**TURN, "role": ["user"]}], r"has the role \['user'\], known are system, user, human"),
    ],
)
def test_a_turn_that_is_no_words_of_a_known_speaker_is_refused_with_its_row(
    messages: Any, said: str, tmp_path: Path
):
    path = _jsonl(tmp_path / "a.jsonl", [{"messages": [TURN]}, {"messages": messages}])
    documents = read_documents(TextSource(path, text_field=None, messages_field="messages"))
    assert next(documents).content == [TURN]
    with pytest.raises(ValueError, match=said) as error:
        next(documents)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path", ["/none/a.jsonl", "./a", "../a.txt", "$NONE/a", "tiny:none", "b.jsonl"]
)
def test_a_file_that_is_not_there_is_refused_and_not_taken_for_a_hub_s(path: str):
    with pytest.raises(ValueError, match=r"data.source.path=.*: there is no such file; check"):
        read_documents(TextSource(path))


def test_a_file_of_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text\none\n")
    with pytest.raises(ValueError, match=r"a.csv: unknown kind of file; give one of .txt, .txt.xz"):
        _contents(TextSource(str(tmp_path / "a.csv")))


def test_a_document_is_known_by_its_own_id_or_by_its_content(tmp_path: Path):
    rows = [{"text": "a", "id": 7}, {"text": "a"}, {"text": "a", "id": None}, {"text": "b"}]
    seven, *others, b = read_documents(TextSource(_jsonl(tmp_path / "a.jsonl", rows)))
    assert seven.id == "7"
    # printf '"a"' | sha256sum
    assert {document.id for document in others} == {
        "ac8d8342bbb2362d13f0a559a3621bb407011368895164b628a54f7fc33fc43c"
    }
    assert b.id not in (seven.id, others[0].id)


def test_a_document_without_a_word_is_blank():
    def said(*contents: str) -> Document:
        return Document([{"role": "user", "content": content} for content in contents], None)

    blank = [Document("", None), Document(" \n\u2003", "7"), said(), said("", " \t")]
    assert all(document.is_blank for document in blank)
    assert not any(document.is_blank for document in (Document(" a", None), said("", "b")))
