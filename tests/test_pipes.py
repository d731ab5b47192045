"""A command whose reader leaves ends as other tools do: with SIGPIPE's code and without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def unread(*command: str, words_too: bool = False) -> tuple[int, str]:
    """Exit code and words of a command of Python's whose stdout nobody reads, nor its stderr."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if words_too else subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.close()
    said = process.stderr.read() if process.stderr else ""
    if process.stderr:
        process.stderr.close()
    return process.wait(), said


@pytest.mark.parametrize(
    "command",
    [
        ("kdwatts", "--help"),
        ("kdwatts", "--cfg", "job"),
        ("kdwatts", "until=plan", "gpu=cpu", "training=smoke", "paradigm=sft"),
        ("kdwatts.telemetry", "--help"),
        ("multirun_analysis", "--help"),
    ],
    ids=" ".join,
)
def test_a_command_line_whose_reader_leaves_ends_quietly(command: tuple[str, ...]):
    assert unread("-m", *command) == (141, "")


def test_a_refusal_that_nobody_reads_ends_quietly_too():
    assert unread("-m", "kdwatts", "nope", words_too=True)[0] == 141


SCRIPT = """
import os, sys
from kdwatts.pipes import until_unread
with until_unread():
    print("words")
    {body}
"""


def test_the_exit_code_of_a_failure_stays_and_another_pipe_that_breaks_is_told():
    assert unread("-c", SCRIPT.format(body="sys.exit(3)")) == (3, "")
    assert unread("-c", SCRIPT.format(body="sys.exit(0)")) == (141, "")
    other = "r, w = os.pipe(); os.close(r); os.write(w, b'x')"
    command = [sys.executable, "-c", SCRIPT.format(body=other)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("BrokenPipeError: [Errno 32] Broken pipe")
