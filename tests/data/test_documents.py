from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.data import TextSource
from kdwatts.data.documents import Document, read_documents
from kdwatts.data.turns import Turn

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


def test_a_key_that_a_table_fills_with_null_is_absent(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    names = ("role", "content", "from", "value", "name", "weight")
    turn = pa.struct([(name, pa.string()) for name in names])
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    ]
    table = pa.Table.from_pylist(rows, pa.schema([("messages", pa.list_(turn))]))
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = _contents(_talks(str(tmp_path / "a.parquet")))
    assert first == second == rows[0]["messages"]


def _talks(path: str) -> TextSource:
    return TextSource(path, text_field=None, messages_field="messages")


ANSWER = {"role": "assistant", "content": "Ho"}


@pytest.mark.parametrize(
    ("turn", "key"),
    [
        ({**ANSWER, "tool_calls": [{"function": {"name": "f"}}]}, "tool_calls"),
        ({**ANSWER, "content": None, "tool_calls": [{"function": {}}]}, "tool_calls"),
        ({**ANSWER, "weight": 0}, "weight"),
        ({**ANSWER, "weight": 0.5}, "weight"),
        ({**TURN, "weight": 2}, "weight"),
        ({**ANSWER, "train": False}, "train"),
        ({"from": "gpt", "value": "Ho", "loss": False}, "loss"),
        ({**ANSWER, "loss_mask": 0}, "loss_mask"),
        ({**TURN, "name": "Duncan"}, "name"),
        ({**ANSWER, "reasoning_content": "Let me see."}, "reasoning_content"),
        ({**ANSWER, "tool_call_id": "7"}, "tool_call_id"),
        ({**TURN, "images": ["a.png"]}, "images"),
    ],
)
def test_a_key_of_a_turn_that_changes_what_is_learned_is_refused_with_its_row(
    turn: dict[str, Any], key: str, tmp_path: Path
):
    path = _jsonl(tmp_path / "a.jsonl", [{"messages": [TURN, ANSWER]}, {"messages": [TURN, turn]}])
    documents = read_documents(_talks(path))
    assert next(documents).content == [TURN, ANSWER]
    with pytest.raises(ValueError, match=rf"a.jsonl:2: turn 2 of 'messages' has {key}=.*; leave"):
        next(documents)


def test_keys_of_turns_without_effect_pass_and_notes_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    usual = {"weight": 1, "train": True, "loss": 1.0, "tool_calls": [], "name": "", "prefix": False}
    # SlimOrca's: what others say has a weight of 0.
    asked = {**TURN, "weight": 0, "train": False, "tool_calls": None, "timestamp": 7}
    rows = [{"messages": [asked, {**ANSWER, **usual, "model": "m", "timestamp": 8}]}] * 3
    assert _contents(_talks(_jsonl(tmp_path / "a.jsonl", rows))) == [[TURN, ANSWER]] * 3
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition("a.jsonl: ")[2] for line in told] == [
        "the key timestamp of its turns is not read",
        "the key model of its turns is not read",
    ]


def test_what_stands_beside_a_conversation_is_refused_told_or_let_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    system = {"role": "system", "content": "Be brief."}
    notes = {"id": "7", "source": "s", "category": "c", "tools": "[]", "system": None}
    rows = [
        {"messages": [TURN, ANSWER], **notes},
        {"messages": [system, TURN, ANSWER], "system_prompt": "Be brief."},
    ]
    assert len(_contents(_talks(_jsonl(tmp_path / "a.jsonl", rows)))) == 2
    assert not caplog.records
    rows = [{"messages": [TURN, ANSWER], "system": "Be brief."}] * 2
    assert len(_contents(_talks(_jsonl(tmp_path / "b.jsonl", rows)))) == 2
    (record,) = caplog.records
    assert "b.jsonl: the field system beside conversations is not read" in record.getMessage()
    rows = [{"messages": [TURN, ANSWER], "tools": [{"name": "f"}]}]
    with pytest.raises(
        ValueError, match=r"c.jsonl:1: field 'tools' offers tools; the answers rely on them"
    ):
        _contents(_talks(_jsonl(tmp_path / "c.jsonl", rows)))


@pytest.mark.parametrize(("name", "value"), [("split", "train"), ("name", "c"), ("revision", "v")])
def test_what_is_said_of_a_hub_s_data_set_is_refused_for_local_files(
    name: str, value: str, tmp_path: Path
):
    source = TextSource(_jsonl(tmp_path / "train.jsonl", [{"text": "a"}]))
    assert _contents(source) == ["a"]
    setattr(source, name, value)
    with pytest.raises(
        ValueError, match=rf"data.source.{name}={value} is for a data set on a hub, but "
    ):
        _contents(source)
    assert TextSource("org/name").split_read == "train"


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
    with pytest.raises(
        ValueError,
        match=r"no field 'passage'; .* about, ask, say; set data.source.context_field to one of t",
    ):
        _contents(source)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"a.jsonl:2: this is not JSON \(.*\); repair the line"),
        ("[1]", r"a.jsonl:2: the row holds list, not an object; repair the row"),
        (
            '{"body": "b", "id": 7}',
            r"a.jsonl:2 has no field 'text'; its fields are body, id; set .*, or set it to nu",
        ),
        (
            '{"text": null}',
            r"field 'text' holds None, which is not text; name another field, or leave",
        ),
        ('{"text": "\\ud800"}', r"a.jsonl:2: field 'text' holds half a"),
        ('{"text": ["a"]}', r"a.jsonl:2: field 'text' holds \['a'\], which is not text"),
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
        (None, r"a.jsonl:2: field 'messages' holds None, which is no list of turns; name another"),
        ("Hi", r"a.jsonl:2: field 'messages' holds 'Hi', which is no list of turns"),
        (
            ["Hi"],
            r"turn 1 of 'messages' is 'Hi', but a turn needs role and content \(or from",
        ),
        (
            [{"role": "user"}],
            r"turn 1 of 'messages' is {'role': 'user'}, but a turn needs role and conte",
        ),
        (
            [{"from": "gpt", "content": "Ho"}],
            r"turn 1 of 'messages' is .* but a turn needs role and cont",
        ),
        (
            [TURN, {**TURN, "content": None}],
            r"a.jsonl:2: turn 2 of 'messages' holds None, which is not te",
        ),
        (
            [{**TURN, "content": {"a": 1}}],
            r"turn 1 of 'messages' holds {'a': 1}, which is not text",
        ),
        (
            [{**TURN, "content": [{"type": "text", "text": "Hi"}]}],
            r"holds \[{'type'.*, which is not text",
        ),
        (
            [{**TURN, "role": "tool"}],
            r"turn 1 of 'messages' has the role 'tool'; a role is one of system",
        ),
        (
            [{**TURN, "role": None}],
            r"turn 1 of 'messages' has the role None; a role is one of system",
        ),
        (
            [{**TURN, "role": ["user"]}],
            r"has the role \['user'\]; a role is one of system, user, human",
        ),
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


@pytest.mark.parametrize("path", ["/none/a.jsonl", "./a", "../a.txt", "tiny:none", "b.jsonl"])
def test_a_file_that_is_not_there_is_refused_and_not_taken_for_a_hub_s(path: str):
    with pytest.raises(
        ValueError, match=r"data.source.path=.* does not exist on this machine; check"
    ):
        read_documents(TextSource(path))


def test_a_file_of_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text\none\n")
    with pytest.raises(
        ValueError,
        match=r"a.csv is a file of an unknown kind; give a file that ends in one of .txt, .txt.xz",
    ):
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
    assert {document.unfit for document in blank} == {"empty"}
    assert not any(document.is_blank for document in (Document(" a", None), said("", "b")))


def test_a_conversation_with_an_answer_without_words_is_no_document():
    def said(*answers: str) -> Document:
        return Document([turn for a in answers for turn in (TURN, {**ANSWER, "content": a})], None)

    assert [said(*answers).unfit for answers in (("",), ("a", " \n"), ("a", "b"))] == [
        "blank_answer",
        "blank_answer",
        None,
    ]
