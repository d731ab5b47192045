"""What a command says that needs more than is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_REFUSED = 2
"""Nothing was begun; how a run or a sweep ends is in kdwatts.cli.sweep."""


@contextmanager
def needs_the_whole_install(command: str) -> Iterator[None]:
    """Imports of `command`; where a package is missing, one sentence and exit code 2.

    The analysis can be installed alone: `docs/how_to/install.md`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "kdwatts").partition(".")[0] == "kdwatts":
            raise
        print(
            f"{command}: the package {error.name!r} is not installed here, where perhaps the "
            "analysis is installed alone; run `pip install kdwatts` for all of it",
            file=sys.stderr,
        )
        sys.exit(EXIT_REFUSED)
