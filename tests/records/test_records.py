"""What a run writes survives kills, full disks and foreign readers."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kdwatts.records import files
from kdwatts.records.files import (
    append_jsonl,
    check_schema,
    read_json,
    read_jsonl,
    to_json,
    write_json,
)
from kdwatts.records.run_metrics import Metrics
from kdwatts.records.schema import Score, StageRow, TelemetryRow

REPOSITORY = Path(__file__).parents[2]

APPEND_FOREVER = """
import sys
from pathlib import Path
from kdwatts.records.files import append_jsonl
path = Path(sys.argv[1])
for number in range(10**9):
    append_jsonl(path, {"schema": 1, "number": number, "text": "x" * 5000})
    if number == 20:
        print("going", flush=True)
"""

SCORE = Score("student", "lm_eval", "0.4.9", "arc", "acc", 0.5, None, True, 25, 400, None)


def test_a_record_is_one_line_of_json_with_its_schema_and_null_for_what_is_missing():
    assert to_json(SCORE) == (
        '{"subject": "student", "harness": "lm_eval", "harness_version": "0.4.9", "task": "arc", '
        '"metric": "acc", "value": 0.5, "stderr": null, "higher_is_better": true, '
        '"num_fewshot": 25, "num_samples": 400, "energy_j": null, "energy_quality": null, '
        '"benchmark": null, "tokens": null, "duration_s": null, "chance": null, "schema": 1}'
    )
    assert "\n" not in to_json({"schema": 1, "text": "two\nlines"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_hold_is_refused_and_nothing_is_written(
    value: float, tmp_path: Path
):
    path = tmp_path / "a.json"
    write_json(path, {"schema": 1, "power_w": 7})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"schema": 1, "power_w": value})
    with pytest.raises(ValueError, match="JSON compliant"):
        append_jsonl(tmp_path / "a.jsonl", {"schema": 1, "power_w": value})
    assert read_json(path) == {"schema": 1, "power_w": 7}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("record", [Metrics, StageRow, TelemetryRow, Score])
def test_every_record_says_its_schema_and_every_energy_and_power_its_unit(record: type):
    names = [field.name for field in fields(record)]
    assert names[-1] == "schema"
    for name in names:
        if "energy" in name and not name.endswith(("_quality", "_by_artifact_j")):
            assert name.endswith(("_j", "_j_per_token")), name
        if "power" in name:
            assert name.endswith("_w"), name


def test_rows_come_back_in_order_and_a_torn_last_line_is_passed_over(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    for number in range(3):
        append_jsonl(path, {"schema": 1, "number": number})
    with path.open("ab") as file:
        file.write(b'{"schema": 1, "num')
    assert [row["number"] for row in read_jsonl(path)] == [0, 1, 2]


@pytest.mark.parametrize("torn", [b"x", b'{"schema": 1, "num', b"\xff\xfe"])
def test_a_line_appended_after_a_torn_one_is_read_and_the_torn_one_is_gone(
    torn: bytes, tmp_path: Path
):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"schema": 1, "number": 0})
    with path.open("ab") as file:
        file.write(torn)
    append_jsonl(path, {"schema": 1, "number": 1})
    assert [row["number"] for row in read_jsonl(path)] == [0, 1]
    path.write_bytes(torn)
    append_jsonl(path, {"schema": 1, "number": 2})
    assert [row["number"] for row in read_jsonl(path)] == [2]


def test_rows_of_a_writer_killed_at_any_moment_can_be_read_and_continued(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    command = [sys.executable, "-c", APPEND_FOREVER, str(path)]
    writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert writer.stdout and writer.stdout.readline() == b"going\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    numbers = [row["number"] for row in read_jsonl(path)]
    assert len(numbers) >= 20
    assert numbers == list(range(len(numbers)))
    append_jsonl(path, {"schema": 1, "number": -1})
    assert [row["number"] for row in read_jsonl(path)] == [*numbers, -1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"rows.jsonl:2: not JSON \(.*\); only the last line of a file may be torn"),
        (b"", r"rows.jsonl:2: not JSON"),
        (b"\xff", r"rows.jsonl:2: not JSON"),
        (b"[1]", r"rows.jsonl:2: holds list, not a record"),
        (b'{"schema": 2}', r"rows.jsonl:2: schema is 2, but this kdwatts reads 1 to 1; "),
        (b'{"loss": 1.5}', r"rows.jsonl:2: schema is None"),
    ],
)
def test_any_other_broken_line_is_reported_by_file_and_line(
    line: bytes, message: str, tmp_path: Path
):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"schema": 1}\n' + line + b'\n{"schema": 1}\n')
    with pytest.raises(ValueError, match=message):
        list(read_jsonl(path))


@pytest.mark.parametrize("schema", [None, 0, -1, 2, "1", 1.0, True])
def test_a_foreign_or_newer_schema_is_refused(schema: Any):
    with pytest.raises(ValueError, match=r"a.json: schema is .*read it with the version"):
        check_schema({"schema": schema}, "a.json")


def test_a_list_of_records_is_read_and_each_of_them_is_checked(tmp_path: Path):
    path = tmp_path / "eval.json"
    write_json(path, [{"schema": 1, "task": "a"}, {"schema": 1, "task": "b"}])
    assert [score["task"] for score in read_json(path)] == ["a", "b"]
    write_json(path, [{"schema": 1}, {"schema": 2}])
    with pytest.raises(ValueError, match="schema is 2"):
        read_json(path)
    for text, message in (("{", "not JSON"), ("7", "holds int, not a record")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"eval.json: {message}.*; delete it and run again"):
            read_json(path)


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path):
    path = tmp_path / "status.json"
    write_json(path, {"schema": 1, "number": 0, "text": ""})
    done = threading.Event()

    def replace() -> None:
        for number in range(200):
            write_json(path, {"schema": 1, "number": number, "text": str(number) * 2000})
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = set()
    while not done.is_set():
        record = read_json(path)
        assert record["text"] in ("", str(record["number"]) * 2000)
        seen.add(record["number"])
    writer.join()
    assert len(seen) > 1
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_a_full_disk_keeps_the_old_content_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "status.json"
    write_json(path, {"schema": 1, "state": "running"})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"schema": 1, "state": "done"})
    assert read_json(path)["state"] == "running"
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
