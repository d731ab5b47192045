"""`python -m kdwatts.doctor`: are meter, speed and numbers right on this machine?"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kdwatts.doctor.doctor_options import parser
from kdwatts.runtime.interrupt import ended_in_a_sentence
from kdwatts.runtime.streams import print_anywhere, until_unread
from kdwatts.runtime.whole_install import needs_the_whole_install


def main(words: Sequence[str]) -> int:
    """The exit code of a command line."""
    print_anywhere()
    options = parser().parse_intermixed_args(words)
    with needs_the_whole_install("python -m kdwatts.doctor"):
        from kdwatts.doctor.doctor_command import run
    return run(options)


if __name__ == "__main__":
    with until_unread(), ended_in_a_sentence("python -m kdwatts.doctor"):
        sys.exit(main(sys.argv[1:]))
