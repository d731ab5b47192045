"""One server under the meter: its loads, its capacity, and what it draws with nothing to do."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdwatts.config.serving import Serving
from kdwatts.metrics.quantity import MEASURED, scaled
from kdwatts.records.serving_record import UNKNOWN, Figure, ServingPoint, ServingRecord
from kdwatts.serving.bench import MIN_BATCH_S, Bench, seconds_until
from kdwatts.serving.curve import loads_of, measure_capacity, measure_curve
from kdwatts.serving.engines.dialects import check_length
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.starting import running
from kdwatts.serving.load.logged_prompts import LoggedPrompts
from kdwatts.serving.load.prompt_text import PromptText
from kdwatts.serving.load.replayed_log import ReplayedLog, replay_words
from kdwatts.serving.load.stream import requests
from kdwatts.serving.measure.figures import figure_of
from kdwatts.serving.server_energy import gpus_of, mark, slice_between
from kdwatts.telemetry.host import cpu_name
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.nvml import Device

log = logging.getLogger(__name__)


def serve_and_measure(
    settings: Serving,
    model: ServedModel,
    text: PromptText,
    meter: Meter,
    *,
    seed: int,
    measurement: int,
    log_path: Path,
    replayed: ReplayedLog | None = None,
) -> ServingRecord:
    """One model behind one fresh server: every load, the capacity, parking.

    With a log, requests are its own, in place of those of the workload.

    Raises ValueError for requests that do not fit the model, and for a model that the engine
    refuses. Raises RuntimeError for a server that never answers, or that dies.
    """
    started_utc = datetime.now(UTC).isoformat(timespec="milliseconds")

    check_requests(settings, text, replayed, max_positions=model.max_positions, seed=seed)
    with running(settings, model, log_path=log_path) as server:
        for length in {settings.workload.length} | (replayed.lengths if replayed else set()):
            check_length(server.dialect, length)
        limit = server.max_positions if model.max_positions is None else model.max_positions
        how: dict[str, Any] = {"seed": seed, "max_positions": limit}
        if replayed is None:
            stream = requests(settings.workload, text.ids, text.tokenizer, **how)
            bench = Bench(server, settings, meter, stream, seed)
        else:
            logged = LoggedPrompts(replayed, settings.workload, text.ids, text.tokenizer, **how)
            bench = Bench(server, settings, meter, logged.shuffled(), seed, logged)
        points = measure_curve(bench)
        capacity = measure_capacity(bench, points)
        parking = _parking_power(bench, points)
        gpus = gpus_of(meter, server)
        # Where all GPUs of the job are counted, the server may have fewer.
        is_known = len(gpus) == len(server.device_indices or ())
    of_log = replay_words(settings.workload, replayed, settings.replay) if replayed else {}
    return ServingRecord(
        subject=model.subject,
        engine=server.record,
        workload={**asdict(settings.workload), "prompts": text.key, **of_log},
        slo=asdict(settings.slo),
        points=points,
        capacity=capacity,
        parking_power_w=parking,
        bare_power_w=_bare_power(settings, meter, gpus),
        measurement=measurement,
        gpus=[gpu.name for gpu in gpus],
        gpu_uuids=[gpu.uuid for gpu in gpus],
        num_gpus_of_server=len(gpus) if is_known else None,
        host=server.meter.about.host if server.meter else socket.gethostname(),
        cpu=server.meter.about.cpu if server.meter else cpu_name(),
        power_limit_w=gpus[0].power_limit_w if gpus else None,
        started_utc=started_utc,
    )


def check_requests(
    settings: Serving,
    text: PromptText,
    replayed: ReplayedLog | None,
    *,
    max_positions: int | None,
    seed: int,
) -> None:
    """Raise ValueError for requests that no server can be sent, before one is started."""
    if replayed is None:
        how: dict[str, Any] = {"seed": seed, "max_positions": max_positions}
        requests(settings.workload, text.ids, text.tokenizer, **how)
    elif not len(text.ids):
        raise ValueError("eval.serving.workload.prompts has no text; give a text to cut from")
    else:
        loads_of(settings, replayed)


def _parking_power(bench: Bench, points: Sequence[ServingPoint]) -> Figure:
    """W of the server with its model loaded and nothing to do, a while after its last answer.

    Unknown where no load has joules of a sensor: an estimate by CPU time has no idle power. Unknown
    too where a component of the loads gave no reading, and where the server ended meanwhile.
    """
    settings, meter, server = bench.settings, bench.meter, bench.server
    loads = [one.energy_j for one in points if one.energy_quality in MEASURED]
    if settings.parking_s == 0 or not loads:
        return UNKNOWN
    log.info("serving: waiting %g s, then measuring the idle server", settings.parking_settle_s)
    for _ in seconds_until(time.monotonic() + settings.parking_settle_s):
        pass
    with bench.window("parking"):
        start = mark(meter, server, None)
        for _ in seconds_until(time.monotonic() + max(MIN_BATCH_S, settings.parking_s)):
            pass
        parked = slice_between(meter, start, mark(meter, server, None), server)
    if why := server.why_dead():
        # The loads before it were measured all the same.
        log.warning("serving: the power of the idle server is not known, as %s", why)
        return UNKNOWN
    known = {kind for joules in loads for kind, value in joules.items() if value is not None}
    if any(parked.energy_j.get(kind) is None for kind in known):
        return UNKNOWN
    power = scaled(parked.energy, 1 / parked.duration_s, unit="W")
    return figure_of(power, power.quality)


def _bare_power(settings: Serving, meter: Meter, gpus: Sequence[Device]) -> Figure:
    """W of the idle devices that the server uses, before anything was started there.

    Unknown where it was not measured.
    A server that was there before us was up by then, maybe on another host.
    """
    power_w, quality = meter.idle_power_of_all_w([gpu.uuid for gpu in gpus])
    if settings.engine == "url" or power_w is None:
        return UNKNOWN
    return Figure(power_w, quality=quality)
