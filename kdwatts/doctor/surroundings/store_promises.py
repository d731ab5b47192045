"""What a store must be able to do: be written, put files and folders in place at once, lease.

All of it is done for real, in a folder of its own below the store's root that is removed at the
end, by the functions of a run, with processes of this machine. Other machines are not asked.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kdwatts.artifacts.store import Store
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.surroundings import rename_reader
from kdwatts.doctor.surroundings.refusal_parts import finding_and_remedy
from kdwatts.records.doctor_record import Verdict
from kdwatts.records.files import write_json

LEAST_READS, LEAST_REPLACED = 300, 50
"""With fewer nothing is concluded: 300 reads without a fault exclude one in a hundred (95 %)."""
RULE_OF_THREE = 3.0
"""n trials without an event exclude, at 95 %, that it has a share above 3/n (Hanley and
Lippman-Hand 1983)."""
TEXT_BYTES = 200_000
NUM_FOLDERS, FILES_EACH, LEAST_WATCHED = 12, 5, 3
NUM_CLAIMS = 12
LEFT_OVER_S = 86_400.0
"""An examination takes two hours at most, and clocks of file servers are not off by a day."""
_TRIAL = ".doctor-"
ANOTHER_STORE = (
    "set store_dir, or KDWATTS_STORE, to a folder on a local disk or on a file system with atomic "
    "rename (ext4, XFS, NFS, Lustre)"
)


def store_promises(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts on the store that the configuration names."""
    store = Store(patient.config.store_dir)
    try:
        store.check_writable()
    except ValueError as refusal:
        found, remedy = finding_and_remedy(refusal)
        yield Verdict("store_writable", "wrong", found, "a file created below it", remedy)
        return
    found = f"files can be created in {store.root}"
    yield Verdict("store_writable", "right", found, "a file created below it")
    with trial_dir(store.root) as folder:
        yield _replacing(folder, seconds / 3)
        yield _committing(folder, seconds / 3)
        yield _leasing(folder, seconds / 3)


@contextmanager
def trial_dir(root: Path) -> Iterator[Path]:
    """A folder of its own below the store's root, which no run takes for an artifact's.

    Those that killed examinations left, up to a GB each, are removed.
    """
    for leftover in root.glob(f"{_TRIAL}*"):
        with suppress(OSError):  # Another one may remove it, too.
            if time.time() - leftover.stat().st_mtime > LEFT_OVER_S:
                shutil.rmtree(leftover, ignore_errors=True)
    folder = root / f"{_TRIAL}{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replacing(folder: Path, seconds: float) -> Verdict:
    """Whether a reader ever misses, or sees half of, a file that is replaced meanwhile."""
    name, path, text = "store_rename", folder / "replaced.json", "x" * TEXT_BYTES
    until_s, number = time.monotonic() + max(0.5, seconds / 2), 0
    write_json(path, {"first": 0, "text": text, "last": 0})
    with _watching([str(path)]) as reader:
        while number < LEAST_REPLACED or time.monotonic() < until_s:
            number += 1
            write_json(path, {"first": number, "text": text, "last": number})
        assert reader.stdin and reader.stdout
        reader.stdin.close()
        seen = json.loads(reader.stdout.readline())
    reads, bad = seen["reads"], seen["absent"] + seen["torn"]
    found = (
        f"a file was replaced {number} times; of {reads} reads by this machine meanwhile, "
        f"{seen['absent']} found none and {seen['torn']} a part"
    )
    against = "none of either: a rename that readers see at once"
    figure = {"value": bad / max(1, reads), "unit": "of reads"}
    if bad:
        return Verdict(name, "wrong", found, against, ANOTHER_STORE, **figure)
    if reads < LEAST_READS:
        return Verdict(name, None, f"{found}: too few", against, "give more --minutes")
    high = RULE_OF_THREE / reads
    return Verdict(name, "right", found, against, low=0.0, high=high, **figure)


def _committing(folder: Path, seconds: float) -> Verdict:
    """Whether an artifact comes into sight whole, and never in place of another."""
    name, stage = "store_commit", folder / "committed"
    against = "an artifact that is whole when it is first seen, and that no other replaces"
    stage.mkdir()
    until_s = time.monotonic() + seconds
    keys = [f"key-{index}" for index in range(NUM_FOLDERS)]
    num_whole = num_watched = num_made = 0
    with _watching([str(stage), str(FILES_EACH), *keys]) as reader:
        assert reader.stdout
        for key in keys:
            if num_watched >= LEAST_WATCHED and time.monotonic() > until_s:
                break
            try:
                _build(folder, stage.name, key)
            except (OSError, RuntimeError) as error:
                found, remedy = f"an artifact could not be put in place: {error}", ANOTHER_STORE
                return Verdict(name, "wrong", found, against, remedy)
            num_made += 1
            seen = json.loads(reader.stdout.readline())
            num_whole += seen["whole"]
            # Seen before it was there: only then is its coming what was watched.
            num_watched += seen["before"] > 0
    found = f"{num_made} artifacts were committed; {num_whole} were whole when they were first seen"
    if num_whole < num_made:
        return Verdict(name, "wrong", found, against, ANOTHER_STORE)
    if problem := _replaces(stage / keys[0], stage / keys[1]):
        return Verdict(name, "wrong", f"{found}; {problem}", against, ANOTHER_STORE)
    if num_watched < LEAST_WATCHED:
        found = f"{found}, but only {num_watched} by a reader that waited for them"
        return Verdict(name, None, found, against, "run again when the machine is less busy")
    found += "; a folder that exists was not replaced"
    return Verdict(name, "right", found, against)


def _build(folder: Path, stage: str, key: str) -> None:
    with Store(folder).claim(stage, key) as claim:
        if claim.exists:
            return
        for index in range(FILES_EACH):
            (claim.work_dir / f"{index}.bin").write_bytes(os.urandom(4096))
        claim.commit()


def _replaces(one: Path, other: Path) -> str | None:
    """What a rename of one folder to another's name did wrong. None where it was refused."""
    before = sorted(path.name for path in other.iterdir())
    try:
        one.rename(other)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            is_kept = sorted(path.name for path in other.iterdir()) == before
            return None if is_kept else "a folder was changed by a rename that was refused"
        return f"a rename to a folder that exists is refused with {error.strerror!r}"
    return "a folder took the place of one that existed"


def _leasing(folder: Path, seconds: float) -> Verdict:
    """Whether exactly one of two processes that claim an artifact at once has it."""
    name, stage, until_s = "store_leases", "leased", time.monotonic() + seconds
    against = "one: a file is created by one process alone (O_EXCL)"
    command = ["-P", "-m", "kdwatts.doctor.surroundings.lease_rival", str(folder), stage]
    winners: list[int] = []
    with _child(command) as rival:
        assert rival.stdin and rival.stdout
        for index in range(NUM_CLAIMS):
            if winners and time.monotonic() > until_s:
                break
            rival.stdin.write(f"key-{index}\n")
            rival.stdin.flush()
            with Store(folder).claim_if_free(stage, f"key-{index}") as claim:
                winners.append((claim is not None) + int(rival.stdout.readline()))
                rival.stdin.write("\n")
                rival.stdin.flush()
    if not _is_exclusive(folder / "exclusive"):
        found = "a file was created that was there (O_EXCL is ignored): two processes may build"
        return Verdict(name, "wrong", found, against, ANOTHER_STORE)
    wrong = [number for number in winners if number != 1]
    if wrong:
        found = f"two processes claimed {len(winners)} artifacts; {len(wrong)} of them had " + (
            "two builders" if max(wrong) == 2 else "no builder"
        )
        return Verdict(name, "wrong", found, against, ANOTHER_STORE)
    found = (
        f"two processes of this machine claimed {len(winners)} artifacts at once; each had one "
        "builder"
    )
    return Verdict(name, "right", found, against)


def _is_exclusive(path: Path) -> bool:
    """Whether a file that is there cannot be created again, on which leases rely."""
    path.touch()
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return True
    return False


@contextmanager
def _watching(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The reader, once it reads."""
    with _child(["-I", "-S", rename_reader.__file__, *words]) as reader:
        yield reader


@contextmanager
def _child(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A Python process that said that it is ready. It is gone after the block."""
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdin and process.stdout
    try:
        if not process.stdout.readline():
            raise RuntimeError(f"{' '.join(words[:3])} did not start; python is {sys.executable}")
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
