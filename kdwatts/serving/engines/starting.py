"""Servers for a run: start one or find one, wait until it is healthy, and stop it after."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

from kdwatts.config.serving import Serving
from kdwatts.records.serving_record import EngineRecord
from kdwatts.runtime import interrupt
from kdwatts.serving.engines import running_server, transformers_serve, vllm_server
from kdwatts.serving.engines.counters import read_counters
from kdwatts.serving.engines.guarded import Guarded, guarded
from kdwatts.serving.engines.http_get import get
from kdwatts.serving.engines.last_words import last_words
from kdwatts.serving.engines.parallel_sizes import num_gpus
from kdwatts.serving.engines.plan import Plan
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.server import Server

log = logging.getLogger(__name__)

_LOOK_S = 0.2
_SAY_S = 20.0
_HEALTH_TIMEOUT_S = 5.0


def check(settings: Serving) -> None:
    """Raise ValueError, one sentence, where the engine cannot be started or is not given.

    Nothing is started for it. A meter on another host is asked whether it is there.
    """
    if settings.engine == "transformers":
        transformers_serve.check(settings.transformers)
    elif settings.engine == "vllm":
        vllm_server.check(settings.vllm)
    elif settings.engine == "url":
        running_server.check(settings.url)
        running_server.check_meters(settings.url)


def device_indices(
    settings: Serving, *, has_gpus: bool, num_visible: int | None = None
) -> tuple[int, ...] | None:
    """Which of the job's GPUs a server gets: its first ones, as many as its flags ask for.

    None on the CPU, and for a server that runs already. Raises ValueError where the job has fewer;
    without `num_visible` nothing is said of that.
    """
    if settings.engine == "url" or not has_gpus:
        return None
    wanted = num_gpus(settings.vllm.flags) if settings.engine == "vllm" else 1
    if num_visible is not None and num_visible < wanted:
        raise ValueError(
            f"eval.serving.vllm.flags ask for a server on {wanted} GPUs, and this job has "
            f"{num_visible}; give the job more GPUs, or the flags smaller parallel sizes"
        )
    return tuple(range(wanted))


def engine_version(settings: Serving) -> str | None:
    """The version of the engine. None for our own loop, and where a running server does not say.

    Nothing is started for it.
    """
    if settings.engine == "transformers":
        return transformers_serve.installed_version()
    if settings.engine == "vllm":
        return vllm_server.installed_version(settings.vllm)
    return running_server.versions(settings.url) if settings.engine == "url" else None


def engine_record(settings: Serving, model: ServedModel) -> EngineRecord | None:
    """What `running` would start: its flags are those of the key. None for a running server."""
    if settings.engine == "url":
        return None
    return _plan(settings, model, port=0).record


@contextmanager
def running(settings: Serving, model: ServedModel, *, log_path: Path) -> Iterator[Server]:
    """A healthy server of one model. One that was started here ends with this context.

    What the server writes goes to log_path. Raises RuntimeError, one sentence with the
    server's own words, where it does not get healthy; ValueError where the settings do not fit;
    Preempted where a signal comes meanwhile.
    """
    if settings.engine == "url":
        limit = model.max_positions
        server = running_server.attach(settings.url, model.subject, max_positions=limit)
        with server.meter or nullcontext():
            yield server
        return
    port = _free_port()
    plan = _plan(settings, model, port=port)
    name, url = plan.record.name, f"http://127.0.0.1:{port}"
    with guarded(plan.command, plan.environment, log_path) as process:
        started_s = time.monotonic()
        _wait_until_healthy(process, plan, port, model.subject, settings.start_timeout_s, log_path)
        log.info("%s: %s answers after %.0f s", model.subject, name, time.monotonic() - started_s)
        yield Server(
            record=plan.record,
            url=url,
            model=plan.model,
            dialect=plan.dialect,
            pid=process.pid,
            device_indices=model.device_indices,
            max_positions=model.max_positions,
            read_counters=lambda: read_counters(url, plan.dialect),
            why_dead=lambda: process.why_dead(name),
        )


def _plan(settings: Serving, model: ServedModel, *, port: int) -> Plan:
    check(settings)
    if settings.engine == "transformers":
        return transformers_serve.plan(settings.transformers, model, port=port)
    if settings.engine == "vllm":
        return vllm_server.plan(settings.vllm, model, port=port)
    raise ValueError(
        f"eval.serving.engine={settings.engine} is no server; set transformers, vllm or url"
    )


def _wait_until_healthy(
    process: Guarded, plan: Plan, port: int, subject: str, timeout_s: float, log_path: Path
) -> None:
    name = plan.record.name
    started_s = time.monotonic()
    say_s = started_s + _SAY_S
    while True:
        interrupt.stop_if_requested(f"{subject}: its server is started anew")
        page = get(f"http://127.0.0.1:{port}/health", timeout_s=_HEALTH_TIMEOUT_S)
        now_s = time.monotonic()
        if why := process.why_dead(name):
            if "address already in use" in why.lower():
                why = f"port {port} was taken by another program; run the same command again"
            raise RuntimeError(f"{subject}: {name} did not start, as {why}")
        if page and page.status == 200 and _listens(process.pid, port):
            return
        if now_s - started_s > timeout_s:
            words = last_words(log_path)
            raise RuntimeError(
                f"{subject}: {name} did not get healthy within "
                f"eval.serving.start_timeout_s={timeout_s:g} s, "
                f"{f'its last words: {words}' if words else 'and wrote nothing'} (its log is "
                f"{log_path}); give it more time, or start it by hand to see why"
            )
        if now_s > say_s:
            log.info("%s: %s is loading, %.0f s", subject, name, now_s - started_s)
            say_s += _SAY_S
        time.sleep(_LOOK_S)


def _listens(root: int, port: int) -> bool:
    """Whether a process of the server has the port, and not somebody else."""
    try:
        processes = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    for process in processes:
        try:
            connections = process.net_connections("tcp")
        except psutil.AccessDenied:  # An interpreter with rights of its own is not to be seen.
            return True
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
