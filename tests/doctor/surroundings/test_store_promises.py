"""A store that keeps its promises, and stores that break one each, for real."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import pytest

from kdwatts.doctor.surroundings.store_promises import store_promises, trial_dir
from kdwatts.doctor.surroundings.store_speed import store_speed
from tests.doctor.surroundings.looking import looked

BODY = """
from kdwatts.doctor.surroundings.store_promises import store_promises
from kdwatts.doctor.surroundings.store_speed import store_speed
from tests.doctor.surroundings.looking import looked
printed = {}
for what in json.loads(os.environ["BREAKS"]):
    os.environ["BAD_STORE_BREAKS"] = what
    word = f"store_dir={os.environ['BAD_STORE']}"
    printed[what] = looked(store_promises, "gpu=cpu", word)
os.environ["BAD_STORE_BREAKS"] = ""
if os.geteuid() == 0:
    os.seteuid(65534)  # Root writes everywhere.
word = f"store_dir={os.environ['CLOSED']}"
for check in (store_promises, store_speed):
    printed[check.__name__] = looked(check, "gpu=cpu", word)
print_json(printed)
"""

BREAKS = {
    "files": "store_rename",
    "folders": "store_commit",
    "over": "store_commit",
    "exclusive": "store_leases",
}
"""What the library breaks, to the verdict that must find it."""


@pytest.fixture(scope="module")
def printed(start_script, bad_store, tmp_path_factory):
    root = tmp_path_factory.mktemp("bad-store")
    environment = {"LD_PRELOAD": str(bad_store), "BAD_STORE": str(root)}
    environment["BREAKS"] = json.dumps(list(BREAKS))
    with tempfile.TemporaryDirectory() as closed:
        os.chmod(closed, 0o555)
        found = start_script(BODY, environment=environment | {"CLOSED": closed}).finish()
        os.chmod(closed, 0o755)
        assert os.listdir(closed) == os.listdir(root) == []
    return found


@pytest.mark.parametrize("what", BREAKS)
def test_a_store_that_breaks_a_promise_is_wrong_in_that_and_right_in_all_else(printed, what):
    found = printed[what]
    wrong = {name for name, one in found.items() if one["verdict"] == "wrong"}
    assert wrong == {BREAKS[what]}
    assert "atomic rename" in found[BREAKS[what]]["remedy"]


def test_reads_without_a_file_are_counted_as_a_share(printed):
    found = printed["files"]["store_rename"]
    assert 0 < found["value"] <= 1 and found["unit"] == "of reads"


def test_a_good_store_is_right_in_every_promise_and_left_as_it_was(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    found = looked(store_promises, "gpu=cpu", f"store_dir={tmp_path}", seconds=3)
    assert {name: one.verdict for name, one in found.items() if one.verdict} == {
        name: "right" for name, one in found.items() if one.verdict
    }
    assert found["store_leases"].verdict == found["store_writable"].verdict == "right"
    assert not [one for one in found.values() if one.verdict == "wrong"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_what_a_killed_examination_left_is_removed_a_day_later_and_not_before(tmp_path):
    for name, age_s in (("killed", 90_000), ("beside", 7_000)):
        left = tmp_path / f".doctor-{name}"
        left.mkdir()
        (left / "speed.bin").write_bytes(b"x")
        os.utime(left, (time.time() - age_s, time.time() - age_s))
    with trial_dir(tmp_path) as folder:
        assert set(tmp_path.iterdir()) == {tmp_path / ".doctor-beside", folder}
    assert list(tmp_path.iterdir()) == [tmp_path / ".doctor-beside"]


def test_a_store_that_cannot_be_written_is_wrong_and_nothing_else_is_tried(printed):
    promises, speed = printed["store_promises"], printed["store_speed"]
    assert {name: one["verdict"] for name, one in promises.items()} == {"store_writable": "wrong"}
    assert "Permission denied" in promises["store_writable"]["found"]
    assert "set store_dir" in promises["store_writable"]["remedy"]
    assert {name: one["verdict"] for name, one in speed.items()} == {"store_space": None}


def test_speed_is_measured_with_its_interval_and_leaves_nothing(tmp_path):
    found = looked(store_speed, "gpu=cpu", f"store_dir={tmp_path}", seconds=1)
    assert list(tmp_path.iterdir()) == []
    for name in ("store_write_speed", "store_read_speed"):
        one = found[name]
        assert one.value and one.low and one.low < one.value
        assert one.high is None or one.value < one.high
        assert one.unit == "MB/s"
        # No figure of this CPU's rates is known, so nothing is known to hold it against.
        assert one.verdict is None


def test_free_space_is_held_against_cache_checkpoints_text_and_student(tmp_path):
    enough = looked(store_speed, "gpu=cpu", f"store_dir={tmp_path}", seconds=0.2)["store_space"]
    assert enough.verdict == "right" and enough.value
    words = ("gpu=cpu", f"store_dir={tmp_path}", f"training.target_tokens={10**15}")
    found = looked(store_speed, *words, seconds=0.2)["store_space"]
    # 10^15 tokens of text alone take 4 PB, more than this disk has.
    assert found.verdict == "wrong"
    assert "teacher's cache" in (found.against or "") and "two checkpoints" in (found.against or "")


def test_a_full_store_is_not_written_to(tmp_path, monkeypatch):
    import shutil

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=10**8))
    found = looked(store_speed, "gpu=cpu", f"store_dir={tmp_path}")
    assert found["store_write_speed"].value is None
    assert "too little" in found["store_write_speed"].found
    assert "store_read_speed" not in found
    assert list(Path(tmp_path).iterdir()) == []
