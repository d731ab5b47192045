"""What keys and plans of serving know of the log that is replayed, each log read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.serving import Replay, Serving
from kdwatts.runtime.fingerprint import known_sha256
from kdwatts.serving.load.replayed_log import Part, ReplayedLog, log_path, part_of, stretch_of
from kdwatts.traffic.logs import format_of


@dataclass(frozen=True)
class LogFacts:
    """A stretch of a log without its requests."""

    times_s: NDArray[np.float64]
    """Arrivals, in order and from 0."""
    asks_natural: bool
    """Whether a request asks itself for an answer of natural length."""


def log_facts(settings: Replay) -> LogFacts:
    """The facts of the stretch that is replayed. Raises ValueError as `stretch_of`."""
    path = log_path(settings)
    return _facts(path, known_sha256(path), settings.format, settings.from_s, settings.for_s)


@lru_cache(maxsize=8)
def _facts(
    path: Path, sha256: str, log_format: str, from_s: float, for_s: float | None
) -> LogFacts:
    del sha256  # Another content is another log.
    requests, _ = stretch_of(Replay(str(path), log_format, from_s=from_s, for_s=for_s))
    times_s = np.fromiter((one.t_s for one in requests), float, len(requests))
    return LogFacts(times_s, any(one.length == "natural" for one in requests))


def key_of_log(asked: Serving) -> dict[str, Any]:
    """What a key has of the log: its content and how it is replayed, never its place.

    Empty without a log. The speeds are the loads of a replay, which the key has anyway. Raises
    ValueError for a log that is not there or begins as none.
    """
    replay = asked.replay
    if replay.log is None:
        return {}
    path = log_path(replay)
    return {
        "replay": {
            "sha256": known_sha256(path),
            "format": format_of(path) if replay.format == "auto" else replay.format,
            "from_s": replay.from_s,
            "for_s": replay.for_s,
            "sessions": replay.sessions,
        }
    }


def check_unchanged(log: ReplayedLog, keyed: Mapping[str, Any]) -> None:
    """Raise RuntimeError for a log that changed after the key was made of it, as one that grows.

    The store would keep what is measured under the content that the log had before. `keyed` are
    the settings of the key.
    """
    if log.traffic.sha256 != keyed["replay"]["sha256"]:
        raise RuntimeError(
            "eval.serving.replay.log changed while this run trained, and its measurements are kept "
            "by the log's content; replay a copy that nobody writes to, and run the command again"
        )


def parts_of_log(asked: Serving) -> list[Part]:
    """What each speed replays. Raises ValueError as `stretch_of` and `part_of`."""
    times_s = log_facts(asked.replay).times_s
    return [part_of(times_s, speed, asked.max_window_s) for speed in asked.replay.speeds]
