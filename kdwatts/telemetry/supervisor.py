"""The process between the meter and a measured command. It ends the command when the meter dies.

The meter forks it before it has threads. It forks the process that will be the command, which waits
for the meter's word. So the command begins without the start of an interpreter inside the measured
time. The supervisor sleeps meanwhile. It tells signals to a whole process group from signals to the
meter alone. After a kill -9 of the meter, nothing that the command started is left running.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
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
"""Between SIGTERM and SIGKILL when the meter is dead."""

_GROUP_S = 0.05
"""A signal to a whole group reaches its processes one by one, all within this time."""
_SAME_S = 1.0
"""The supervisor's own signal of the same number counts as the same one for so long."""

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Supervisor:
    """The meter's side of the supervisor."""

    pid: int
    go: int
    """Descriptor: one byte starts the command, the end of the file dismisses it."""
    control: int
    """Descriptor: each signal to pass on, as one byte; its end means that the meter is dead."""

    def run(self) -> int:
        """Start the command and wait for it. Returns its exit code as a shell states it."""
        with contextlib.suppress(BrokenPipeError):  # It was killed; its exit code says so.
            os.write(self.go, b"!")
        return self._wait()

    def dismiss(self) -> None:
        """End the supervisor without starting the command."""
        os.close(self.go)
        self._wait()

    def _wait(self) -> int:
        return _as_shells(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))


def start(path: str, command: Sequence[str]) -> Supervisor:
    """The supervisor of a command whose program is at `path`. Run it or dismiss it.

    Call this while there is one thread.
    """
    go_read, go = os.pipe()
    control_read, control = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(go_read)
        os.close(control_read)
        return Supervisor(pid, go, control)
    code = 1
    try:
        os.close(go)
        os.close(control)
        code = _supervise(path, list(command), go_read, control_read)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _supervise(path: str, command: list[str], go: int, control: int) -> int:
    ignored = {n for n in SIGNALS if signal.getsignal(n) is signal.SIG_IGN}
    received_s: dict[int, float] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (*SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda n, _: received_s.update({n: time.monotonic()}))
    libc = ctypes.CDLL(None)
    # A daemon stays in the tree: its CPU time counts, and it is found when all must end.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        for number in SIGNALS:  # There is no command yet that they could mean.
            signal.signal(number, signal.SIG_IGN)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != me or not os.read(go, 1):
            os._exit(0)
        _become(path, command, ignored)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            code = _reap(pid)
            if code is not None:
                return _as_shells(code)
        if control in ready:
            numbers = os.read(control, 64)
            if not numbers:
                _end_all()
                return 1
            time.sleep(_GROUP_S)
            for number in numbers:
                # A signal that arrived here too went to the whole group, so the command has it.
                if time.monotonic() - received_s.get(number, -math.inf) > _SAME_S:
                    os.kill(pid, number)


def _become(path: str, command: list[str], ignored: set[signal.Signals]) -> NoReturn:
    """Replace this process by the command, with the signals as the meter's caller left them."""
    for number in SIGNALS:
        if number not in ignored:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them.
        signal.signal(number, signal.SIG_DFL)
    try:
        try:
            os.execv(path, command)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without #!, which execvp(3) gives to the shell.
            os.execv("/bin/sh", ["/bin/sh", path, *command[1:]])
    except OSError as error:
        print(f"kdwatts: cannot start {path}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_EXECUTABLE)


def _as_shells(code: int) -> int:
    return code if code >= 0 else 128 - code


def _reap(wanted: int | None = None) -> int | None:
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


def _end_all() -> None:
    """End every process below this one: SIGTERM, so that it can save, and SIGKILL after a while."""
    me = psutil.Process()
    for number in (signal.SIGTERM, signal.SIGKILL):
        signalled: set[int] = set()
        deadline_s = time.monotonic() + GRACE_S
        while time.monotonic() < deadline_s:
            _reap()
            left = me.children(recursive=True)
            if not left:
                return
            for process in left:
                if process.pid not in signalled:
                    signalled.add(process.pid)
                    with contextlib.suppress(psutil.Error):  # It has ended meanwhile.
                        process.send_signal(number)
            time.sleep(_GROUP_S)
