"""What another node of a run does for the first: it runs a meter, and answers about it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdwatts.config.machine import Telemetry
from kdwatts.telemetry.node_meter import NodeMeter
from kdwatts.telemetry.tallies_over_http import Listener


@contextmanager
def answering_node(
    run_dir: Path,
    settings: Telemetry,
    *,
    attempt: int,
    number: int,
    use_gpus: bool,
    peers: Sequence[int],
    token: str,
    reach: tuple[str, int],
) -> Iterator[str]:
    """Meter this node, the one of this number, and answer whoever has the token.

    Yields the URL. It is at the address by which this node reaches `reach`, host and port of the
    first rank, and at any free port. Raises what `NodeMeter` raises, ValueError where that address
    cannot be listened on, and OSError where the first rank's is none.
    """
    listener = Listener(own_address(*reach), 0, token)
    try:
        with (
            NodeMeter(
                run_dir,
                settings,
                attempt=attempt,
                number=number,
                use_gpus=use_gpus,
                peers=peers,
            ) as meter,
            listener.answering(meter),
        ):
            yield listener.url
    finally:
        listener.close()


def own_address(host: str, port: int) -> str:
    """The address of this node on the network by which it reaches a host. Nothing is sent."""
    kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return probe.getsockname()[0]
