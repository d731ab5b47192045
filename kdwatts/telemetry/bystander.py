"""The meter of a rank that measures nothing: one meter on a node reads for all its ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdwatts.config.machine import Telemetry
from kdwatts.telemetry.meter import Meter, OpenWindow


class Bystander(Meter):
    """A meter whose windows measure nothing and are written nowhere.

    At both edges of a window it waits as the measuring rank does, because that rank waits for it.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        super().__init__(Path(), Telemetry())
        self._synchronize = synchronize

    @contextmanager
    def window(
        self,
        name: str,
        *,
        key: str | None = None,
        synchronize: Callable[[], None] | None = None,
    ) -> Iterator[OpenWindow]:
        """A window without energy, inside the innermost open one."""
        del synchronize
        self._synchronize()
        yield OpenWindow(self, name, key, None)
        self._synchronize()
