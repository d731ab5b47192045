"""A terminal of any encoding can be printed to, and a reader may leave without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdwatts.runtime.streams import aligned
from multirun_analysis.values.units import energy

ROOT = Path(__file__).parents[2]
PRINTS = "print('412 \\u00b1 21 kJ', chr(0xdcff))"
MAINS = {
    "multirun_analysis": "from multirun_analysis.__main__ import main\nmain(['status', '.'])",
    "kdwatts": "import sys\nfrom kdwatts.cli import main\nsys.argv[1:] = ['paradigm=']\n"
    "try: main()\nexcept SystemExit: pass",
    "kdwatts.telemetry": "from kdwatts.telemetry.__main__ import main\n"
    "main(['--interval', '-1', '--', 'true'])",
}


def run_in_ascii(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, env=environment, check=False
    )


def test_columns_are_as_wide_as_their_widest_cell_and_two_spaces_apart():
    assert aligned([("run", "state"), ("10-sft", ""), ("2", "done")]) == (
        "run     state\n10-sft\n2       done"
    )


@pytest.mark.parametrize("name", MAINS)
def test_after_an_entry_point_signs_that_ascii_lacks_are_printed_as_codes(name: str):
    ended = run_in_ascii("-c", f"{MAINS[name]}\n{PRINTS}")
    assert b"Traceback" not in ended.stderr, ended.stderr.decode()
    assert ended.returncode == 0
    assert ended.stdout.endswith(rb"412 \xb1 21 kJ \udcff" + b"\n")


def test_a_meter_s_summary_and_an_import_print_their_errors_in_ascii(tmp_path: Path):
    assert "±" in energy(412e3, error_j=21e3)
    metered = run_in_ascii(
        *("-m", "kdwatts.telemetry", "--out", str(tmp_path / "out"), "--idle", "0"),
        *("--cpu-estimate-tdp", "65", "--", sys.executable, "-c", "sum(range(10**6))"),
    )
    assert metered.returncode == 0 and rb"J \xb1 " in metered.stderr, metered.stderr
    imported = run_in_ascii(
        *("-m", "multirun_analysis", "import", str(ROOT / "tests" / "h100_runs")),
        *("--out", str(tmp_path / "imported")),
    )
    assert imported.returncode == 0, imported.stderr
    assert rb"306 \xb1 15 kJ measured" in imported.stdout


def unread(*command: str, words_too: bool = False) -> tuple[int, str]:
    """Exit code and words of a command of Python's whose stdout nobody reads, nor its stderr."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
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
from kdwatts.runtime.streams import until_unread
with until_unread():
    print("words")
    {body}
"""


def test_the_exit_code_of_a_failure_stays_and_another_pipe_that_breaks_is_told():
    assert unread("-c", SCRIPT.format(body="sys.exit(3)")) == (3, "")
    assert unread("-c", SCRIPT.format(body="sys.exit(0)")) == (141, "")
    other = "r, w = os.pipe(); os.close(r); os.write(w, b'x')"
    command = [sys.executable, "-c", SCRIPT.format(body=other)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("BrokenPipeError: [Errno 32] Broken pipe")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_the_shell_closed_changes_no_exit_code(closed: str):
    command = f'exec "$0" -m kdwatts.telemetry --nope {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this full disk")
def test_output_that_no_disk_takes_is_told_in_one_sentence():
    program = "from kdwatts.runtime.streams import until_unread\nwith until_unread(): print(1)"
    command = f'exec "$0" -c "{program}" > /dev/full'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], capture_output=True, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"kdwatts: stdout cannot be written (no space left on device);")
    assert done.stderr.count(b"\n") == 1
