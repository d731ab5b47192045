"""A meter around a run: nested windows state their energy, and a thread writes the trace.

```python
with Meter(out_dir, settings) as meter:
    with meter.window("distill", key=key) as window:
        window.tokens += 1024
```
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from kdwatts.config.machine import Telemetry
from kdwatts.metrics.quantity import MEASURED, Quantity
from kdwatts.records.schema import StageRow
from kdwatts.runtime.interrupt import Preempted
from kdwatts.telemetry import node_sums, nvml, parts
from kdwatts.telemetry.discovery import Probes
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.node_meter import NodeMeter
from kdwatts.telemetry.node_sums import NodeParts
from kdwatts.telemetry.open_window import OpenWindow
from kdwatts.telemetry.other_nodes import OtherNode, OtherNodes, Seen
from kdwatts.telemetry.window_edges import Edge


class Meter:
    """Measures the devices of this job between `__enter__` and `__exit__`.

    Enter it before anything uses the GPU: a process that already uses it may look like a
    stranger's. The meter writes telemetry.jsonl and stages.jsonl into `out_dir`. Open and close
    windows in one thread.

    For a run on the CPU set `use_gpus=False`: idle GPUs beside it are not its energy. `peers` are
    the run's other processes on this node that this process did not start. Where several processes
    of a launch have a meter each, `meter_of` says which of how many this one is.

    In a run on several nodes, windows are sums over this node and `others`, which are asked at the
    same time at each edge. All else is of this node alone.

    On entry it raises RuntimeError when another process uses a GPU of this job, or when the job has
    only a MIG slice, unless `settings.allow_shared` is set. It raises ValueError when the
    environment names an unknown GPU.
    """

    def __init__(
        self,
        out_dir: Path,
        settings: Telemetry,
        *,
        attempt: int = 1,
        use_gpus: bool = True,
        peers: Sequence[int] = (),
        meter_of: tuple[int, int] = (0, 1),
        others: Sequence[OtherNode] = (),
    ) -> None:
        node = NodeMeter(
            out_dir, settings, attempt=attempt, use_gpus=use_gpus, peers=peers, meter_of=meter_of
        )
        self.node = node
        """The devices of this node."""
        self.row: StageRow | None = None
        """The record of the root window `run`, once left."""
        # What the meter says of this node, it says itself.
        self.edge = node.edge
        self.used_between = node.used_between
        self.notes = node.notes
        self.ended_before = node.ended_before
        self.job_cpu_s = node.job_cpu_s
        self.counter_period_s = node.counter_period_s
        self.idle_power_of_all_w = node.idle_power_of_all_w
        self.live_power_w = node.live_power_w
        self.look_for_children = node.look_for_children
        self._out_dir = out_dir
        self._attempt = attempt
        self._others = OtherNodes(others, every_s=settings.slow_interval_s)
        self._stack: list[OpenWindow] = []

    @property
    def gpus(self) -> list[nvml.Device]:
        """The GPUs of this job on this node, once entered."""
        return self.node.gpus

    @property
    def probes(self) -> Probes:
        """Every device of this node that can be read, once entered."""
        return self.node.probes

    @property
    def idle_power_w(self) -> dict[str, float | None]:
        """W of this job's idle devices before the first window; on a shared node, its share."""
        return self.node.idle_power_w

    @property
    def idle_w_of_gpu(self) -> dict[str, float]:
        """UUID to the W of that GPU while it was idle."""
        return self.node.idle_w_of_gpu

    @property
    def hosts(self) -> dict[int, str]:
        """Number of each node that windows are sums of, to its name."""
        others = {other.number: other.host for other in self._others.nodes}
        return {1: socket.gethostname()} | others

    def power_of_all_nodes_w(self) -> float | None:
        """Latest power in W of the run. None where one of its nodes does not say.

        So it is where some nodes measure and others estimate: the two are never added.
        """
        methods = [[probe.sensor.method for probe in self.probes.devices]]
        methods += [node.methods for node in self._others.nodes]
        if len({any(parts.QUALITY[one] in MEASURED for one in of_node) for of_node in methods}) > 1:
            return None
        powers_w = [self.live_power_w(), *(node.live_power_w() for node in self._others.nodes)]
        known_w = [power_w for power_w in powers_w if power_w is not None]
        return sum(known_w) if len(known_w) == len(powers_w) else None

    def __enter__(self) -> Meter:
        self.node.__enter__()
        self._stages = Journal(self._out_dir / "stages.jsonl", tell_lost=True)
        self._others.__enter__()
        self._root = self._open("run", None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.row = self._close(self._root, error)
        self._others.__exit__()
        self.node.__exit__()
        self._stages.close()

    @contextmanager
    def window(
        self,
        name: str,
        *,
        key: str | None = None,
        synchronize: Callable[[], None] | None = None,
        alone: bool = False,
    ) -> Iterator[OpenWindow]:
        """A window inside the innermost open one.

        `synchronize` waits for the devices' queued work. It is also used by the windows inside this
        one, unless they have their own. Opening and closing a window wait for the next update of
        the GPUs' counters, for at most two periods of the counter. A window that raises is written
        as `preempted` or `failed`, and the error goes on.

        `alone` is for what this process does while the other nodes wait. Their joules are in this
        window's sum, and not in that of the windows inside it: J per token must not count them.
        """
        assert self._stack, "a window opens inside an entered meter"
        synchronize = synchronize or self._stack[-1].synchronize
        if synchronize is not None:
            synchronize()
        window = self._open(f"{self._stack[-1].path}/{name}", key, alone=alone)
        window.synchronize = synchronize
        try:
            yield window
            if synchronize is not None:
                synchronize()
        except BaseException as error:
            self._close(window, error)
            raise
        self._close(window, None)

    def _open(self, path: str, key: str | None, *, alone: bool = False) -> OpenWindow:
        parent = self._stack[-1] if self._stack else None
        window = OpenWindow(path, key, parent, self._used_since)
        window.alone = alone
        window.start, window.others_start = self._edges(window, path)
        window.start_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._stack.append(window)
        return window

    def _close(self, window: OpenWindow, error: BaseException | None) -> StageRow:
        popped = self._stack.pop()
        assert popped is window, f"{window.path} closes while {popped.path} is open"
        end, others_end = self._edges(window, window.parent.path if window.parent else "")
        if error is not None:
            window.outcome = "preempted" if isinstance(error, Preempted) else "failed"
        used = self.used_between(window.start, end)
        idle_power_w, shares = self.idle_power_w, []
        if others_end:
            seen = zip(self._others.nodes, window.others_start, others_end, strict=True)
            others = [
                node.used_between(first, last, window.start.time_s, end.time_s)
                for node, first, last in seen
            ]
            own = NodeParts(
                1, socket.gethostname(), used, end.time_s - window.start.time_s, skew_s=0.0
            )
            used = node_sums.summed([own, *others])
            idle_power_w = node_sums.summed_w(
                [idle_power_w, *(node.idle_power_w for node in self._others.nodes)]
            )
            shares = [node_sums.share(own, waits=False)]
            shares += [node_sums.share(other, waits=window.alone) for other in others]
        row = window.closed(
            end, used, attempt=self._attempt, idle_power_w=idle_power_w, nodes=shares
        )
        self._stages.write([row])
        return row

    def _edges(self, window: OpenWindow, path: str) -> tuple[Edge, list[Seen]]:
        """This moment here and on the nodes of the window, whose traces go on under this path."""
        answers = self._others.ask(path, window.others_start) if window.is_of_all else list
        edge = self.edge()
        self.node.begin(path)
        return edge, answers()

    def _used_since(self, window: OpenWindow) -> Quantity:
        """Joules of a window's nodes from its start to the latest reading of any device."""
        own = self.used_between(window.start, self.node.latest())
        if not window.others_start:
            return parts.total(own)
        seen = zip(self._others.nodes, window.others_start, strict=True)
        others = [node.used_since(first) for node, first in seen]
        return parts.total(node_sums.summed([NodeParts(1, socket.gethostname(), own), *others]))
