"""A cache written in parts: resumed, shared among processes, never half."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdwatts.teacher import cache_parts
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cache_parts import (
    complete_parts,
    finish,
    missing_parts,
    num_parts,
    part_dir,
    rows_per_part,
    write_part,
    write_parts,
)
from kdwatts.teacher.cache_record import Entries, Form, OnHost, Records
from kdwatts.teacher.signals import SignalPlan, Signals
from tests.teacher.whole_cache import write_cache

FORM = Form(SignalPlan(pooled=True), sequence_length=4, width=2)
ROWS = np.arange(20) * 3


def signals_of(rows: NDArray[np.int64]) -> Signals:
    """Each row's pooled state is its number and the negative of it."""
    number_B = torch.from_numpy(rows).float()
    return Signals(pooled_BD=torch.stack([number_B, -number_B], -1))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_parts, "PART_POSITIONS", 12)
    monkeypatch.setattr(cache_parts, "ROWS_PER_FORWARD", 2)


def check(directory: Path) -> None:
    pooled_BD = SignalCache(directory, verify=True).read(ROWS).pooled_BD
    assert pooled_BD is not None
    assert torch.equal(pooled_BD, torch.from_numpy(np.stack([ROWS, -ROWS], -1)).float())


def test_parts_hold_a_fixed_number_of_rows_and_the_last_one_the_rest(tmp_path: Path):
    write_cache(tmp_path, ROWS, FORM, signals_of)
    assert (rows_per_part(FORM), num_parts(20, FORM)) == (3, 7)
    sizes = [part["bytes"]["states.bin"] for part in SignalCache(tmp_path).index["parts"]]
    assert sizes == [24] * 6 + [16]
    check(tmp_path)


def test_wide_rows_make_parts_of_fewer_rows_and_never_of_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_parts, "PART_BYTES", 16)
    assert rows_per_part(FORM) == 2
    assert rows_per_part(Form(FORM.plan, 4, width=1000)) == 1


def test_a_killed_build_goes_on_with_the_parts_that_are_missing(tmp_path: Path):
    asked = []

    def stops_at_row_30(rows: NDArray[np.int64]) -> Signals:
        if 30 in rows:
            raise KeyboardInterrupt
        return signals_of(rows)

    def counts(rows: NDArray[np.int64]) -> Signals:
        asked.extend(rows.tolist())
        return signals_of(rows)

    parts_dir = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        write_parts(parts_dir, ROWS, FORM, stops_at_row_30)
    assert missing_parts(parts_dir, 20, FORM) == [3, 4, 5, 6]
    assert sorted(path.name for path in parts_dir.iterdir()) == [
        f"part-{number:06d}" for number in range(3)
    ]
    write_parts(parts_dir, ROWS, FORM, counts)
    assert asked == ROWS[9:].tolist()
    finish(parts_dir, tmp_path, ROWS, FORM, sources={})
    check(tmp_path)


def test_a_full_disk_ends_the_build_and_leaves_no_half_part_and_no_thread(tmp_path: Path):
    """A part has 768 bytes, which wait in memory until it is finished. A file takes 600."""
    form = Form(SignalPlan(pooled=True), sequence_length=4, width=64)

    def wide(rows: NDArray[np.int64]) -> Signals:
        return Signals(pooled_BD=torch.ones(len(rows), 64))

    parts_dir, limits = tmp_path / "parts", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_parts(parts_dir, ROWS[:3], form, wide)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_parts(parts_dir, ROWS, form, wide)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in parts_dir.iterdir()] == ["part-000000"]
    assert not any(thread.name.startswith("behind") for thread in threading.enumerate())
    write_parts(parts_dir, ROWS, form, wide)
    assert missing_parts(parts_dir, len(ROWS), form) == []


def test_the_teacher_reads_the_next_rows_while_the_last_ones_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    began = {int(row): threading.Event() for row in ROWS}
    met: list[bool] = []
    encode_rows = cache_parts.encode_rows

    def notes(rows: NDArray[np.int64]) -> Signals:
        began[int(rows[0])].set()
        return signals_of(rows)

    def ends_after_the_next_begins(batch: OnHost, form: Form) -> tuple[dict[str, Records], Entries]:
        # Batches begin at rows 0, 6, 9, 15 and so on: the next one is of this part, or another.
        following = int(batch.tensors["pooled"][-1, 0]) + 3
        if following in began:
            met.append(began[following].wait(30))
        return encode_rows(batch, form)

    monkeypatch.setattr(cache_parts, "encode_rows", ends_after_the_next_begins)
    write_cache(tmp_path, ROWS, FORM, notes)
    assert met == [True] * 12
    check(tmp_path)


def test_the_teacher_is_at_most_two_batches_ahead_of_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, encoded, ahead = [], [], []
    encode_rows = cache_parts.encode_rows

    def notes(rows: NDArray[np.int64]) -> Signals:
        ahead.append(len(asked) - len(encoded))
        asked.append(rows)
        return signals_of(rows)

    def slowly(batch: OnHost, form: Form) -> tuple[dict[str, Records], Entries]:
        time.sleep(0.01)
        encoded.append(batch)
        return encode_rows(batch, form)

    monkeypatch.setattr(cache_parts, "encode_rows", slowly)
    write_cache(tmp_path, ROWS, FORM, notes)
    assert max(ahead) <= 2
    assert len(asked) == len(encoded) == 13


def test_a_batch_that_cannot_be_written_ends_the_build_and_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encode_rows, threads = cache_parts.encode_rows, set(threading.enumerate())

    def fails_at_row_9(batch: OnHost, form: Form) -> tuple[dict[str, Records], Entries]:
        if batch.tensors["pooled"][0, 0] == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode_rows(batch, form)

    monkeypatch.setattr(cache_parts, "encode_rows", fails_at_row_9)
    with pytest.raises(OSError, match="No space left"):
        write_parts(tmp_path, ROWS, FORM, signals_of)
    # The part's second batch, at row 15, may have been written: a part counts with all its rows.
    assert not part_dir(tmp_path, 1).exists() and part_dir(tmp_path, 0).is_dir()
    assert not list(tmp_path.glob("*.writing-*"))
    assert set(threading.enumerate()) <= threads


def test_a_teacher_that_says_nan_is_refused_before_its_part_is_kept(tmp_path: Path):
    def nan_at_row_30(rows: NDArray[np.int64]) -> Signals:
        signals = signals_of(rows)
        assert signals.pooled_BD is not None
        signals.pooled_BD[torch.from_numpy(rows == 30)] = torch.nan
        return signals

    with pytest.raises(RuntimeError, match=r"^the teacher is damaged$"):
        write_parts(tmp_path, ROWS, FORM, nan_at_row_30, not_finite="the teacher is damaged")
    assert part_dir(tmp_path, 2).is_dir() and not part_dir(tmp_path, 3).exists()


def test_a_part_that_another_made_meanwhile_is_kept_and_ours_is_dropped(tmp_path: Path):
    def slow(rows: NDArray[np.int64]) -> Signals:
        if not part_dir(tmp_path, 0).is_dir():
            write_part(tmp_path, 0, ROWS, FORM, signals_of)
        return Signals(pooled_BD=torch.zeros(len(rows), 2))

    write_part(tmp_path, 0, ROWS, FORM, slow)
    assert [path.name for path in tmp_path.iterdir()] == ["part-000000"]
    content = np.fromfile(part_dir(tmp_path, 0) / "states.bin", "<f4").reshape(-1, 2)
    assert content[:, 0].tolist() == [0, 3, 6]


def test_ranks_make_different_parts_and_all_of_them_together(tmp_path: Path):
    for rank, expected in ((1, [1, 4]), (0, [0, 1, 3, 4, 6]), (2, list(range(7)))):
        write_parts(tmp_path, ROWS, FORM, signals_of, rank=rank, num_ranks=3)
        assert sorted({*range(7)} - {*missing_parts(tmp_path, 20, FORM)}) == expected


def complete(parts_dir: Path, patience_s: float) -> list[int]:
    """Complete the parts; the first rows of those that were made for it."""
    made = []

    def counts(rows: NDArray[np.int64]) -> Signals:
        made.append(int(rows[0]))
        return signals_of(rows)

    complete_parts(
        parts_dir, ROWS, FORM, counts, patience_s=patience_s, check=lambda: None, poll_s=0.02
    )
    return made


def test_parts_that_nobody_is_at_are_made_at_once_from_the_end(tmp_path: Path):
    write_parts(tmp_path / "parts", ROWS, FORM, signals_of, rank=0, num_ranks=2)
    made = complete(tmp_path / "parts", 60)
    assert [row for row in made if row % 9 == 0] == [45, 27, 9]
    finish(tmp_path / "parts", tmp_path, ROWS, FORM, sources={})
    check(tmp_path)


def test_a_part_that_another_is_at_is_waited_for_until_it_stands_still(tmp_path: Path):
    write_parts(tmp_path, ROWS[:18], FORM, signals_of)
    theirs = tmp_path / "part-000006.writing-0badcafe"
    theirs.mkdir()
    stop = time.monotonic() + 1.5

    def keep_alive() -> None:
        while time.monotonic() < stop:
            os.utime(theirs)
            time.sleep(0.02)

    thread = threading.Thread(target=keep_alive)
    thread.start()
    assert complete(tmp_path, 0.7) == [54]
    assert time.monotonic() > stop
    thread.join()


def test_waiting_ends_when_a_stop_is_asked_for(tmp_path: Path):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete_parts(tmp_path, ROWS, FORM, signals_of, patience_s=60, check=stop)


def _write_slowly(parts_dir: Path, rank: int) -> None:
    def slowly(rows: NDArray[np.int64]) -> Signals:
        time.sleep(0.2)
        return signals_of(rows)

    write_parts(parts_dir, ROWS, FORM, slowly, rank=rank, num_ranks=2)


def test_two_processes_and_a_killed_one_that_is_started_again_write_one_whole_cache(
    tmp_path: Path,
):
    parts_dir = tmp_path / "parts"
    context = multiprocessing.get_context("fork")
    first, second, again = (
        context.Process(target=_write_slowly, args=(parts_dir, rank)) for rank in (0, 1, 0)
    )
    first.start()
    second.start()
    while not part_dir(parts_dir, 0).is_dir():
        time.sleep(0.01)
    first.kill()
    first.join(60)
    assert not part_dir(parts_dir, 6).is_dir()
    again.start()
    for process in (second, again):
        process.join(60)
    assert [process.exitcode for process in (first, second, again)] == [-signal.SIGKILL, 0, 0]
    assert missing_parts(parts_dir, 20, FORM) == []
    finish(parts_dir, tmp_path, ROWS, FORM, sources={})
    check(tmp_path)
