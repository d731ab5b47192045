"""A server that runs already: what it is, which model it serves, and its processes on this host."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from kdwatts.config.serving import RunningServers
from kdwatts.records.serving_record import EngineRecord
from kdwatts.serving.engines.counters import read_counters
from kdwatts.serving.engines.http_get import Page, get
from kdwatts.serving.engines.server import Server
from kdwatts.telemetry.meter_token import meter_token
from kdwatts.telemetry.remote_meter import RemoteMeter

log = logging.getLogger(__name__)

_FORWARDERS = {
    *("docker-proxy", "rootlessport", "slirp4netns", "pasta", "kubectl"),
    *("ssh", "sshd", "socat", "nginx", "haproxy", "envoy"),
}
"""Programs that pass requests on: the server is elsewhere."""


@dataclass(frozen=True)
class _Kind:
    dialect: str
    """A key of engines.dialects.DIALECTS."""
    version: str | None
    max_positions: int | None = None


def check(settings: RunningServers) -> None:
    """Raise ValueError where no address is given, or one that is none."""
    if not (settings.student or settings.teacher):
        raise ValueError(
            "eval.serving.engine=url has no address; set eval.serving.url.student, such as "
            "http://127.0.0.1:8000"
        )
    for subject in ("student", "teacher"):
        url = getattr(settings, subject)
        if url is not None and not _is_address(url):
            raise ValueError(
                f"eval.serving.url.{subject}={url} is no address; give one such as "
                "http://127.0.0.1:8000"
            )
        if url is not None and urlsplit(url).username is not None:
            raise ValueError(
                f"eval.serving.url.{subject} holds a user's name or password, which records and "
                "keys would show; give the address without it"
            )
        _check_meter(settings, subject)


def _check_meter(settings: RunningServers, subject: str) -> None:
    """Raise ValueError for a meter without a server, or at what is no address."""
    meter: str | None = getattr(settings, f"{subject}_meter")
    if meter is None:
        return
    key = f"eval.serving.url.{subject}_meter"
    if "@" in meter:
        raise ValueError(
            f"{key} holds a user's name or password, which records and keys would show; give the "
            "address without it"
        )
    if getattr(settings, subject) is None:
        raise ValueError(
            f"{key}={meter} measures the host of a server, and eval.serving.url.{subject} has no "
            "address; give both"
        )
    if not _is_address(meter):
        raise ValueError(f"{key}={meter} is no address; give one such as http://node7:9400")


def check_meters(settings: RunningServers) -> None:
    """Raise ValueError where a meter that is given does not answer."""
    for subject in ("student", "teacher"):
        if (meter := _meter(settings, subject)) is not None:
            with meter:
                pass


def _meter(settings: RunningServers, subject: str) -> RemoteMeter | None:
    """The meter of a subject's host, connected; None where none is given."""
    name = f"{subject}_meter"
    url: str | None = getattr(settings, name)
    if url is None:
        return None
    return RemoteMeter(url, meter_token(), name=f"eval.serving.url.{name}")


def versions(settings: RunningServers) -> str | None:
    """What the servers say they are, such as `vllm 0.32.0`. None where none answers or says it."""
    said = []
    for url in (settings.student, settings.teacher):
        if url and (models := get(f"{_base(url)}/v1/models")):
            kind = _kind_of(_base(url), models)
            said.append(f"{kind.dialect} {kind.version}" if kind.version else kind.dialect)
    return "; ".join(dict.fromkeys(said)) or None


def attach(settings: RunningServers, subject: str, *, max_positions: int | None) -> Server:
    """The running server of a subject; `model` takes the student's.

    Raises ValueError where it has no address, and where the server has no such model. Raises
    RuntimeError where nobody answers.
    """
    check(settings)
    whose = "teacher" if subject == "teacher" else "student"
    given: str | None = getattr(settings, whose)
    if given is None:
        raise ValueError(
            f"eval.serving.engine=url has no address for the {whose}; set eval.serving.url.{whose}"
        )
    url = _base(given)
    models = get(f"{url}/v1/models")
    if models is None:
        raise RuntimeError(
            f"eval.serving.url.{whose}={given} does not answer; start the server, or correct the "
            "address"
        )
    kind = _kind_of(url, models)
    wanted: str | None = getattr(settings, f"{whose}_model")
    model = _model(wanted, models, kind, where=f"eval.serving.url.{whose}={given}", whose=whose)
    meter = _meter(settings, whose)
    return Server(
        record=EngineRecord(
            name="url" if kind.dialect == "openai" else f"url ({kind.dialect})",
            version=kind.version,
            flags=[],
            precision=None,
            quantization=None,
        ),
        url=url,
        model=model,
        dialect=kind.dialect,
        pid=_root_on_this_host(url) if meter is None else None,
        meter=meter,
        max_positions=kind.max_positions or max_positions,
        read_counters=lambda: read_counters(url, kind.dialect),
        why_dead=lambda: _why_dead(url),
    )


def _kind_of(url: str, models: Page) -> _Kind:
    listed = _listed(models)
    owner = str(listed[0].get("owned_by", "")) if listed else ""
    longest = listed[0].get("max_model_len") if listed else None
    if owner == "llamacpp" or models.software.startswith("llama.cpp"):
        properties = _json(f"{url}/props")
        context = properties.get("default_generation_settings", {}).get("n_ctx")
        return _Kind("llamacpp", properties.get("build_info"), context)
    if owner == "sglang":
        about = _json(f"{url}/server_info") or _json(f"{url}/get_server_info")
        return _Kind("sglang", about.get("version"), longest)
    version = _json(f"{url}/version").get("version")
    if owner == "vllm":
        return _Kind("vllm", version, longest)
    # `transformers serve` has these pages of its own, and lists what lies in the cache of the hub.
    pages = _json(f"{url}/openapi.json").get("paths", {})
    if "/load_model" in pages and "/v1/responses" in pages:
        return _Kind("transformers", None)
    return _Kind("openai", version)


def _model(wanted: str | None, models: Page, kind: _Kind, *, where: str, whose: str) -> str:
    names = [str(one.get("id")) for one in _listed(models)]
    lists = f"it lists {', '.join(names)}" if names else "it lists none"
    # `transformers serve` does not list the model that it was started with.
    if wanted and (wanted in names or kind.dialect == "transformers" or models.status == 404):
        return wanted
    if wanted:
        raise ValueError(
            f"{where} serves no model {wanted!r}, {lists}; correct eval.serving.url.{whose}_model"
        )
    if len(names) != 1 or kind.dialect == "transformers":
        raise ValueError(
            f"{where} does not say which model it serves, {lists}; set "
            f"eval.serving.url.{whose}_model"
        )
    return names[0]


def _listed(models: Page) -> list[dict[str, Any]]:
    page = models.json()
    listed = page.get("data") if isinstance(page, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _json(url: str) -> dict[str, Any]:
    page = get(url)
    found = page.json() if page else None
    return found if isinstance(found, dict) else {}


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # A port that is no number.
        return False


def _base(url: str) -> str:
    """The address without a slash or /v1 at its end."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _port_of(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _why_dead(url: str) -> str | None:
    """A sentence where nothing listens any more. A server that is only slow is not dead."""
    host = urlsplit(url).hostname
    try:
        with socket.create_connection((host, _port_of(url)), timeout=2.0):
            return None
    except ConnectionRefusedError:
        return f"the server at {url} has ended: nothing listens there any more"
    except OSError:
        return None


def _root_on_this_host(url: str) -> int | None:
    """The process whose descendants, with itself, are the server. None where it is not to be seen.

    The server is the listener with those above it in its process group: a group is what a shell
    starts together. Our own ancestors, such as a script that started both, are no server.
    """
    if not _is_this_host(urlsplit(url).hostname or ""):
        log.warning("%s is on another host: the CPU time of its server is not counted", url)
        return None
    listener = _listener(_port_of(url))
    if listener is None:
        log.warning(
            "%s: its server's process cannot be seen by this user, or is in a container: its CPU "
            "time is not counted",
            url,
        )
        return None
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    root = listener
    with contextlib.suppress(psutil.Error, OSError):
        group = os.getpgid(listener.pid)
        for parent in listener.parents():
            if parent.pid in ours or os.getpgid(parent.pid) != group:
                break
            root = parent
    return root.pid


def _listener(port: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.pid is None:
                continue
            if connection.laddr.port != port:  # pyright: ignore[reportAttributeAccessIssue]
                continue
            process = psutil.Process(connection.pid)
            return None if process.name() in _FORWARDERS else process
    return None


def _is_this_host(host: str) -> bool:
    own = {
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
    }
    try:
        found = {str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(
        address in own or address.startswith("127.") or address == "::1" for address in found
    )
