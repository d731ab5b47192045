"""What a reader gets of a page: its words, and the arrays that its figures are drawn from."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.baselines.places import write_json, write_text

SPOKEN = ("aria-label", "alt", "title", "href", "id", "value", "download", "data-choice")
"""Attributes that are read out, followed or saved as."""
LONGEST_SCRIPT = 50_000
"""A script of ours is shorter; plotly's own is told by its hash."""


class _Page(HTMLParser):
    """Words, figures and code of a page, in its order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.figures: list[Any] = []
        self.code: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else None
        self._is_data = dict(attrs).get("type") == "application/json"
        spoken = [f"{name}={value}" for name, value in attrs if name in SPOKEN]
        if spoken:
            self.words.append(f"<{tag} {' '.join(spoken)}>")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script" and self._is_data:
            self.figures.append(decoded(json.loads(data)))
        elif self._inside == "script" and len(data) > LONGEST_SCRIPT:
            self.code.append(f"script of {len(data)} characters, sha256 {_sha256(data)}")
        elif self._inside:
            self.code.append(data)
        elif data.strip():
            self.words.append(" ".join(data.split()))


def write_page(folder: Path, name: str, text: str) -> None:
    """Write the page's words, code and figures below `folder`, under this name."""
    page = _Page()
    page.feed(text)
    page.close()
    write_text(folder / f"{name}.txt", "\n".join(page.words))
    write_text(folder / f"{name} code.txt", "\n".join(page.code))
    for number, figure in enumerate(page.figures):
        write_json(folder / f"{name} figures" / f"{number:02}.json", figure)


def decoded(value: Any) -> Any:
    """Plotly's JSON with plain numbers for its arrays in base 64."""
    if isinstance(value, dict) and {"dtype", "bdata"} <= set(value):
        array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
        shape = [int(size) for size in str(value.get("shape", len(array))).split(",")]
        return array.reshape(shape).tolist()
    if isinstance(value, dict):
        return {key: decoded(one) for key, one in value.items()}
    return [decoded(one) for one in value] if isinstance(value, list) else value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
