"""Our side of the guard: a server that we start, ask after, and stop to its last process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from kdwatts.runtime.paths import PACKAGE_DIR
from kdwatts.serving.engines.last_words import last_words
from kdwatts.telemetry.descendants import GRACE_S

log = logging.getLogger(__name__)

_PATIENCE_S = 2 * GRACE_S + 5.0
"""For a guard, which takes GRACE_S for each of SIGTERM and SIGKILL at most."""

# The guard is of this interpreter and imports what we do, whatever the server's environment says.
_GUARD = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from kdwatts.serving.engines.guard import guard; "
    "sys.exit(guard(sys.argv[2:], int(sys.argv[1])))"
)


class Guarded:
    """A server under a guard."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        assert process.stdout
        self._process, self._log_path = process, log_path
        os.set_blocking(process.stdout.fileno(), False)
        self._unread = b""
        self._said: dict[str, int] = {}

    @property
    def pid(self) -> int:
        """The guard. All that it started, daemons too, stays below it."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The server's, as a shell states it. None while it runs."""
        self._listen()
        if "code" not in self._said and self._process.poll() is not None:
            self._listen()
            return self._said.get("code", 128 + signal.SIGKILL)
        return self._said.get("code")

    def why_dead(self, name: str) -> str | None:
        """One sentence with the server's last words when it has ended. None while it runs."""
        code = self.exit_code
        if code is None:
            return None
        how = f"ended with exit code {code}"
        if code > 128:
            with contextlib.suppress(ValueError):  # Some programs exit with such a code.
                how = f"was ended by {signal.Signals(code - 128).name}"
        words = last_words(self._log_path)
        said = f", its last words: {words}" if words else " and wrote nothing"
        return f"{name} {how}{said} (its log is {self._log_path})"

    def stop(self) -> None:
        """End the server with all that it started, and wait for the last of them."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            log.warning("the guard of a server did not end within %g s and is killed", _PATIENCE_S)
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self._process.kill()
            self._process.wait()
        self._listen()
        self._process.stdout.close()
        if self._process.returncode < 0 and "pid" in self._said:
            _kill_session(self._said["pid"])

    def _listen(self) -> None:
        assert self._process.stdout
        while not self._process.stdout.closed and (piece := self._process.stdout.read(4096)):
            *lines, self._unread = (self._unread + piece).split(b"\n")
            for line in lines:
                self._said |= json.loads(line)


@contextmanager
def guarded(
    command: Sequence[str], environment: Mapping[str, str], log_path: Path
) -> Iterator[Guarded]:
    """A server that runs in this context. What it writes goes to the file.

    It ends with the context, with this process however that ends, and with all that it started.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    places = os.pathsep.join(dict.fromkeys([str(PACKAGE_DIR.parent), *filter(None, sys.path)]))
    with log_path.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _GUARD, places, str(os.getpid()), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=environment,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for us, and we end the server in our own time.
        )
    server = Guarded(process, log_path)
    try:
        yield server
    finally:
        server.stop()


def _kill_session(session: int) -> None:
    """End what a killed guard left: the processes of the session that its server led.

    The kernel sent the server a SIGTERM as the guard died. It has a while to remove what it has in
    /dev/shm, which nobody else knows of.
    """
    started_s = time.monotonic()
    while (waited_s := time.monotonic() - started_s) < 2 * GRACE_S:
        left = [pid for pid in psutil.pids() if _is_of(pid, session)]
        if not left:
            return
        for pid in left if waited_s > GRACE_S else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _is_of(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False
