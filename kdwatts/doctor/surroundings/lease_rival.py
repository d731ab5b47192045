"""A process that claims the artifacts that another one claims at the same moment."""

from __future__ import annotations

import sys

from kdwatts.artifacts.store import Store


def main(root: str, stage: str) -> None:
    """Claim each key of standard input, print whether it was ours, and hold it for a line more."""
    print("ready", flush=True)
    for line in sys.stdin:
        with Store(root).claim_if_free(stage, line.strip()) as claim:
            print(int(claim is not None), flush=True)
            sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
