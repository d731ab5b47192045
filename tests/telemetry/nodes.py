"""Nodes of a run, a process each, on the replaying library with a trace and a clock of their own.

    python -m tests.telemetry.nodes DIR NUMBER PORT

meters one node until SIGTERM, prints where it answers, and takes settings of the replaying library
from its environment.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.telemetry.conftest import REPOSITORY

TOKEN = "s3cret"

FIRST = f"""
import signal
from kdwatts.telemetry.other_nodes import OtherNode
settings = Telemetry(rapl_root="/nowhere", idle_s=0)
others = [OtherNode(2, os.environ["OTHER_URL"], {TOKEN!r})]
"""
"""How the script of a first rank begins: `settings` and `others` are for its meter."""


@functools.cache
def why_no_time_namespace() -> str:
    """Why no process here can have a monotonic clock of its own; empty where one can."""
    try:
        subprocess.run([*_ahead(1.0), "true"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        return "unshare of util-linux is not installed"
    except subprocess.CalledProcessError as error:
        return f"time namespaces need root: {error.stderr.strip()}"
    return ""


def _ahead(seconds: float) -> list[str]:
    return ["unshare", "--time", "--monotonic", str(int(seconds)), "--fork", "--kill-child"]


@contextmanager
def node(
    nvml_dir: Path,
    folder: Path,
    power_w: str,
    *,
    ahead_s: float = 0.0,
    port: int = 0,
    start_s: float | None = None,
    **settings: object,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Process and URL of the second node, whose trace says `power_w`. It ends with this.

    Its monotonic clock is `ahead_s` ahead of ours. On our clock its trace begins at `start_s`.
    Other keywords are settings of the replaying library.
    """
    if ahead_s and (why := why_no_time_namespace()):
        pytest.skip(why)
    trace = folder / "trace_of_node_2.txt"
    trace.write_text(power_w)
    settings |= {"trace": trace, "first_uuid": 16}
    if start_s is not None:
        settings["start_s"] = start_s + ahead_s
    environment = {f"NVML_REPLAY_{name.upper()}": str(value) for name, value in settings.items()}
    hidden = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-m", "tests.telemetry.nodes", str(folder), str(port)]
    process = subprocess.Popen(
        [*(_ahead(ahead_s) if ahead_s else []), *command],
        cwd=REPOSITORY,
        env=kept | {"LD_LIBRARY_PATH": str(nvml_dir)} | environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            with contextlib.suppress(ProcessLookupError):
                for number in (signal.SIGCONT, signal.SIGTERM):
                    os.killpg(process.pid, number)


def _answer_until_told(folder: Path, port: int) -> None:
    from kdwatts.config.machine import Telemetry
    from kdwatts.telemetry.node_listener import answering_node
    from kdwatts.telemetry.node_meter import NodeMeter
    from kdwatts.telemetry.tallies_over_http import Listener

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    settings = Telemetry(rapl_root="/nowhere", idle_s=0)
    if port:  # As no node of a run does: it comes back at the address of one that died.
        listener = Listener("127.0.0.1", port, TOKEN)
        with NodeMeter(folder, settings, number=2) as meter, listener.answering(meter):
            print(listener.url, flush=True)
            signal.sigwait({signal.SIGTERM})
        return
    with answering_node(
        folder,
        settings,
        attempt=1,
        number=2,
        use_gpus=True,
        peers=(),
        token=TOKEN,
        reach=("127.0.0.1", 9),
    ) as url:
        print(url, flush=True)
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    _answer_until_told(Path(sys.argv[1]), int(sys.argv[2]))
