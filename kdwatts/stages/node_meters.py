"""The meters of a run's other nodes: each node's first rank runs one, and the first rank asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdwatts.config.experiment import Config
from kdwatts.runtime.ranks import first_rank_address
from kdwatts.telemetry.clock_offset import ClockOffset
from kdwatts.telemetry.node_listener import answering_node
from kdwatts.telemetry.other_nodes import OtherNode

if TYPE_CHECKING:
    from kdwatts.training.company import Company


class Measure(Protocol):
    """What the first rank tells the first rank of each node: meter it until the run's end."""

    config: Config
    run_dir: Path
    attempt: int


@contextmanager
def meter_here(message: Measure, company: Company) -> Iterator[str]:
    """Meter this node, and yield the URL at which the meter answers, for {"url": url}.

    Enter it before anything uses the GPU, and leave it when the first rank has ended its run.
    Raises what `NodeMeter` raises on entry, such as RuntimeError where another process uses a GPU
    of this job.
    """
    with answering_node(
        message.run_dir,
        message.config.telemetry,
        attempt=message.attempt,
        number=company.number,
        use_gpus=message.config.gpu.device != "cpu",
        peers=company.peers,
        token=company.token,
        reach=first_rank_address(),
    ) as url:
        yield url


def meters_of_others(company: Company, answers: Mapping[int, Any]) -> list[OtherNode]:
    """The meters of the other nodes, from their answers to Measure by the node's number.

    An answer is {"url": URL}. Raises ValueError, in one sentence, for a node that the first rank
    cannot reach.
    """
    return [OtherNode(n, answers[n]["url"], company.token) for n in sorted(answers)]


def clock_offsets(others: Sequence[OtherNode]) -> dict[int, ClockOffset]:
    """Number of each other node to its monotonic clock less ours."""
    return {other.number: other.clock_offset() for other in others}
