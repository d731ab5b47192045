"""A network between two hosts on which everything takes its time, each way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


@contextmanager
def slow_network(url: str, delay_s: float) -> Iterator[str]:
    """An address from which all goes on to `url`, `delay_s` later, and so do the answers."""
    target = urlsplit(url)
    assert target.hostname and target.port
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(
            target=_accept, args=(listener, (target.hostname, target.port), delay_s), daemon=True
        ).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, target: tuple[str, int], delay_s: float) -> None:
    with suppress(OSError):  # It was closed.
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(target)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink, delay_s), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            time.sleep(delay_s)
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
