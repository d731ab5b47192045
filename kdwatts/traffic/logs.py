"""Logs of requests, read from their files: our own format, Azure, BurstGPT, Mooncake."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdwatts.runtime.fingerprint import known_sha256
from kdwatts.traffic import azure_log, burstgpt_log, mooncake_log
from kdwatts.traffic.azure_log import azure_request
from kdwatts.traffic.burstgpt_log import burstgpt_request
from kdwatts.traffic.kdwatts_log import kdwatts_request
from kdwatts.traffic.log_rows import BadRow, at, csv_rows, header_names, json_rows, opened
from kdwatts.traffic.logged_request import LoggedRequest
from kdwatts.traffic.mooncake_log import mooncake_request
from kdwatts.traffic.traffic_figures import traffic_of
from kdwatts.traffic.traffic_summary import FORMATS, TrafficSummary

Reader = Callable[[Any], LoggedRequest | None]
"""Makes a request of a row; None for one that is left out."""

JSON_READERS: dict[str, Reader] = {"kdwatts": kdwatts_request, "mooncake": mooncake_request}
CSV_READERS: dict[str, tuple[Reader, Sequence[str], Sequence[str]]] = {
    "azure": (azure_request, azure_log.COLUMNS, azure_log.COLUMNS),
    "burstgpt": (burstgpt_request, burstgpt_log.COLUMNS, burstgpt_log.NEEDED),
}
"""What makes a request of a row's cells, the columns that it takes, and those it needs."""


@dataclass(frozen=True)
class Log:
    """All requests of one file."""

    log_format: str
    """kdwatts, azure, burstgpt or mooncake."""
    requests: list[LoggedRequest]
    """In the order of arrival; those of one moment in the order of the file."""
    num_left_out: int
    """Rows that are no requests to serve: failures, and rows without tokens."""


def read_log(path: Path, log_format: str = "auto") -> list[LoggedRequest]:
    """The requests of a log in the order of arrival, the first at 0 s.

    `auto` knows the format by the first line: by the header of a CSV, by the keys of JSON. A file
    may be gzipped.

    Raises ValueError, in one sentence with file and line and without a word of the row, for a file
    or a row that cannot be read, and for a log without a request.
    """
    return whole_log(path, log_format).requests


def summary(path: Path, log_format: str = "auto") -> TrafficSummary:
    """What a log says of its traffic. Raises ValueError as `read_log`, and as `traffic_of`."""
    log = whole_log(path, log_format)
    return traffic_of(
        log.requests,
        log_format=log.log_format,
        sha256=known_sha256(path),
        num_left_out=log.num_left_out,
    )


def whole_log(path: Path, log_format: str = "auto") -> Log:
    """A log with its format and the number of rows left out. Raises ValueError as `read_log`."""
    if log_format not in FORMATS:
        raise ValueError(
            f"the format {log_format} of the log is not known; give one of {', '.join(FORMATS)}"
        )
    kind = format_of(path) if log_format == "auto" else log_format
    requests: list[LoggedRequest] = []
    num_rows = 0
    with opened(path) as text:
        for request in _requests(text, path, kind):
            num_rows += 1
            if request is not None:
                requests.append(request)
    if not requests:
        found = f"{num_rows} rows, none of them a request to serve" if num_rows else "no rows"
        raise ValueError(f"the log {path} has {found}; give a log with requests")
    first_s = min(request.t_s for request in requests)
    if first_s:
        requests = [replace(one, t_s=one.t_s - first_s) for one in requests]
    requests.sort(key=lambda one: one.t_s)
    return Log(kind, requests, num_rows - len(requests))


def format_of(path: Path) -> str:
    """The format of a log by its first line. Raises ValueError for one that is none of ours."""
    with opened(path) as text:
        line = next((line for line in text if line.strip()), "")
    if not line:
        raise ValueError(f"the log {path} is empty; give a log with requests")
    keys = _keys(line)
    if keys is not None:
        if "t_s" in keys:
            return "kdwatts"
        if all(key in keys for key in mooncake_log.KEYS):
            return "mooncake"
    else:
        try:
            names = header_names(next(csv.reader([line]), []))
        except csv.Error:
            names = []
        if all(name.lower() in names for name in azure_log.COLUMNS):
            return "azure"
        if all(name.lower() in names for name in burstgpt_log.NEEDED):
            return "burstgpt"
    raise ValueError(
        f"the log {path} begins as no format that is known; give JSONL with t_s, a CSV with the "
        "header of Azure's or BurstGPT's logs, or Mooncake's JSONL"
    )


def _keys(line: str) -> list[str] | None:
    """Keys of a line of JSON; None for a line that is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return list(row) if isinstance(row, dict) else None


def _requests(text: io.TextIOBase, path: Path, kind: str) -> Iterator[LoggedRequest | None]:
    """A request for each row, None for one that is left out. Raises ValueError."""
    if kind in CSV_READERS:
        read, columns, needed = CSV_READERS[kind]
        rows = csv_rows(text, path, columns, needed)
    else:
        read, rows = JSON_READERS[kind], json_rows(text, path)
    for line, row in rows:
        try:
            yield read(row)
        except BadRow as bad:
            raise ValueError(at(path, line, str(bad))) from None
