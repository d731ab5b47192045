"""Other users of this job's GPUs: refused at the start, or stated in every figure they spoil."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kdwatts.telemetry import host, nvml

log = logging.getLogger(__name__)

# The number that Linux gives the first namespace of processes (PROC_PID_INIT_INO).
_FIRST_NAMESPACE = "pid:[4026531836]"

_CUDA_DEVICE = "/dev/nvidia-uvm"
"""A process keeps this open from its first use of CUDA to its end. NVML does not open it."""

_here_before: set[int] = set()
"""Those on a GPU when this process first looked, before it used one itself: never its own."""
_has_looked = False
_taken_for_own: set[int] = set()
"""Numbers of another namespace that were this job's own when they were looked at."""


@dataclass
class _Sighting:
    """One process that is not ours, on one GPU."""

    uuid: str
    name: str
    last_s: float
    """Monotonic time of the latest look that found it."""


class Watch:
    """Looks for other processes on the GPUs of this job.

    Raises RuntimeError when another process is there at the start, or when a GPU is sliced. With
    `allowed` it does not raise: then the figures are those of the whole GPU and say so. A process
    that comes later never stops the run, but its figures are marked. `peers` are the other ranks of
    this run.
    """

    def __init__(
        self, gpus: Sequence[nvml.OpenDevice], *, allowed: bool, peers: Sequence[int] = ()
    ) -> None:
        self._gpus, self._peers = gpus, peers
        self._seen: dict[tuple[str, int], _Sighting] = {}
        self._sliced = [gpu.device.uuid for gpu in gpus if gpu.device.is_sliced]
        # NVML counts processes as the host does: inside a container our own look like a stranger.
        self._knows_own = not gpus or _namespace() == _FIRST_NAMESPACE
        if self._sliced and not allowed:
            raise RuntimeError(
                f"telemetry: {self._sliced[0]} is sliced by MIG, but its meter measures all slices "
                "together; use a whole GPU, or set telemetry.allow_shared=true to report all of it"
            )
        self._latest_look_s = 0.0
        self._look(first=True)
        if self._seen and not allowed:
            uuid = next(iter(self._seen.values())).uuid
            named = ", ".join(s.name for s in self._seen.values() if s.uuid == uuid)
            raise RuntimeError(
                f"telemetry: {uuid} is also used by {named}, so its energy would not be this run's "
                "alone; run alone, or set telemetry.allow_shared=true"
            )

    def look(self) -> None:
        """Look once more. In a container, the processes that were there at first stand for all.

        Only the numbers of this job's own are learned there, for later runs of this process.
        """
        if self._knows_own:
            self._look(first=False)
        else:
            present = {pid for gpu in self._gpus for pid in nvml.compute_pids(gpu)}
            _own_by_count(present - host.own_pids(self._peers), self._peers)

    def remark(self, since_s: float) -> str | None:
        """What to say about a GPU figure of a window since `since_s`.

        None if the GPUs are ours alone.
        """
        remarks = [f"{uuid} is sliced by MIG" for uuid in self._sliced]
        # Looks are rare: a process that was there at the latest one counts as still there.
        since_s = min(since_s, self._latest_look_s)
        present = [seen for seen in list(self._seen.values()) if seen.last_s >= since_s]
        for uuid in dict.fromkeys(seen.uuid for seen in present):
            named = ", ".join(seen.name for seen in present if seen.uuid == uuid)
            remarks.append(f"{uuid} is also used by {named}")
        return f"scope: whole_gpu, {'; '.join(remarks)}" if remarks else None

    def _look(self, *, first: bool) -> None:
        now_s = time.monotonic()
        present = [(gpu.device.uuid, pid) for gpu in self._gpus for pid in nvml.compute_pids(gpu)]
        own = host.own_pids(self._peers) if present else set()
        self._latest_look_s = now_s
        if not self._knows_own:
            own |= _own_by_count({pid for _, pid in present} - own, self._peers)
        for uuid, pid in present:
            if pid in own:
                continue
            last_s = now_s if self._knows_own else math.inf
            if (uuid, pid) in self._seen:
                self._seen[uuid, pid].last_s = last_s
                continue
            name = f"pid {pid} ({host.process_name(pid)})"
            self._seen[uuid, pid] = _Sighting(uuid, name, last_s)
            if not first:
                log.warning(
                    "telemetry: %s is now also used by %s; its figures state this", uuid, name
                )


def _own_by_count(unknown: set[int], peers: Sequence[int]) -> set[int]:
    """Those that are this job's own though their numbers are of another namespace.

    A second run in one process finds what the first left on the GPU. Whoever came since the first
    look is own if the job's processes that use CUDA are as many. If they are more, somebody else is
    among them: then those are own that were taken for it before, where there are not too many.
    """
    global _has_looked
    if not _has_looked:
        _here_before.update(unknown)
        _has_looked = True
    came = unknown - _here_before
    if not came:
        return set()
    num_own = host.num_holding(_CUDA_DEVICE, peers, with_this=_may_have_context())
    if len(came) <= num_own:
        _taken_for_own.update(came)
        return came
    known = came & _taken_for_own
    return known if len(known) <= num_own else set()


def _may_have_context() -> bool:
    """Whether this process can have something on a GPU.

    Asking torch for a GPU opens the device of CUDA, too, and leaves nothing on the GPU.
    """
    torch = sys.modules.get("torch")
    return torch is None or torch.cuda.is_initialized()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
