"""Servers from their start to their last process: a small real server stands in for vLLM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from kdwatts.runtime import interrupt
from kdwatts.serving.engines import starting
from kdwatts.serving.engines.guarded import guarded
from kdwatts.serving.engines.http_get import get
from kdwatts.serving.engines.server import Server
from tests.waits import wait_until

Serve = Callable[..., AbstractContextManager[Server]]

PROGRAM = """
import sys, time
from pathlib import Path
from kdwatts.config.serving import Serving, Vllm
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.starting import running

python, log_path, *flags = sys.argv[1:]
settings = Serving(engine="vllm", vllm=Vllm(python=python, flags=flags))
model = ServedModel("somebody/model", "student", "float32", None, 512)
with running(settings, model, log_path=Path(log_path)) as server:
    print(server.pid, server.url, flush=True)
    time.sleep(600)
"""
"""A run that has a server, for a test that kills it."""


@pytest.fixture
def memory() -> Any:
    path = Path(f"/dev/shm/kdwatts-test-{os.getpid()}")
    yield path
    for left in (path, Path(f"{path}.pid")):
        left.unlink(missing_ok=True)


def _is_open(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=1).close()
    except OSError:
        return False
    return True


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_healthy_server_says_who_it_is_and_is_gone_afterwards(serve: Serve, tmp_path: Path):
    with serve("--max-num-seqs=8") as server:
        assert server.pid is not None
        processes = [server.pid, *(p.pid for p in psutil.Process(server.pid).children(True))]
        assert len(processes) >= 2
        assert server.pid in {p.pid for p in psutil.Process().children()}
        assert (server.dialect, server.model, server.max_positions) == ("vllm", "student", 512)
        assert server.why_dead() is None
        assert server.record.version == "9.9.0"
        assert server.record.precision == "float32"
        assert server.record.quantization is None
        assert server.record.flags == [
            "--dtype=float32",
            "--seed=0",
            "--disable-uvicorn-access-log",
            "--generation-config=vllm",
            "--max-model-len=512",
            "--enforce-eager",
            "--max-num-seqs=8",
            "VLLM_CPU_KVCACHE_SPACE=1",
        ]
    assert not any(map(_lives, processes))
    assert not _is_open(server.url)
    first = (tmp_path / "server.log").read_text().split("\n")[0]
    assert all(flag in first for flag in server.record.flags[:-1])


def test_the_engines_own_counters_are_computed_prompts_and_output_of_all_its_engines(serve: Serve):
    with serve() as server:
        assert server.read_counters() == {"computed_prompt_tokens": 70.0, "output_tokens": 42.0}


def test_a_server_that_refuses_its_model_is_quoted_and_not_its_last_traceback(serve: Serve):
    with (
        pytest.raises(
            RuntimeError,
            match=r"student: vllm did not start, as vllm ended with exit code 1, its last words: "
            r"ValueError: The model has no heads \(its log is .*server\.log\)$",
        ),
        serve("--behaviour=dies"),
    ):
        pass


def test_a_server_that_never_gets_healthy_is_ended_in_a_sentence(serve: Serve):
    before = set(psutil.Process().children())
    with (
        pytest.raises(
            RuntimeError,
            match=r"did not get healthy within eval\.serving\.start_timeout_s=4 s, its last words",
        ),
        serve("--behaviour=never_healthy", start_timeout_s=4.0),
    ):
        pass
    assert set(psutil.Process().children()) <= before


def test_a_port_that_another_server_took_is_named_though_that_one_is_healthy(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    with serve() as other:
        port = urlsplit(other.url).port
        monkeypatch.setattr(starting, "_free_port", lambda: port)
        with (
            pytest.raises(
                RuntimeError,
                match=rf"student: vllm did not start, as port {port} was taken by another program; "
                r"run the same command again$",
            ),
            serve(),
        ):
            pass
        assert other.why_dead() is None


def test_a_server_that_dies_later_says_why(serve: Serve):
    with serve() as server:
        assert get(f"{server.url}/die") is None
        wait_until(lambda: server.why_dead() is not None)
        assert "vllm ended with exit code 3, its last words: OSError: the GPU fell off" in (
            server.why_dead() or ""
        )
        assert server.read_counters() is None


def test_a_server_that_is_killed_says_by_which_signal(serve: Serve):
    with serve() as server:
        (child,) = psutil.Process(server.pid).children()
        child.kill()
        wait_until(lambda: server.why_dead() is not None)
        assert "vllm was ended by SIGKILL" in (server.why_dead() or "")


def test_a_signal_while_a_server_loads_ends_the_wait_and_the_server(serve: Serve):
    before = set(psutil.Process().children())
    with (
        interrupt.deferred(),
        pytest.raises(interrupt.Preempted, match="student: its server is started anew"),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        with serve("--behaviour=never_healthy"):
            pass
    assert set(psutil.Process().children()) <= before


def test_a_kill_of_the_run_leaves_no_process_no_port_and_no_memory(
    stand_in_python: str, tmp_path: Path, memory: Path
):
    """Also not of a daemon in a session of its own that ignores SIGTERM."""
    arguments = [stand_in_python, str(tmp_path / "server.log"), f"--memory={memory}"]
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout
        guard_pid, url = run.stdout.readline().split()
        daemon_pid = int(Path(f"{memory}.pid").read_text())
        assert memory.exists()
        run.kill()
    wait_until(lambda: not _lives(int(guard_pid)))
    assert not _lives(daemon_pid)
    assert not _is_open(url)
    assert not memory.exists()


def test_a_killed_guard_takes_its_server_with_it(serve: Serve):
    with serve() as server:
        assert server.pid is not None
        (child,) = psutil.Process(server.pid).children()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: server.why_dead() is not None)
    assert not _lives(child.pid)
    assert not _is_open(server.url)


def test_a_server_whose_guard_was_killed_has_time_to_remove_what_it_made(tmp_path: Path):
    made = tmp_path / "made"
    script = (
        "import signal, sys, time; from pathlib import Path; made = Path(sys.argv[1])\n"
        "def end(*_): time.sleep(0.5); made.unlink(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); made.write_text('mine'); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(made)]
    with guarded(command, os.environ, tmp_path / "server.log") as server:
        wait_until(lambda: made.exists() and made.read_text() == "mine")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: server.exit_code is not None)
    assert not made.exists()
