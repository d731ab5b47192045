"""What a reader must know of the requests of a load, and of a replay, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.load.replayed_log import Part
from kdwatts.serving.measure.verdicts import LEFT_SHARE

LATE_S = 0.001
"""A turn that came so much later than the log says did wait for the one before it."""


@dataclass(frozen=True)
class Asked:
    """What one request asked for."""

    output_tokens: int
    is_forced: bool
    """Whether exactly so many tokens were asked for."""
    is_cut: bool
    """Whether prompt or answer was cut to the context."""
    is_repeated: bool
    """Whether the server had been sent its text before."""
    due_s: float | None
    """Of a replay, the logged moment in monotonic seconds."""


def request_remarks(outcomes: Sequence[Outcome], asked: Mapping[int, Asked]) -> list[str]:
    """Answers of another length than the forced one; logged requests that were cut or repeated."""
    sentences = []
    ended = [one for one in outcomes if one.failure is None and asked[one.number].is_forced]
    unlike = sum(one.output_tokens != asked[one.number].output_tokens for one in ended)
    if unlike:
        sentences.append(
            f"{unlike} of {len(ended)} answers have another length than the one that was forced."
        )
    if cut := sum(asked[one.number].is_cut for one in outcomes):
        sentences.append(
            f"{cut} of {len(outcomes)} requests were cut to fit the context of the model."
        )
    if repeated := sum(asked[one.number].is_repeated for one in outcomes):
        sentences.append(
            f"{repeated} of {len(outcomes)} prompts were sent to this server in a load before: "
            "what it kept of them in its cache, it did not read again."
        )
    return sentences


def replay_remarks(
    part: Part, outcomes: Sequence[Outcome], asked: Mapping[int, Asked]
) -> list[str]:
    """How much of the log was replayed, and how many turns waited for the one before them."""
    sentences = []
    if part.last_s < part.whole_s:
        share = 100 * part.last_s / part.whole_s
        sentences.append(
            f"The first {share:.3g} % of the stretch of the log were replayed, {part.last_s:.4g} "
            f"of {part.whole_s:.4g} s: raise max_window_s."
        )
    waits_s = [
        one.scheduled_s - due_s
        for one in outcomes
        if (due_s := asked[one.number].due_s) is not None
    ]
    late_s = [wait_s for wait_s in waits_s if wait_s > LATE_S]
    if late_s:
        sentences.append(
            f"{len(late_s)} of {len(outcomes)} requests were sent later than the log says, up to "
            f"{max(late_s):.3g} s, as the turn before them had not ended."
        )
    if unsent := part.num_requests - len(outcomes):
        sentences.append(
            f"{unsent} of {part.num_requests} requests were not sent before the replay ended: the "
            "turn before them had not ended, or our client was too slow."
        )
    return sentences


def left_over_remark(outcomes: Sequence[Outcome]) -> list[str]:
    """That more requests are under way at a replay's last one than at its half.

    A short replay, or one in bursts, seldom shows that times to first token rise, as `saturated`
    asks. What is left over is seen all the same. It may be a last burst, or a queue that grows.
    """
    sent = sorted((one.sent_s, one.ended_s) for one in outcomes if one.sent_s is not None)
    if not sent:
        return []
    last_s = sent[-1][0]
    half_s = (sent[0][0] + last_s) / 2
    before, now = (
        sum(sent_s <= moment_s < ended_s for sent_s, ended_s in sent)
        for moment_s in (half_s, last_s)
    )
    since = sum(sent_s > half_s for sent_s, _ in sent)
    if now - before <= LEFT_SHARE * since:
        return []
    return [
        f"{now} requests were under way at the last one and {before} at the half of the replay, of "
        f"{since} that were sent in between: a last burst, or more than the server can answer. "
        "Then joules a request are too high; replay more of the log."
    ]
