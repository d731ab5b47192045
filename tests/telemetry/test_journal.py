import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from kdwatts.records.files import read_jsonl, to_json
from kdwatts.records.schema import TelemetryRow
from kdwatts.telemetry import journal as journal_module
from kdwatts.telemetry.journal import Journal


@contextmanager
def full_after(num_bytes: int) -> Iterator[None]:
    """The kernel takes no byte of any file beyond this length, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def line(number: int, text: str = "") -> dict:
    return {"schema": 1, "n": number, "text": text}


def numbers(path) -> list[int]:
    return [row["n"] for row in read_jsonl(path)]


def test_lines_hold_what_the_records_contract_writes(tmp_path):
    row = TelemetryRow("2026-01-01T00:00:00+00:00", 1.5, 1, "run", "gpu", 0, power_w=0.1)
    journal = Journal(tmp_path / "rows.jsonl")
    journal.write([row, asdict(row)])
    journal.close()
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in lines] == [json.loads(to_json(row))] * 2


def test_a_line_that_only_half_fits_is_taken_back_and_written_when_there_is_room(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path)
    journal.write([line(1)])
    with full_after(path.stat().st_size + 20):
        journal.write([line(2, "x" * 50)])
        assert numbers(path) == [1], "the half that fitted is not left behind"
        journal.write([line(3)])
    journal.write([line(4)])
    journal.close()
    assert numbers(path) == [1, 2, 3, 4]
    assert journal.num_lost == 0


def test_whole_lines_that_fit_are_written_even_when_later_ones_do_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path)
    journal.write([line(1)])
    size = path.stat().st_size
    with full_after(3 * size + 5):
        journal.write([line(2), line(3), line(4)])
        assert numbers(path) == [1, 2, 3]
    journal.close()
    assert numbers(path) == [1, 2, 3, 4]


def test_a_disk_that_stays_full_is_told_once_and_the_lost_lines_are_in_the_log(tmp_path, caplog):
    path = tmp_path / "stages.jsonl"
    path.symlink_to("/dev/full")
    journal = Journal(path, tell_lost=True)
    for number in (1, 2):
        journal.write([line(number)])
    journal.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    assert os.strerror(errno.ENOSPC) in said[0]
    assert '"n":1' in said[1] and '"n":2' in said[2]
    assert "is missing 2 lines that could not be written" in said[3]
    assert journal.num_lost == 2


def test_the_oldest_lines_are_given_up_when_too_many_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "MAX_PENDING", 3)
    path = tmp_path / "rows.jsonl"
    journal = Journal(path)
    journal.write([line(0)])
    with full_after(path.stat().st_size):
        for number in range(1, 6):
            journal.write([line(number)])
    journal.close()
    assert numbers(path) == [0, 3, 4, 5]
    assert journal.num_lost == 2


def test_a_folder_that_appears_late_gets_the_lines_of_before(tmp_path):
    journal = Journal(tmp_path / "late" / "rows.jsonl")
    journal.write([line(1)])
    (tmp_path / "late").mkdir()
    journal.write([line(2)])
    journal.close()
    assert numbers(tmp_path / "late" / "rows.jsonl") == [1, 2]


def test_a_torn_line_of_a_killed_attempt_is_dropped_before_the_next_one_writes(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"schema": 1, "n": 1}\n{"schema": 1, "n"')
    journal = Journal(path)
    journal.write([line(2)])
    journal.close()
    assert numbers(path) == [1, 2]


def test_a_line_is_in_the_file_as_soon_as_write_returns(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path)
    journal.write([line(1)])
    assert numbers(path) == [1]
    journal.close()


def test_a_value_that_json_does_not_hold_costs_neither_its_line_nor_the_others(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl")
    odd = {"text": "GPU-\udcff", "big": 2**70, "nan": float("nan"), "inf": float("inf")}
    journal.write([line(1), line(2) | odd, line(3)])
    row = TelemetryRow("", 1.5, 1, "run/\udcff", "gpu", 0, power_w=60.0, throttle_reasons=2**64)
    journal.write([row])
    journal.close()
    rows = list(read_jsonl(tmp_path / "rows.jsonl"))
    assert [row.get("n") for row in rows] == [1, 2, 3, None]
    assert {name: rows[1][name] for name in odd} == {
        "text": "GPU-?", "big": None, "nan": None, "inf": None,
    }  # fmt: skip
    assert (rows[3]["window"], rows[3]["power_w"]) == ("run/?", 60)
    assert rows[3]["throttle_reasons"] is None
