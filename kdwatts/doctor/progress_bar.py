"""A bar of the time that an examination may take, on a terminal."""

from __future__ import annotations

import threading
import time
from typing import Any

from tqdm import tqdm

MOVES_EVERY_S = 1.0
"""A longer check would else seem to hang."""


class Progress:
    """The bar, on stderr, and what is printed above it. There is no bar where stderr is a file."""

    def __init__(self, seconds: float) -> None:
        self._began_s = time.monotonic()
        self._bar: tqdm[Any] = tqdm(
            total=round(seconds),
            unit="s",
            leave=False,
            bar_format="{desc:<24} |{bar:30}| {n:.0f} of {total:.0f} s",
            disable=None,  # No bar where nobody watches.
        )
        self._ended = threading.Event()
        self._mover = threading.Thread(target=self._move_on, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        """Begin to move the bar."""
        if not self._bar.disable:
            self._mover.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._ended.set()
        if self._mover.is_alive():
            self._mover.join()
        self._bar.close()

    def begin(self, name: str) -> None:
        """Say which check is made now."""
        self._bar.set_description_str(name, refresh=False)
        self._move()

    def print(self, text: str) -> None:
        """Print lines to stdout, above the bar."""
        with tqdm.external_write_mode():
            print(text, flush=True)
        self._move()

    def _move(self) -> None:
        if not self._bar.disable:
            self._bar.n = min(float(self._bar.total or 0), time.monotonic() - self._began_s)
            self._bar.refresh()

    def _move_on(self) -> None:
        while not self._ended.wait(MOVES_EVERY_S):
            self._move()
