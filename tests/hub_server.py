"""A model hub on this machine: folders served by the protocol that huggingface_hub speaks."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The one revision of everything here; `main` is it too."""

_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)/?(.*))?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """What is served, and what was asked."""

    root: Path
    """models/OWNER/NAME and datasets/OWNER/NAME."""
    url: str = ""
    gated: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    """Every file that was sent whole or in part."""


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """A hub of the folders below `root` until the end of the block."""
    hub = Hub(root)

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        del format, args

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        try:
            paths = json.loads(text)["paths"]
        except ValueError:
            paths = parse_qs(text)["paths"]
        self._answer(body=True, paths=paths)

    def _answer(self, *, body: bool, paths: list[str] | None = None) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := _FILE.fullmatch(path):
            kind, repo, name = match[1] or "models/", match[2], match[4]
            return self._send_file(kind + repo, repo, name, match[3], body=body)
        if match := _API.fullmatch(path):
            return self._send_listing(match, paths)
        self._refuse(404, "NotFound")

    def _refuse(self, code: int, reason: str) -> None:
        headers = {"X-Error-Code": reason, "X-Error-Message": reason, "X-Repo-Commit": COMMIT}
        self._send(code, b"", headers, body=False)

    def _found(self, place: str, repo: str, revision: str) -> Path | None:
        """The folder of a repository; None once its absence was told."""
        folder = self.served.root / place
        if repo in self.served.gated:
            self._refuse(403, "GatedRepo")
        elif not folder.is_dir():
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        else:
            return folder
        return None

    def _send_listing(self, match: re.Match[str], paths: list[str] | None) -> None:
        kind, repo, what, revision, below = match.groups()
        folder = self._found(f"{kind}/{repo}", repo, revision or "main")
        if folder is None:
            return
        found = sorted(p for p in folder.rglob("*"))
        names = {p.relative_to(folder).as_posix(): p for p in found}
        if what == "paths-info":
            entries = [_entry(name, names[name]) for name in paths or [] if name in names]
        elif what == "tree":
            is_recursive = "recursive=" in self.path and "recursive=False" not in self.path
            entries = [
                _entry(name, p)
                for name, p in names.items()
                if (is_recursive and name.startswith(below)) or p.parent == folder / below
            ]
        else:
            files = [{"rfilename": name} for name, p in names.items() if p.is_file()]
            entries = {"id": repo, "sha": COMMIT, "private": False, "gated": False, "tags": []}
            entries |= {"downloads": 0, "likes": 0, "siblings": files}
        content = json.dumps(entries).encode()
        self._send(200, content, {"Content-Type": "application/json"}, body=True)

    def _send_file(self, place: str, repo: str, name: str, revision: str, *, body: bool) -> None:
        folder = self._found(place, repo, revision)
        if folder is None:
            return
        path = folder / name
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        content = path.read_bytes()
        headers = {"ETag": f'"{_oid(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        code = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            end = min(end, len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, code = content[start : end + 1], 206
        if body:
            self.served.sent.append(f"{repo}/{name}")
        self._send(code, content, headers, body=body)

    def _send(self, code: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _entry(name: str, path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": name, "oid": _oid(path), "size": path.stat().st_size}
