"""The process between us and a server. It ends the server, and all that it started, when we end.

`python -m kdwatts.serving.engines.guard OUR_PID COMMAND...`. It writes what happens to standard
output, a line of JSON each: {"pid": N} when the server was started, {"code": N} when it ended. The
server's own output goes to standard error. The guard ends the server when it gets SIGTERM, when its
standard input ends, or when it has another parent. It asks with SIGTERM, waits for every
descendant, and sends SIGKILL to those that are still there after a grace. Then it removes what
they left in /dev/shm.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from kdwatts.telemetry.descendants import (
    SIGNALS,
    adopt_orphans,
    as_shells,
    become,
    end_all,
    reap,
    signal_at_parents_death,
)

SHARED_MEMORY = Path("/dev/shm")

_LOOK_S = 1.0
"""Between two looks at our parent and at the names in /dev/shm."""


def guard(command: Sequence[str], our_pid: int) -> int:
    """Run a server until it ends or must end. Its exit code, as a shell states it.

    Only a process of its own calls this: all children of the process are taken for the server's.
    """
    received: list[int] = []
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    # Handlers, and not SIG_IGN, which the server would inherit. Whoever sends signals to a whole
    # job means us, and we decide when the server ends.
    for number in (*SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda n, _: received.append(n))
    adopt_orphans()
    there_before = _names()
    server = _start(command)
    _say({"pid": server})
    code = None
    known, left_behind = there_before, set[str]()
    stdin = sys.stdin.fileno()
    while code is None:
        ready, _, _ = select.select([stdin, woken], [], [], _LOOK_S)
        if woken in ready:
            os.read(woken, 4096)
        code = reap(server)
        if (names := _names()) - known:
            left_behind |= _held(names - there_before)
        known = names
        hung_up = stdin in ready and not os.read(stdin, 64)
        if hung_up or signal.SIGTERM in received or os.getppid() != our_pid:
            break
    if code is not None:
        _say({"code": as_shells(code)})
    left_behind |= _held(_names() - there_before)
    end_all()
    for name in left_behind:
        (SHARED_MEMORY / name).unlink(missing_ok=True)
    return as_shells(code) if code is not None else 0


def _start(command: Sequence[str]) -> int:
    """The process id of the server, which leads a session of its own."""
    guard_pid = os.getpid()
    # A signal between fork and exec would find our handlers, and the server would never see it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        # A guard that is killed cannot end its server. The kernel then asks the server to end.
        signal_at_parents_death(signal.SIGTERM)
        if os.getppid() != guard_pid:
            os._exit(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        become(command[0], command)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return pid


def _say(what: dict[str, int]) -> None:
    with contextlib.suppress(BrokenPipeError):  # Nobody is left to read it.
        os.write(1, f"{json.dumps(what)}\n".encode())


def _names() -> set[str]:
    with contextlib.suppress(OSError):
        return set(os.listdir(SHARED_MEMORY))
    return set()


def _held(names: set[str]) -> set[str]:
    """Those names in /dev/shm that a process below this one has mapped or open."""
    if not names:
        return set()
    held: set[str] = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            maps = Path(f"/proc/{process.pid}/maps").read_text("utf-8", "replace")
            held |= {name for name in names if f"{SHARED_MEMORY}/{name}\n" in maps}
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = Path(os.readlink(link))
                    held |= {target.name} & names if target.parent == SHARED_MEMORY else set()
    return held


if __name__ == "__main__":
    sys.exit(guard(sys.argv[2:], int(sys.argv[1])))
