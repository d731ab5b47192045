"""The store: a folder for each artifact, named by its key, complete as soon as it exists.

A builder fills a private folder beside the artifact's and renames it. When many processes want the
same artifact, one takes a lease and builds, and the others wait. A lease is a numbered file that
its holder touches. Whoever finds it untouched for LEASE_TIMEOUT_S creates the file with the next
number, which only one process can do. Numbers are used again after a holder gave up, so a lease is
ours only while it contains what we wrote. Nothing relies on file locks or on equal clocks, so a
store may be on NFS.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kdwatts.runtime import interrupt
from kdwatts.runtime.paths import expanded
from kdwatts.runtime.ranks import host_and_space

log = logging.getLogger(__name__)

LEASE_TIMEOUT_S = 60.0
ABANDONED_S = 600.0
"""A lease that the file server has seen untouched for this long is dead at the first look.

A process that does not wait has no second look.
"""
RENEW_EVERY_S = 10.0
POLL_EVERY_S = 0.2
LONGEST_POLL_S = 2.0
"""Seconds between looks in a long wait: many jobs that look five times a second burden a server."""


@dataclass(frozen=True)
class _Lease:
    """The right to build `target`, while its file is the newest and says what its holder wrote."""

    target: Path
    path: Path
    text: str

    def is_held(self) -> bool:
        try:
            return (
                _newest_lease(self.target) == self.path
                and self.path.read_text("utf-8") == self.text
            )
        except FileNotFoundError:
            return False

    def give_back(self) -> None:
        """Remove it and those it superseded; whoever took over removes it otherwise."""
        if self.is_held():
            for lease in _leases(self.target):
                if lease <= self.path:
                    lease.unlink(missing_ok=True)


@dataclass
class Claim:
    """An artifact that exists, or the right to build it in `work_dir`."""

    artifact_dir: Path
    exists: bool
    work_dir: Path
    """Private to this builder. `commit` turns it into `artifact_dir`."""
    scratch_dir: Path
    """Survives a killed builder: checkpoints go here. `commit` removes it."""
    _lease: _Lease | None = field(default=None, repr=False)

    def commit(self) -> None:
        """Make the built artifact visible to all, at once.

        Raises RuntimeError when another builder took over because this one gave no sign of life.
        """
        assert self._lease
        built = None
        try:
            built = self.work_dir.stat().st_ino
            for path in self.work_dir.rglob("*"):
                if path.is_file():
                    as_readable_as(self._lease.path, path)
            flush(self.work_dir)
            held = self._lease.is_held()
            if held:
                self.work_dir.rename(self.artifact_dir)
        except OSError as error:
            # The process that took over has moved our folder away, or has finished the artifact.
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
                raise
            # NFS also reports this for a rename that it got twice, since its first answer was lost.
            held = self.artifact_dir.is_dir() and self.artifact_dir.stat().st_ino == built
        if not held:
            raise RuntimeError(
                f"store: another process took over {self.artifact_dir}, since this one gave no "
                f"sign of life for {LEASE_TIMEOUT_S:g} s; run again to use what the other process "
                "built"
            )
        shutil.rmtree(self.scratch_dir, ignore_errors=True)
        self.exists = True


class Store:
    """Artifacts under one root folder, by stage and key."""

    def __init__(self, root: str | Path) -> None:
        # An empty Path would be the current folder, but an empty setting is refused.
        self.root = Path(expanded(str(root))).resolve()

    def artifact_dir(self, stage: str, key: str) -> Path:
        """The folder that an artifact has, or will have."""
        return self.root / stage / key

    def finished_dir(self, stage: str, key: str) -> Path | None:
        """The folder of a finished artifact. None where there is none."""
        path = self.artifact_dir(stage, key)
        return path if path.is_dir() else None

    def scratch_dir(self, stage: str, key: str) -> Path:
        """The folder that outlives who builds an artifact, until it is finished."""
        return self.root / stage / f"{key}.scratch"

    def check_writable(self) -> None:
        """Raise ValueError unless files can be created under the root."""
        probe = self.root / f".probe-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"store_dir={self.root} cannot be written ({error.strerror}); set store_dir or "
                "KDWATTS_STORE to a folder that you can write to"
            ) from None

    @contextmanager
    def claim(self, stage: str, key: str) -> Iterator[Claim]:
        """A context with the artifact or, after a wait, the sole right to build it.

        A builder that leaves without `commit` gives the lease back. Its half-made folder is
        removed, its scratch folder stays. Raises Preempted when a stop is requested during the
        wait.
        """
        with self._claimed(stage, key, waits=True) as claim:
            assert claim
            yield claim

    @contextmanager
    def claim_if_free(self, stage: str, key: str) -> Iterator[Claim | None]:
        """Like `claim`, but without a wait: None when another live process builds the artifact."""
        with self._claimed(stage, key, waits=False) as claim:
            yield claim

    @contextmanager
    def _claimed(self, stage: str, key: str, *, waits: bool) -> Iterator[Claim | None]:
        target = self.artifact_dir(stage, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        lease = None if target.is_dir() else _acquire(target, waits=waits)
        if lease is None and not target.is_dir():
            yield None
            return
        work_dir = target.with_name(f"{key}.building-{uuid.uuid4().hex[:8]}")
        claim = Claim(target, lease is None, work_dir, self.scratch_dir(stage, key), lease)
        if lease is None:
            yield claim
            return
        for leftover in target.parent.glob(f"{key}.building-*"):
            _discard(leftover)
        stop = threading.Event()
        renewer = threading.Thread(target=_renew, args=(lease, stop), daemon=True)
        renewer.start()
        try:
            work_dir.mkdir()
            yield claim
        finally:
            stop.set()
            renewer.join()
            shutil.rmtree(work_dir, ignore_errors=True)
            try:
                lease.give_back()
            except OSError as error:  # What is built is built, and what stopped it is what to tell.
                log.warning("store: cannot release the lease %s (%s)", lease.path, error)


def _leases(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f"{target.name}.lease-*"))


def _newest_lease(target: Path) -> Path | None:
    leases = _leases(target)
    return leases[-1] if leases else None


def _acquire(target: Path, *, waits: bool) -> _Lease | None:
    """The lease on `target` once it is ours; None once the artifact is there instead.

    Who does not wait is given None for another's living lease, too.
    """
    announced, pause_s = False, POLL_EVERY_S
    while True:
        newest = _newest_lease(target)
        if newest is None or not is_alive(newest):
            lease = _create(target, newest)
            if lease and target.is_dir():  # Finished between the look and the lease.
                lease.give_back()
                return None
            if lease:
                return lease
        if target.is_dir() or not waits:
            return None
        if not announced:
            log.info("store: waiting for %s, which another process is building", target)
            announced = True
        interrupt.stop_if_requested("what it waited for is built by another process")
        time.sleep(pause_s)
        pause_s = min(1.1 * pause_s, LONGEST_POLL_S)


def _create(target: Path, newest: Path | None) -> _Lease | None:
    """The lease that follows `newest`, or None when another process was faster."""
    number = int(newest.name.rpartition("-")[2]) + 1 if newest else 1
    path = target.with_name(f"{target.name}.lease-{number:06d}")
    text = json.dumps({"host": host_and_space(), "pid": os.getpid(), "claim": uuid.uuid4().hex})
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    # Since the look, `newest` may have been released, and a live process may hold its number.
    if _newest_lease(target) == path and not (newest and is_alive(newest)):
        return _Lease(target, path, text)
    path.unlink()
    return None


def _renew(lease: _Lease, stop: threading.Event) -> None:
    while not stop.wait(RENEW_EVERY_S):
        try:
            if lease.is_held():
                os.utime(lease.path)
                continue
            log.warning("store: another process took over %s", lease.target)
            return
        except OSError as error:
            log.warning(
                "store: cannot renew the lease %s (%s); another process may take over",
                lease.path,
                error,
            )


_first_seen: dict[tuple[Path, float], float] = {}
"""(lease, its time stamp) to when this process first saw it so, on this process's own clock."""


def is_alive(lease: Path) -> bool:
    """Whether a lease exists, was touched within LEASE_TIMEOUT_S, and its holder may be alive."""
    try:
        touched = lease.stat().st_mtime
        holder = json.loads(lease.read_text("utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        holder = {}  # Its holder is about to write it.
    if holder.get("host") == host_and_space():
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # Another user's process: it lives, or its number was given anew.
    if (lease, touched) not in _first_seen:
        still_s = _now_of(lease.parent) - touched
        _first_seen[lease, touched] = time.monotonic() - (still_s if still_s > ABANDONED_S else 0)
    return time.monotonic() - _first_seen[lease, touched] <= LEASE_TIMEOUT_S


def _now_of(directory: Path) -> float:
    """The time on the clock that stamps the files there, whoever's that is."""
    probe = directory / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def as_readable_as(like: Path, path: Path) -> None:
    """Give a file the read and write permissions of `like`, which come from the umask.

    Some libraries make files that only their owner can read. A group's store must not hold them.
    """
    wanted, found = (file.stat().st_mode & 0o666 for file in (like, path))
    if wanted & ~found:
        path.chmod(path.stat().st_mode | wanted)


def flush(directory: Path) -> None:
    """Bring files and their names to the disk, so that no crash leaves files that are hollow."""
    for path in [*directory.rglob("*"), directory]:
        if path.is_file() or path.is_dir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            except OSError:
                if path.is_file():  # Some file systems keep names by themselves.
                    raise
            finally:
                os.close(descriptor)


def _discard(leftover: Path) -> None:
    """Move a folder away, then remove it: its builder, if it wakes, must not commit half of it."""
    moved = leftover.with_name(f"{leftover.name}.discarded")
    try:
        leftover.rename(moved)
    except FileNotFoundError:
        return
    shutil.rmtree(moved, ignore_errors=True)
