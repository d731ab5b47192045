"""What one process of a machine holds so that no other takes it: a GPU, the folder of a run.

A hold is an abstract socket, which every user of the machine sees and which ends with its process,
however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

from kdwatts.telemetry.host import process_name
from kdwatts.telemetry.nvml import Device


@contextlib.contextmanager
def sole_user(gpus: Sequence[Device], *, allowed: bool) -> Iterator[None]:
    """Hold this run's GPUs within it, so that no other run on this node takes one of them.

    NVML names a process only once it has begun to compute, and a run that waits for another's
    teacher has not: two could pass each other's look. Where runs have network namespaces of their
    own, NVML's word is all there is.

    Raises RuntimeError when another run holds a GPU, unless `allowed`.
    """
    with contextlib.ExitStack() as held:
        for gpu in gpus:
            address = f"\0kdwatts/{gpu.uuid}"
            if not takes(held, address) and not allowed:
                raise RuntimeError(
                    f"{gpu.uuid} is held by another run of kdwatts, {holder(address)}; "
                    "energy would be misattributed; ask Slurm for a GPU of its own "
                    "(cluster.gres) or set telemetry.allow_shared=true"
                )
        yield


def takes(held: contextlib.ExitStack, address: str) -> bool:
    """Whether the address is this process's now, for as long as `held` is open.

    Elsewhere than on Linux there are no abstract sockets, and nothing is held.
    """
    if sys.platform != "linux":
        return True
    hold = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        hold.bind(address)
        hold.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def holder(address: str) -> str:
    """The process that listens at an abstract address."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.setblocking(False)
            peer.connect(address)
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except OSError:  # It ends, or so many have asked that no room is left.
        return "of which nothing is known"
    pid, _, _ = struct.unpack("3i", credentials)
    return f"pid {pid} ({process_name(pid)})"
