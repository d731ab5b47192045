"""The meter of a rank that makes no windows: the first rank makes them, for all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdwatts.config.machine import Telemetry
from kdwatts.metrics.quantity import MISSING_J
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.open_window import OpenWindow


def unmeasured_window(name: str, key: str | None = None) -> OpenWindow:
    """A window without energy."""
    return OpenWindow(name, key, None, lambda _: MISSING_J)


class Bystander(Meter):
    """A meter whose windows measure nothing and are written nowhere.

    At both edges of a window it waits for all ranks as the first rank does, which waits for it.
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
        alone: bool = False,
    ) -> Iterator[OpenWindow]:
        """A window without energy, inside the innermost open one."""
        del synchronize, alone
        self._synchronize()
        yield unmeasured_window(name, key)
        self._synchronize()
