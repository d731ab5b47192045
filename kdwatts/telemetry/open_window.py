"""A window of the meter that is open: callers count its work in it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

from kdwatts.metrics.quantity import Quantity
from kdwatts.records.schema import NodeShare, StageRow
from kdwatts.telemetry import parts
from kdwatts.telemetry.other_nodes import Seen
from kdwatts.telemetry.window_edges import Edge


class OpenWindow:
    """A part of the run with an energy of its own. Callers count its work as it happens."""

    def __init__(
        self,
        path: str,
        key: str | None,
        parent: OpenWindow | None,
        used_since: Callable[[OpenWindow], Quantity],
    ) -> None:
        self.path = path
        self.parent = parent
        self.key = key
        self.tokens = 0
        self.steps = 0
        self.data_wait_s = 0.0
        self.synchronize: Callable[[], None] | None = None
        """Waits for the devices' queued work at both edges."""
        self.outcome = "done"
        """A caller that finds the work already done sets `reused`. Errors set the other words."""
        self.row: StageRow | None = None
        """The window's record with its energy. None while the window is open."""
        self.start_utc = ""
        self.start = Edge(0.0, {})
        """A device that has been silent since has no tally in it."""
        self.alone = False
        """Whether the other nodes wait for what is done here."""
        self.others_start: list[Seen] = []
        """Where the window began on the other nodes that its joules are also of."""
        self.end: Edge | None = None
        """None while the window is open."""
        self._used_since = used_since

    @property
    def is_of_all(self) -> bool:
        """Whether its joules are of all nodes: no window around it is one that others wait for."""
        return self.parent is None or (not self.parent.alone and self.parent.is_of_all)

    def so_far(self) -> Quantity:
        """Joules from the start to the sampler's last tick. This is cheap: no device is read.

        Those of other nodes are as old as one slow tick.
        """
        return self._used_since(self)

    def closed(
        self,
        end: Edge,
        used: Mapping[str, parts.Part],
        *,
        attempt: int,
        idle_power_w: Mapping[str, float | None],
        nodes: Sequence[NodeShare] = (),
    ) -> StageRow:
        """The record of the window, which ends at this edge. `nodes` are what `used` sums up."""
        counted = self.steps > 0 or self.data_wait_s > 0
        self.end = end
        self.row = StageRow(
            window=self.path,
            parent=self.parent.path if self.parent else None,
            key=self.key,
            attempt=attempt,
            outcome=self.outcome,
            start_utc=self.start_utc,
            start_s=self.start.time_s,
            duration_s=end.time_s - self.start.time_s,
            data_wait_s=self.data_wait_s if counted else None,
            tokens=self.tokens or None,
            steps=self.steps or None,
            idle_power_w=dict(idle_power_w),
            host=socket.gethostname(),
            nodes=list(nodes),
            **parts.columns(used),
        )
        return self.row
