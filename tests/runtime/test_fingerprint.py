"""Keys are the same for the same content on every machine, and different otherwise."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from kdwatts.runtime import fingerprint as keys
from kdwatts.runtime.fingerprint import (
    fingerprint,
    fingerprint_dir,
    fingerprint_tree,
    sha256_file,
    stage_key,
)


def test_a_key_is_the_start_of_the_sha256_of_sorted_json_without_spaces():
    text = b'{"a":[1,2.5,null],"b":{"c":true,"d":"\\u00e9"}}'
    key = hashlib.sha256(text).hexdigest()[:16]
    assert fingerprint({"b": {"d": "é", "c": True}, "a": [1, 2.5, None]}) == key


def test_a_folder_s_key_holds_what_its_links_lead_to_and_ends_where_they_lead_back(tmp_path: Path):
    for name in ("tasks", "elsewhere", "plain"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "rows.jsonl").write_text("1")
    (tmp_path / "tasks" / "own.yaml").write_text("task: own")
    (tmp_path / "tasks" / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tasks" / "again").symlink_to(tmp_path / "tasks")
    first = fingerprint_tree(tmp_path / "tasks")
    (tmp_path / "plain" / "own.yaml").write_text("task: own")
    (tmp_path / "plain" / "data").mkdir()
    (tmp_path / "plain" / "data" / "rows.jsonl").write_text("1")
    assert fingerprint_tree(tmp_path / "plain") == first
    (tmp_path / "elsewhere" / "rows.jsonl").write_text("2")
    assert fingerprint_tree(tmp_path / "tasks") != first


def test_the_order_of_keys_is_without_effect_at_every_depth_and_that_of_lists_is_not():
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint((1, 2)) == fingerprint([1, 2])


def test_values_that_look_alike_have_different_keys():
    values = [1, "1", True, None, "", [], {}, [1], 1.5, "null"]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_what_json_cannot_hold_has_no_key():
    with pytest.raises(TypeError):
        fingerprint({"path": Path("a")})
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint(float("nan"))


def test_a_stage_s_key_changes_with_its_name_version_settings_and_parents():
    key = stage_key("distill", 1, {"seed": 0, "rate": 0.1}, ["a", "b"])
    assert key == stage_key("distill", 1, {"rate": 0.1, "seed": 0}, ["a", "b"])
    others = [
        stage_key("teacher", 1, {"seed": 0, "rate": 0.1}, ["a", "b"]),
        stage_key("distill", 2, {"seed": 0, "rate": 0.1}, ["a", "b"]),
        stage_key("distill", 1, {"seed": 1, "rate": 0.1}, ["a", "b"]),
        stage_key("distill", 1, {"seed": 0, "rate": 0.1}, ["a"]),
        stage_key("distill", 1, {"seed": 0, "rate": 0.1}, ["b", "a"]),
    ]
    assert len({key, *others}) == 6


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_s_key_holds_names_and_bytes_of_the_files_that_match_and_of_no_other(
    tmp_path: Path,
):
    def key_of(files: dict[str, str]) -> str:
        for path in tmp_path.iterdir():
            path.unlink()
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return fingerprint_dir(tmp_path, "token*", "*.json")

    key = key_of({"tokenizer.json": "a", "config.json": "b"})
    assert key == key_of({"config.json": "b", "tokenizer.json": "a", "README.md": "c"})
    assert key != key_of({"tokenizer.json": "b", "config.json": "a"})
    assert key != key_of({"tokenizer.json": "a", "generation.json": "b"})
    assert key != key_of({"tokenizer.json": "a"})


def test_a_folder_without_a_matching_file_has_no_key(tmp_path: Path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"no file matches 'x\*' or '\*.json' in /"):
        fingerprint_dir(tmp_path, "x*", "*.json")


def test_a_large_file_of_a_folder_is_read_once_until_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(keys, "sha256_file", counted)
    large, small = tmp_path / "model.safetensors", tmp_path / "config.json"
    large.write_bytes(bytes(1 << 24))
    small.write_text("{}")
    key = fingerprint_dir(tmp_path, "*.[js]*", "*.safetensors")
    assert key == fingerprint_dir(tmp_path, "*.[js]*", "*.safetensors")
    assert read == ["config.json", "model.safetensors", "config.json"]
    large.write_bytes(b"1" + bytes((1 << 24) - 1))
    os.utime(large, ns=(1, 1))
    assert fingerprint_dir(tmp_path, "*.[js]*", "*.safetensors") != key
    assert read[3:] == ["config.json", "model.safetensors"]
