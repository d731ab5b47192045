"""The server's part of the job's joules: all of its GPUs, and the CPU time of its processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kdwatts.metrics.quantity import MISSING_J
from kdwatts.records.schema import COMPONENTS
from kdwatts.serving.engines.server import Server
from kdwatts.serving.measure.slices import Slice
from kdwatts.telemetry import parts
from kdwatts.telemetry.host import tree_cpu_s
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.nvml import Device
from kdwatts.telemetry.parts import Part
from kdwatts.telemetry.remote_meter import MeterLost, RemoteEdge, RemoteMeter
from kdwatts.telemetry.window_edges import Edge

log = logging.getLogger(__name__)

BY_CPU_TIME = ("attributed", "tdp_model")
"""Methods that share out joules by CPU time. Of these the server's part can be told apart."""

ELSEWHERE = "the server's processes are not to be seen from here, so its joules are not known"


@dataclass(frozen=True)
class Mark:
    """One moment under a load: what devices, processes and the engine had counted by then."""

    time_s: float
    """Monotonic seconds of this host."""
    edge: Edge | RemoteEdge | None
    """Of the host of the server. None where its meter did not answer."""
    job_cpu_s: float
    """Of the job of the meter that measures the server."""
    server_cpu_s: float | None
    client_cpu_s: float | None
    counters: dict[str, float]
    lost: str = ""
    """Why there is no edge."""


def gpus_of(meter: Meter, server: Server) -> list[Device]:
    """The GPUs whose joules are the server's: its own, or all of the job where it is not known.

    Of a GPU that is sliced, the slices would not count as the meter's GPUs do. Of a server on
    another host they are all that the meter there measures.
    """
    if server.meter is not None:
        return server.meter.gpus
    indices = server.device_indices
    is_known = indices is not None and max(indices, default=0) < len(meter.gpus)
    if not is_known or any(gpu.is_sliced for gpu in meter.gpus):
        return list(meter.gpus)
    return [meter.gpus[index] for index in indices or ()]


def mark(meter: Meter, server: Server, client_pid: int | None) -> Mark:
    """This moment. It waits for the next update of the GPUs' counters."""
    one = _mark_here(meter, server) if server.meter is None else _mark_there(server.meter)
    return replace(
        one,
        client_cpu_s=None if client_pid is None else tree_cpu_s(client_pid),
        counters=server.read_counters() or {},
    )


def _mark_here(meter: Meter, server: Server) -> Mark:
    edge = meter.edge()
    server_cpu_s = None if server.pid is None else tree_cpu_s(server.pid)
    return Mark(edge.time_s, edge, meter.job_cpu_s(), server_cpu_s, None, {})


def _mark_there(remote: RemoteMeter) -> Mark:
    """A moment on the server's host. Without an answer the load goes on, and has no joules."""
    try:
        edge = remote.edge()
    except MeterLost as error:
        log.warning("serving: %s", error)
        return Mark(time.monotonic(), None, 0.0, None, None, {}, lost=str(error))
    return Mark(edge.time_s, edge, edge.host.job_cpu_s, edge.host.processes_cpu_s, None, {})


def slice_between(meter: Meter, start: Mark, end: Mark, server: Server) -> Slice:
    """What the server used between two marks.

    A server on GPUs has no joules without theirs: those of the CPU would pass for all.
    """
    job_s = end.job_cpu_s - start.job_cpu_s
    server_s = _increase(start.server_cpu_s, end.server_cpu_s)
    gpus = [gpu.uuid for gpu in gpus_of(meter, server)]
    used = {
        kind: server_part(part, job_cpu_s=job_s, server_cpu_s=server_s)
        for kind, part in _used(meter, start, end, server, gpus).items()
        if kind in COMPONENTS
    }
    return Slice(
        start_s=start.time_s,
        end_s=end.time_s,
        energy=MISSING_J if gpus and used["gpu"].energy_j is None else parts.total(used),
        energy_j={kind: part.energy_j for kind, part in used.items()},
        server_cpu_s=server_s,
        client_cpu_s=_increase(start.client_cpu_s, end.client_cpu_s),
        counters={
            name: end.counters[name] - value
            for name, value in start.counters.items()
            if name in end.counters
        },
        methods={kind: part.method for kind, part in used.items()},
        reasons={
            kind: part.reason
            for kind, part in used.items()
            if part.energy_j is None and part.reason and (kind != "gpu" or gpus)
        },
    )


def _used(
    meter: Meter, start: Mark, end: Mark, server: Server, gpus: Sequence[str]
) -> dict[str, Part]:
    """Every component between two marks, from the meter that sees the server."""
    if server.meter is None and server.pid is None:
        return {kind: parts.missing(ELSEWHERE) for kind in COMPONENTS}
    if server.meter is None:
        assert isinstance(start.edge, Edge) and isinstance(end.edge, Edge)
        return meter.used_between(start.edge, end.edge, gpus=gpus)
    if isinstance(start.edge, RemoteEdge) and isinstance(end.edge, RemoteEdge):
        return server.meter.used_between(start.edge, end.edge)
    return {kind: parts.missing(start.lost or end.lost) for kind in COMPONENTS}


def server_part(part: Part, *, job_cpu_s: float, server_cpu_s: float | None) -> Part:
    """The server's share of a component of the job, where it is shared out by CPU time.

    A share by CPU time grows in proportion to it, so of that the server has its share of the job's
    CPU seconds. It may be above 1: a server that we did not start is no part of the job. Idle
    joules that the job has by its share of the node's CPUs stay whole: the server keeps the CPUs
    also while it waits. A sensor of the whole node, and a GPU, stay as they are.
    """
    if part.method not in BY_CPU_TIME or part.energy_j is None:
        return part
    if server_cpu_s is None:
        return parts.missing("the CPU time of the server's processes is not known")
    # Without any CPU time of the job there are no joules to share out.
    share = server_cpu_s / job_cpu_s if job_cpu_s > 0 else 0.0
    by_cpu_time_j = part.energy_j if part.net_energy_j is None else part.net_energy_j
    energy_j = part.energy_j - by_cpu_time_j + share * by_cpu_time_j
    factor = energy_j / part.energy_j if part.energy_j > 0 else share

    def times(value: float | None) -> float | None:
        return None if value is None else factor * value

    return replace(
        part,
        energy_j=energy_j,
        uncertainty_j=times(part.uncertainty_j),
        shared_uncertainty_j=times(part.shared_uncertainty_j),
        net_energy_j=None,
        sampled_energy_j=None,
    )


def methods_of(slices: Sequence[Slice]) -> dict[str, str | None]:
    """Component to the method of its joules; null where none of the slices has any."""
    return {
        kind: next((method for one in slices if (method := one.methods.get(kind))), None)
        for kind in COMPONENTS
    }


def scope_in_words(
    methods: Mapping[str, str | None],
    server: Server,
    *,
    num_gpus: int | None = None,
    num_gpus_of_job: int | None = None,
) -> str:
    """What the joules of a server are of, from the method of each component.

    An estimate beside a sensor is not among them. `num_gpus` of the job's GPUs count, or all.
    """
    there = server.meter.about.host if server.meter else None
    if there is None and server.pid is None:
        return ELSEWHERE
    words = []
    is_measured = any(method and method != "tdp_model" for method in methods.values())
    for kind in COMPONENTS:
        method = methods.get(kind)
        if method is None or (is_measured and method == "tdp_model"):
            continue
        if kind == "gpu" and num_gpus != num_gpus_of_job:
            words.append(
                f"{num_gpus} of the {num_gpus_of_job} GPUs of the job, those of the server"
            )
        elif kind == "gpu":
            words.append(f"all GPUs of {there or 'the job'}")
        elif method in BY_CPU_TIME:
            by = f"{kind} by the CPU time of the server's processes"
            words.append(f"{by} on {there}" if there else f"{by}, without the client's")
        elif there:
            words.append(f"{kind} of the whole node {there}")
        else:
            words.append(f"{kind} of the whole node, with the client's part")
    return "; ".join(words) or "nothing: no joules could be measured"


def _increase(start: float | None, end: float | None) -> float | None:
    """None also where it fell: a process left the tree, and its time with it."""
    return None if start is None or end is None or end < start else end - start
