"""The record of an examination: where the store keeps it, and what is read back of odd ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kdwatts.records.doctor_record import (
    COUNTER_CHECK,
    DoctorRecord,
    LastDoctor,
    Verdict,
    last_of,
    read_record,
    record_path,
    records_in,
)
from kdwatts.records.files import to_json, write_json

COUNTER = Verdict(
    COUNTER_CHECK, "right", "0.1 %", value=0.1, low=-0.2, high=0.4, unit="%", chapter="instruments"
)
RAPL = Verdict("rapl_readable", "attention", "by root alone", chapter="surroundings")
RECORD = DoctorRecord(
    time_utc="2026-12-01T08:00:00+00:00", host="node7", gpu_uuid="GPU-1", gpu="NVIDIA H100",
    cpu="EPYC", pair="tiny", minutes=5, took_s=290.0, kdwatts="0.1.0",
    command=["doctor"], versions={"torch": "2.8.0", "peft": None}, verdicts=[RAPL, COUNTER],
)  # fmt: skip


def kept(store: Path, record: DoctorRecord = RECORD) -> Path:
    path = record_path(store, record.host, record.gpu_uuid)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return path


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path):
    assert read_record(kept(tmp_path)) == RECORD


@pytest.mark.parametrize(
    ("host", "uuid", "name"),
    [
        ("node7", None, "node7-cpu.json"),
        ("node7.example.org", "GPU-5f0c-aa", "node7.example.org-GPU-5f0c-aa.json"),
        ("../../etc/passwd", None, ".._.._etc_passwd-cpu.json"),
        ("a b\n:é", "MIG-GPU-5f0c/3/0", "a_b__é-MIG-GPU-5f0c_3_0.json"),
    ],
)
def test_a_record_lies_in_one_folder_whatever_its_host_is_called(
    host: str, uuid: str | None, name: str, tmp_path: Path
):
    assert record_path(tmp_path, host, uuid) == tmp_path / "doctor" / name
    kept(tmp_path, replace(RECORD, host=host, gpu_uuid=uuid))
    (last,) = last_of(tmp_path, host, [uuid])
    assert (last["reason"], last["time_utc"]) == (None, RECORD.time_utc)
    assert len(records_in(tmp_path)) == 1


def test_a_run_names_the_counter_what_is_not_right_and_how_much_is(tmp_path: Path):
    path = kept(tmp_path)
    assert last_of(tmp_path, "node7", ["GPU-1"]) == [
        asdict(
            LastDoctor(
                host="node7",
                gpu_uuid="GPU-1",
                time_utc="2026-12-01T08:00:00+00:00",
                path=str(path),
                counter=COUNTER,
                not_right=[RAPL],
                num_right=1,
            )
        )
    ]


def test_a_gpu_that_was_not_examined_is_named_beside_one_that_was(tmp_path: Path):
    kept(tmp_path)
    first, second = last_of(tmp_path, "node7", ["GPU-1", "GPU-2"])
    assert first["reason"] is None
    assert second == asdict(
        LastDoctor(
            "node7",
            "GPU-2",
            None,
            None,
            reason="python -m kdwatts.doctor was never run on GPU-2 of node7 with this store",
        )
    )
    (cpu,) = last_of(tmp_path / "no store", "node8", [None])
    assert cpu["reason"] == "python -m kdwatts.doctor was never run on node8 with this store"


def test_keys_that_a_later_version_added_are_passed_over(tmp_path: Path):
    path = kept(tmp_path)
    value = json.loads(path.read_text())
    value["mood"] = "good"
    value["verdicts"][1]["mood"] = ["good"]
    write_json(path, value)
    assert read_record(path) == RECORD


def edited(**changes: object) -> str:
    return json.dumps(json.loads(to_json(RECORD)) | changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ('{"schema": 1, "host": "no', "not JSON"),
        ("[" * 100_000, "no doctor.json"),
        ("[]", "it holds list, not a record"),
        ("7", "holds int, not a record"),
        ('{"schema": 1, "hello": "world"}', "missing 9 required"),
        (edited(schema=99), "schema is 99"),
        (edited(schema=None), "schema is None"),
        (edited(host=7), "host is 7, not str"),
        (edited(minutes=True), "minutes is True, not float"),
        (edited(took_s=float("nan")), "took_s is nan, not float"),
        (edited(verdicts="none"), "verdicts is 'none', not list"),
        (edited(verdicts=["right"]), "it holds str, not a record"),
        (edited(verdicts=[{"name": "x"}]), "missing 2 required"),
        (edited(verdicts=[asdict(COUNTER) | {"low": float("-inf")}]), "low is -inf, not float"),
        (edited(verdicts=[asdict(COUNTER) | {"value": 10**400}]), "value is 1000"),
        (edited(verdicts=[asdict(COUNTER) | {"conditions": {"rows": [float("nan")]}}]), "[nan]"),
        (edited(host="node8"), "is not of GPU-1 of node7"),
        (edited(gpu_uuid="GPU-2"), "is not of GPU-1 of node7"),
    ],
)
def test_a_record_that_is_not_what_a_doctor_wrote_is_a_reason_and_no_error(
    text: str, said: str, tmp_path: Path
):
    path = kept(tmp_path)
    path.write_text(text)
    (last,) = last_of(tmp_path, "node7", ["GPU-1"])
    assert last["reason"].startswith(str(path)) and said in last["reason"], last["reason"]
    assert last == asdict(LastDoctor("node7", "GPU-1", None, str(path), reason=last["reason"]))
    to_json(last)


@pytest.mark.parametrize("spoil", [Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_a_path_that_cannot_be_read_is_a_reason_and_no_error(
    spoil: Callable[[Path], None], tmp_path: Path
):
    path = kept(tmp_path)
    path.unlink()
    spoil(path)
    (last,) = last_of(tmp_path, "node7", ["GPU-1"])
    assert last["reason"].startswith(f"{path} cannot be read (")


def test_a_store_that_is_a_file_is_a_reason_and_no_error(tmp_path: Path):
    store = tmp_path / "store"
    store.write_text("")
    (last,) = last_of(store, "node7", [None])
    assert "cannot be read (Not a directory)" in last["reason"]
    assert records_in(store) == []


def test_the_newest_record_comes_first_and_unreadable_ones_are_left_out(tmp_path: Path):
    kept(tmp_path)
    later = replace(RECORD, host="node8", time_utc="2026-12-02T08:00:00+00:00")
    kept(tmp_path, later)
    kept(tmp_path, replace(RECORD, host="node9")).write_text("{")
    assert records_in(tmp_path) == [later, RECORD]
