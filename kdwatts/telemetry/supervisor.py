"""The process between the meter and a measured command. It ends the command when the meter dies.

The meter forks it before it has threads. It forks the process that will be the command, which waits
for the meter's word. So the command begins without the start of an interpreter inside the measured
time. The supervisor sleeps meanwhile. It tells signals to a whole process group from signals to the
meter alone. After a kill -9 of the meter, nothing that the command started is left running.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from kdwatts.telemetry.descendants import (
    SIGNALS,
    adopt_orphans,
    as_shells,
    become,
    end_all,
    reap,
    signal_at_parents_death,
)

_GROUP_S = 0.05
"""A signal to a whole group reaches its processes one by one, all within this time."""
_SAME_S = 1.0
"""The supervisor's own signal of the same number counts as the same one for so long."""


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
        return as_shells(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))


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
    adopt_orphans()
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        for number in SIGNALS:  # There is no command yet that they could mean.
            signal.signal(number, signal.SIG_IGN)
        signal_at_parents_death(signal.SIGKILL)
        if os.getppid() != me or not os.read(go, 1):
            os._exit(0)
        become(path, command, ignored)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            code = reap(pid)
            if code is not None:
                return as_shells(code)
        if control in ready:
            numbers = os.read(control, 64)
            if not numbers:
                end_all()
                return 1
            time.sleep(_GROUP_S)
            for number in numbers:
                # A signal that arrived here too went to the whole group, so the command has it.
                if time.monotonic() - received_s.get(number, -math.inf) > _SAME_S:
                    os.kill(pid, number)
