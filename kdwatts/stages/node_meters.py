"""The meters of a run's other nodes: each node's first rank runs one, and the first rank asks."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kdwatts.runtime.ranks import meeting_point
from kdwatts.stages.rank_messages import Measure
from kdwatts.telemetry.clock_offset import ClockOffset
from kdwatts.telemetry.holds import sole_user
from kdwatts.telemetry.node_listener import answering_node
from kdwatts.telemetry.other_nodes import OtherNode

if TYPE_CHECKING:
    from kdwatts.training.company import Company


@contextmanager
def meter_here(message: Measure, company: Company) -> Iterator[str]:
    """Meter this node, and yield the URL at which the meter answers: the answer is {"url": URL}.

    Enter it before anything uses the GPU, and leave it when the first rank has ended its run.
    Raises what `NodeMeter` raises on entry, such as RuntimeError where another process uses a GPU
    of this job or holds it.
    """
    telemetry, uses_gpus = message.config.telemetry, message.config.gpu.device != "cpu"
    gpus = company.node.gpus if uses_gpus else []
    with (
        sole_user(gpus, allowed=telemetry.allow_shared),
        answering_node(
            message.run_dir,
            telemetry,
            attempt=message.attempt,
            number=company.node.number,
            use_gpus=uses_gpus,
            peers=company.peers,
            token=_meter_token(company),
            reach=_first_rank(),
        ) as url,
    ):
        yield url


def _meter_token(company: Company) -> str:
    """What whoever asks a meter of this launch must know.

    It travels unencrypted, so it is not the token that signs messages, and that one does not follow
    from it.
    """
    return hmac.new(company.token.encode(), b"meter", hashlib.sha256).hexdigest()


def _first_rank() -> tuple[str, int]:
    """Host and port where the ranks of this launch meet."""
    place = urlsplit(meeting_point())
    if place.scheme == "tcp":
        return place.hostname or "", place.port or 0
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def meters_of_others(company: Company, answers: Mapping[int, Any]) -> list[OtherNode]:
    """The meters of the other nodes, from what ranks answered to Measure.

    Raises RuntimeError for a node whose first rank did not answer, and ValueError for a meter that
    this node cannot reach: one sentence each.
    """
    others = []
    for node in company.nodes[1:]:
        answer = answers.get(node.ranks[0])
        if not answer:
            raise RuntimeError(
                f"node {node.number} ({node.host}) was asked to meter itself and did not answer; "
                f"see the log of {company.name_of(node.ranks[0])}"
            )
        others.append(OtherNode(node.number, answer["url"], _meter_token(company)))
    return others


def clock_offsets(others: Sequence[OtherNode]) -> dict[int, ClockOffset]:
    """Number of each other node to its monotonic clock less ours, and how well that is known."""
    return {other.number: other.clock_offset() for other in others}
