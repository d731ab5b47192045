"""What a command line asks for, refuses, sends to Slurm and fetches."""

from __future__ import annotations

from kdwatts.runtime.interrupt import ended_in_a_sentence
from kdwatts.runtime.whole_install import needs_the_whole_install


def main() -> None:
    """Entry of `python -m kdwatts` and of the console script."""
    with ended_in_a_sentence("kdwatts"):
        with needs_the_whole_install("kdwatts"):
            from kdwatts.cli import command_line
        command_line.main()
