"""A meter on another host: a process of its own, whose clocks are ahead of ours.

    python -m tests.serving.other_host 3600 --listen 127.0.0.1:0 --out DIR

The first word is by how many seconds its monotonic clock and its wall clock are ahead. What follows
are options of `python -m kdwatts.telemetry`. The replaying NVML library keeps to the true clock.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def meter_elsewhere(
    folder: Path,
    *options: str,
    ahead_s: float = 0.0,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, str]]:
    """Process and address of a meter that listens. It ends with this, if it has not before."""
    words = ["--listen", f"127.0.0.1:{port}", "--out", str(folder), "--rapl-root", "/nowhere"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.other_host", str(ahead_s), *words, *options],
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process.pid, _address(process)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    lines = []
    for line in process.stderr:
        if " at http://" in line:
            return line.split()[-1]
        lines.append(line)
    raise RuntimeError("".join(lines))


def set_ahead(ahead_s: float) -> None:
    """Set both clocks of this process ahead, for every module that is imported from now on."""
    true_s, true = time.monotonic, datetime.datetime

    class Ahead(true):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return true.now(tz) + datetime.timedelta(seconds=ahead_s)

    time.monotonic = lambda: true_s() + ahead_s
    datetime.datetime = Ahead


if __name__ == "__main__":
    set_ahead(float(sys.argv[1]))
    from kdwatts.telemetry.__main__ import main

    sys.exit(main(sys.argv[2:]))
