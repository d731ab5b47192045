"""Servers on a timetable, each a process of its own on a free port."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

SERVER = Path(__file__).parent / "timetable_server.py"


@pytest.fixture
def timetable_server() -> Iterator[Callable[..., str]]:
    """Starts a server with settings of Timetable; its URL. It ends with the test."""
    with ExitStack() as stack:

        def start(**settings: object) -> str:
            process = subprocess.Popen(
                [sys.executable, str(SERVER), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            # The context closes its pipes and waits; without input the server ends.
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout
            word, url = process.stdout.readline().split()
            assert word == "ready"
            return url

        yield start
