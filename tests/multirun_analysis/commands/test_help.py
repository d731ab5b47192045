"""What `--help` says to somebody who has never used the analysis or the meter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdwatts.telemetry.__main__ import main as meter
from multirun_analysis.__main__ import main as analysis


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (analysis, ["--help"], ["status DIR", "choose DIR", "import DIR --out DIR2", "examples:"]),
        (analysis, ["--help"], ["Open report.html", "exit codes: 0 all went well; 1 a run,"]),
        (analysis, ["status", "--help"], ["a line for each run of a sweep", "Exit code: 0, 1 if"]),
        (analysis, ["choose", "--help"], ["Says what to serve", "verdicts:", "exit codes:"]),
        (analysis, ["import", "--help"], ["records of another program", "--repeat-pattern"]),
        (meter, ["--help"], ["-- python train.py", "The exit code is 128 + N", "summary.json"]),
    ],
)
def test_help_says_what_a_command_does_and_how_it_ends(
    command: Callable[[list[str]], int],
    words: list[str],
    said: list[str],
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(SystemExit) as stop:
        command(words)
    printed = capsys.readouterr()
    assert (stop.value.code, printed.err) == (0, "")
    assert [part for part in said if part not in printed.out] == []
