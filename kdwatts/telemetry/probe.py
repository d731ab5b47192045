"""One device under the meter: how to read it, and all it used since the meter started."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kdwatts.telemetry.energy import Tally, advance
from kdwatts.telemetry.nvml import SlowQuantities
from kdwatts.telemetry.readings import Reading, Sensor

log = logging.getLogger(__name__)

_MIN_MEAN_S = 0.005
"""A mean power over a shorter time says nothing: RAPL is updated every millisecond."""


@dataclass(eq=False)
class Probe:
    """One device: how to read it, and all it used since the meter started."""

    sensor: Sensor
    index: int | None
    read: Callable[[], Reading]
    read_edge: Callable[[], Reading]
    """Like `read`, with the extra effort of the edge of a window."""
    read_slow: Callable[[], SlowQuantities] | None = None
    every_tick: bool = True
    """False: read only in slow ticks, as it costs more or matters less."""
    close: Callable[[], None] = lambda: None
    power_w: float | None = None
    """Power in W at the last tick that asked. None when it failed."""
    error: str | None = None
    late_starts: list[dict[Probe, Tally]] = field(default_factory=list)
    """Starts of windows that opened while the device was silent. Its next reading fills them."""
    _tally: Tally = field(default_factory=Tally)
    _pending: deque[Reading] = field(default_factory=deque)
    _folding: threading.Lock = field(default_factory=threading.Lock)
    _powered: Tally = field(default_factory=Tally)

    @property
    def tally(self) -> Tally:
        """All that the device used since the meter started."""
        with self._folding:
            while self._pending:
                self._tally = advance(self._tally, self._pending.popleft(), self.sensor)
            return self._tally

    def take(self, read: Callable[[], Reading]) -> Reading | None:
        """One more reading, or None with `error` set when the device fails.

        The reading is added to the tally only when somebody asks for that: a tick must cost little.
        """
        try:
            reading = read()
        # Whatever a library raises becomes a row with an error, and the sampling goes on.
        except Exception as error:
            self.fail(error)
            return None
        self._pending.append(reading)
        if self.error is not None:
            log.warning("telemetry: %s answers again", self.sensor.label)
            self.error = None
        if self.late_starts:
            for starts in self.late_starts:
                starts[self] = self.tally
            self.late_starts.clear()
        return reading

    def update(self, *, edge: bool = False) -> Reading | None:
        """One more reading. With `edge`, more effort is made, as at the edge of a window."""
        return self.take(self.read_edge if edge else self.read)

    def fail(self, error: BaseException) -> str:
        """Note a failed reading and give its name.

        The log says so once, until the device answers again.
        """
        if self.error is None:
            log.warning(
                "telemetry: %s cannot be read (%s); its windows state the gap",
                self.sensor.label,
                error,
            )
        self.error = str(error) or type(error).__name__
        self.power_w = None
        return self.error

    def mean_power_w(self) -> float | None:
        """Mean counter power in W since the last call, for devices that have no power sensor."""
        since, self._powered = self._powered, self.tally
        counted_s = self._powered.counted_s - since.counted_s
        if counted_s < _MIN_MEAN_S:
            return None
        return (self._powered.counted_j - since.counted_j) / counted_s
