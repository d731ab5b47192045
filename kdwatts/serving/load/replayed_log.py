"""The stretch of a log that is replayed, in the tokens of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.serving import Replay, Workload
from kdwatts.runtime.fingerprint import known_sha256
from kdwatts.runtime.paths import resolve_dir
from kdwatts.traffic.logged_request import LoggedRequest
from kdwatts.traffic.logs import whole_log
from kdwatts.traffic.traffic_figures import traffic_of
from kdwatts.traffic.traffic_summary import TrafficSummary

LOG = "eval.serving.replay.log"


@dataclass(frozen=True)
class ReplayedLog:
    """What is replayed."""

    requests: Sequence[LoggedRequest]
    """In the order of arrival, the first at 0 s. A conversation is rendered into its prompt."""
    ids: Sequence[NDArray[np.int32] | None]
    """Tokens of each prompt, int32 [n]; None for a request without text."""
    traffic: TrafficSummary
    """Of these requests, with prompts of text in the model's tokens."""
    is_ordered: bool
    """Whether turns of a conversation wait for each other."""

    @property
    def times_s(self) -> NDArray[np.float64]:
        """When requests came, in seconds, [n]."""
        return np.fromiter((one.t_s for one in self.requests), float, len(self.requests))

    @property
    def lengths(self) -> set[str]:
        """The lengths, natural or forced, that requests ask for themselves."""
        return {one.length for one in self.requests if one.length}


@dataclass(frozen=True)
class Part:
    """What one load replays of a log."""

    num_requests: int
    """From the first one on."""
    speed: float
    last_s: float
    """When the last of them is due, in seconds after the first."""
    whole_s: float
    """When the last of the log would be."""

    @property
    def rate_per_s(self) -> float:
        """Mean requests a second that are offered."""
        return (self.num_requests - 1) / self.last_s


def log_path(settings: Replay) -> Path:
    """The file of the log. Raises ValueError where there is none."""
    path = resolve_dir(settings.log or "")
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise ValueError(f"{LOG}={settings.log} {found}; give the file of a log")
    return path


def stretch_of(settings: Replay) -> tuple[list[LoggedRequest], TrafficSummary]:
    """The requests of the stretch, the first at 0 s, and what they say of their traffic.

    Raises ValueError for a log that cannot be read, and for a stretch without a rate.
    """
    path = log_path(settings)
    log = whole_log(path, settings.format)
    until_s = np.inf if settings.for_s is None else settings.from_s + settings.for_s
    chosen = [one for one in log.requests if settings.from_s <= one.t_s < until_s]
    if not chosen or chosen[-1].t_s == chosen[0].t_s:
        raise ValueError(
            f"eval.serving.replay: the stretch from_s={settings.from_s:g}, for_s={settings.for_s} "
            f"holds {len(chosen)} requests, of one moment or none, and the log lasts "
            f"{log.requests[-1].t_s:g} s; give a stretch with requests of two moments"
        )
    first_s = chosen[0].t_s
    chosen = [replace(one, t_s=one.t_s - first_s) for one in chosen] if first_s else chosen
    traffic = traffic_of(
        chosen,
        log_format=log.log_format,
        sha256=known_sha256(path),
        num_left_out=log.num_left_out,
    )
    return chosen, traffic


def replayed_log(settings: Replay, tokenizer: Any) -> ReplayedLog:
    """The stretch of the log that is replayed, read by a model's tokenizer.

    Raises ValueError as `stretch_of`, and for conversations that the tokenizer cannot render. No
    message quotes them.
    """
    requests, traffic = stretch_of(settings)
    ids: list[NDArray[np.int32] | None] = [None] * len(requests)
    for number, one in enumerate(requests):
        if one.prompt is None and one.messages is None:
            continue
        text = one.prompt if one.messages is None else _rendered(one, number, tokenizer)
        # A template writes the special tokens itself; those of a bare prompt a server adds.
        encoded = tokenizer(text, add_special_tokens=one.messages is None)["input_ids"]
        ids[number] = np.array(encoded, np.int32)
        requests[number] = replace(one, prompt=text, messages=None, prompt_tokens=len(encoded))
    if any(one is not None for one in ids):
        traffic = traffic_of(
            requests,
            log_format=traffic.log_format,
            sha256=traffic.sha256,
            num_left_out=traffic.num_left_out,
        )
    return ReplayedLog(requests, ids, traffic, settings.sessions == "ordered")


def _rendered(one: LoggedRequest, number: int, tokenizer: Any) -> str:
    """A conversation as the model reads it. Raises ValueError."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{LOG}: the log has 'messages', but the model's tokenizer has no chat template to "
            "render them with; give a model with one, or a log with 'prompt'"
        )
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in one.messages or ()],
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:
        # What a template says of a conversation may quote it.
        raise ValueError(
            f"{LOG}: the model's chat template refuses the messages of request {number + 1} of "
            f"the stretch ({type(error).__name__}); repair or delete them"
        ) from None


def part_of(times_s: NDArray[np.float64], speed: float, max_window_s: float) -> Part:
    """What is replayed of a log at a speed in no more than `max_window_s`.

    `times_s` are the arrivals, [n], in order and from 0.

    Raises ValueError where that is too short for requests of two moments.
    """
    times_s = times_s / speed
    number = int(np.searchsorted(times_s, max_window_s, side="right"))
    last_s = float(times_s[number - 1])
    if last_s <= 0:
        raise ValueError(
            f"eval.serving.max_window_s={max_window_s:g} holds {number} requests of one moment of "
            f"the log at eval.serving.replay.speeds={speed:g}; give more seconds, or a higher speed"
        )
    return Part(number, speed, last_s, float(times_s[-1]))


def replay_words(workload: Workload, log: ReplayedLog, settings: Replay) -> dict[str, object]:
    """What a record says of requests that a log gave: hash, format, stretch, lengths."""
    traffic = log.traffic
    words: dict[str, object] = {}
    for name, known in (("prompt", traffic.prompt_tokens), ("output", traffic.output_tokens)):
        # Where the log does not say how long answers were, the workload does.
        mean = asdict(workload)[f"{name}_tokens"] if known is None else round(known.mean)
        words |= {f"{name}_tokens": mean, f"{name}_tokens_p95": known and round(known.p95)}
    return words | {
        "replay_sha256": traffic.sha256,
        "replay_format": traffic.log_format,
        "replay_from_s": settings.from_s,
        "replay_for_s": settings.for_s,
        "replay_sessions": settings.sessions,
        "replay_requests": traffic.num_requests,
        "replay_rate_per_s": traffic.rate_per_s,
        "replay_dispersion": traffic.dispersion,
    }
