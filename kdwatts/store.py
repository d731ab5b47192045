"""Content-addressed artifacts: a folder named by its fingerprint, complete as soon as it exists.

A builder fills a private sibling and renames it. One of many processes that want an artifact takes
a lease and builds, the others wait. A lease is a numbered file that its holder touches; who finds
it still for LEASE_TIMEOUT_S creates the next number, which exactly one can. Nothing relies on
file locks or on clocks that agree, so a store may lie on NFS.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

LEASE_TIMEOUT_S = 60.0
RENEW_EVERY_S = 10.0
POLL_EVERY_S = 0.2


@dataclass
class Claim:
    """An artifact that exists, or the right to build it in `work_dir`."""

    artifact_dir: Path
    exists: bool
    work_dir: Path
    """Private to this builder; becomes `artifact_dir` by `commit`."""
    scratch_dir: Path
    """Outlives a killed builder: checkpoints go here. Removed by `commit`."""
    _lease: Path | None = field(default=None, repr=False)

    def commit(self) -> None:
        """Make what was built visible to all, at once.

        Raises RuntimeError when another builder took over because this one stood still too long.
        """
        assert self._lease
        if _newest_lease(self.artifact_dir) != self._lease:
            raise RuntimeError(
                f"store: another process took over {self.artifact_dir} after {LEASE_TIMEOUT_S:g} s "
                "without a sign of life from this one; rerun to use what it built"
            )
        self.work_dir.rename(self.artifact_dir)
        shutil.rmtree(self.scratch_dir, ignore_errors=True)
        self.exists = True


class Store:
    """Artifacts under one root folder, by stage and key."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def artifact_dir(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def find(self, stage: str, key: str) -> Path | None:
        """The folder of a finished artifact, or None."""
        path = self.artifact_dir(stage, key)
        return path if path.is_dir() else None

    def check_writable(self) -> None:
        """Raise ValueError unless files can be made under the root."""
        probe = self.root / f".probe-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"store_dir={self.root} cannot be written ({error.strerror}); set store_dir or "
                "KDWATTS_STORE to a folder that can"
            ) from None

    @contextmanager
    def claim(self, stage: str, key: str) -> Iterator[Claim]:
        """The artifact, or after a wait the exclusive right to build it.

        A builder that leaves without `commit` gives the lease back and its half-made folder is
        removed; its scratch folder stays.
        """
        target = self.artifact_dir(stage, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        lease = None if target.is_dir() else _acquire(target)
        work_dir = target.with_name(f"{key}.building-{uuid.uuid4().hex[:8]}")
        claim = Claim(target, lease is None, work_dir, target.with_name(f"{key}.scratch"), lease)
        if lease is None:
            yield claim
            return
        for leftover in target.parent.glob(f"{key}.building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
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
            for old in _leases(target):
                if old.name <= lease.name:
                    old.unlink(missing_ok=True)


def _leases(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f"{target.name}.lease-*"))


def _newest_lease(target: Path) -> Path | None:
    leases = _leases(target)
    return leases[-1] if leases else None


def _acquire(target: Path) -> Path | None:
    """The lease on `target` once it is ours; None once the artifact is there instead."""
    announced = False
    while True:
        newest = _newest_lease(target)
        if newest is None or _holder_is_dead(newest):
            number = int(newest.name.rsplit("-", 1)[1]) + 1 if newest else 1
            lease = target.with_name(f"{target.name}.lease-{number:06d}")
            if _create(lease):
                if target.is_dir():  # Finished between the look and the lease.
                    lease.unlink()
                    return None
                return lease
        if target.is_dir():
            return None
        if not announced:
            log.info("store: waiting for %s, which another process builds", target)
            announced = True
        time.sleep(POLL_EVERY_S)


def _create(lease: Path) -> bool:
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    try:
        descriptor = os.open(lease, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        json.dump(holder, file)
    return True


def _renew(lease: Path, stop: threading.Event) -> None:
    while not stop.wait(RENEW_EVERY_S):
        try:
            os.utime(lease)
        except OSError as error:
            log.warning("store: cannot renew %s (%s); another process may take over", lease, error)


_first_seen: dict[tuple[Path, float], float] = {}
"""(lease, its time stamp) to when this process first saw it so, on this process's own clock."""


def _holder_is_dead(lease: Path) -> bool:
    """Whether the holder died on this host, or its lease has stood still for LEASE_TIMEOUT_S."""
    try:
        touched = lease.stat().st_mtime
        holder = json.loads(lease.read_text() or "{}")
    except (OSError, ValueError):
        holder, touched = {}, 0.0
    if holder.get("host") == socket.gethostname():
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # Another user's process: it lives, or its number was given anew.
    first_s = _first_seen.setdefault((lease, touched), time.monotonic())
    return time.monotonic() - first_s > LEASE_TIMEOUT_S
