"""Processes below this one: adopted when they lose their parent, collected, ended to the last."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from typing import NoReturn

import psutil

SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What a terminal, a scheduler or a person sends to a job."""

EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
"""As shells exit; 128 + N stands for death by signal N."""

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""

_LOOK_S = 0.05

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Make this process the new parent of descendants that lose theirs.

    So a daemon stays in the tree: its CPU time counts, and it is found when all must end.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def signal_at_parents_death(number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def become(path: str, command: Sequence[str], ignored: Collection[int] = ()) -> NoReturn:
    """Replace this process by a command, with default signals but for those that stay ignored."""
    for number in SIGNALS:
        if number not in ignored:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them.
        signal.signal(number, signal.SIG_DFL)
    try:
        try:
            os.execv(path, list(command))
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without #!, which execvp(3) gives to the shell.
            os.execv("/bin/sh", ["/bin/sh", path, *command[1:]])
    except OSError as error:
        print(f"kdwatts: cannot start {path}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_EXECUTABLE)


def as_shells(code: int) -> int:
    """An exit code as a shell states it."""
    return code if code >= 0 else 128 - code


def reap(wanted: int | None = None) -> int | None:
    """Collect the children that ended; the exit code of the wanted one when it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == wanted:
            return os.waitstatus_to_exitcode(status)


def end_all(grace_s: float = GRACE_S) -> None:
    """End every process below this one: SIGTERM, so that it can save, and SIGKILL after a while."""
    me = psutil.Process()
    for number in (signal.SIGTERM, signal.SIGKILL):
        signalled: set[int] = set()
        deadline_s = time.monotonic() + grace_s
        while time.monotonic() < deadline_s:
            reap()
            left = me.children(recursive=True)
            if not left:
                return
            for process in left:
                if process.pid not in signalled:
                    signalled.add(process.pid)
                    with contextlib.suppress(psutil.Error):  # It has ended meanwhile.
                        process.send_signal(number)
            time.sleep(_LOOK_S)
