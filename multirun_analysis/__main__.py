"""`python -m multirun_analysis`: tables and a page about runs, or one of the other commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kdwatts.runtime.streams import print_anywhere, until_unread
from multirun_analysis.commands import choose, import_runs, report_command, status

COMMANDS = {"import": import_runs.main, "status": status.main, "choose": choose.main}
"""By the first word; where it is none of these, the words are folders to report on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command that is asked for."""
    print_anywhere()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    return report_command.main(arguments)


if __name__ == "__main__":
    with until_unread():
        sys.exit(main())
