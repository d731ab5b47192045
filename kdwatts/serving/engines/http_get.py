"""GET of a server's small pages: health, version, models, counters. Streams are the client's."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

# Our server is on this host or on one that is given by its address: never behind a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Page:
    """An answer, whatever its status."""

    status: int
    text: str
    software: str
    """The header Server; empty without one."""

    def json(self) -> Any:
        """What the page holds, or None where that is no JSON, or the status is no 200."""
        try:
            return json.loads(self.text) if self.status == 200 else None
        except ValueError:
            return None


def get(url: str, *, timeout_s: float = 5.0) -> Page | None:
    """The page at an address. None where nobody answers in HTTP within the time."""
    try:
        try:
            with _OPENER.open(url, timeout=timeout_s) as answer:
                return _page(answer)
        except urllib.error.HTTPError as error:
            with error:
                return _page(error)
    except (OSError, http.client.HTTPException):
        return None


def _page(answer: Any) -> Page:
    text = answer.read().decode("utf-8", "replace")
    return Page(answer.status, text, answer.headers.get("Server", ""))
