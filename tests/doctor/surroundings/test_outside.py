"""The hub of models, and Slurm."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kdwatts.doctor.surroundings.hub_answer import asked, hub_answer
from kdwatts.doctor.surroundings.slurm_here import COMMANDS, slurm_here
from tests import hub_server
from tests.doctor.surroundings.looking import looked


def test_a_hub_that_answers_is_right(tmp_path):
    with hub_server.serving(tmp_path) as hub:
        found = asked(hub.url, patience_s=60)
    assert found.verdict == "right" and found.value and found.value > 0


def test_a_hub_that_refuses_needs_attention_and_says_why():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # Nobody listens.
        found = asked(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert found.verdict == "attention" and "refused" in found.found
    assert "until=prefetch" in (found.remedy or "")


def test_a_proxy_that_lets_nobody_through_is_no_hub():
    class Closed(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        found = asked(f"http://127.0.0.1:{proxy.server_port}", patience_s=60)
        proxy.shutdown()
    assert found.verdict == "attention" and "status 403" in found.found


def test_a_hub_that_is_silent_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        found = asked(f"http://127.0.0.1:{silent.getsockname()[1]}", patience_s=1)
        assert time.monotonic() - began_s < 30  # Most of it loads the hub's library.
    assert found.verdict == "attention" and "within 1 s" in found.found


def test_offline_mode_is_said_and_nothing_is_asked():
    found = looked(hub_answer, "gpu=cpu")["hub"]
    assert found.verdict is None and "HF_HUB_OFFLINE" in found.found


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts stand-ins of Slurm's commands on an otherwise empty path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)

    def write(*names: str, sinfo: str = "") -> None:
        for name in names:
            (tmp_path / name).write_text(f"#!/bin/sh\n{sinfo if name == 'sinfo' else ''}\n")
            (tmp_path / name).chmod(0o755)

    return write


SINFO = "echo 'main*|(null)'; echo 'cards|gpu:h100:8(S:0-1)'; echo 'cards|gpu:a100:4'"


def test_without_slurm_nothing_is_judged(put):
    found = looked(slurm_here, "gpu=cpu")
    assert [(one.name, one.verdict, one.found) for one in found.values()] == [
        ("slurm", None, "no Slurm here")
    ]


def test_a_part_of_the_commands_needs_attention(put):
    put("sbatch", "srun")
    found = looked(slurm_here, "gpu=cpu")["slurm"]
    assert found.verdict == "attention" and "squeue, sacct, sinfo" in found.found


def test_a_cluster_that_does_not_answer_needs_attention(put):
    put(*COMMANDS, sinfo="exit 1")
    assert looked(slurm_here, "gpu=cpu")["slurm"].verdict == "attention"


def test_the_job_around_is_named(put, monkeypatch):
    put(*COMMANDS, sinfo=SINFO)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    found = looked(slurm_here, "gpu=cpu")["slurm"]
    assert found.verdict == "right" and "job 4711" in found.found and "main, cards" in found.found


@pytest.mark.parametrize(
    "partition, gres, verdict, word",
    [
        ("cards", "gpu:h100:1", "right", "has it"),
        ("cards", "gpu:2", "right", "has it"),
        ("null", "gpu:a100:1", "right", "has it"),
        ("h100", "gpu:h100:1", "attention", "no such partition"),
        ("main", "gpu:h100:1", "attention", "no node there"),
        ("cards", "gpu:l40s:1", "attention", "no node there"),
    ],
)
def test_what_jobs_ask_for_is_looked_up(put, partition, gres, verdict, word):
    put(*COMMANDS, sinfo=SINFO)
    words = ("gpu=h100", f"cluster.partition={partition}", f"cluster.gres='{gres}'")
    found = looked(slurm_here, *words)["slurm_partition"]
    assert found.verdict == verdict and word in found.found
