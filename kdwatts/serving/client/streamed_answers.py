"""One streamed answer, event by event: which chunks hold tokens, and how many in all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from kdwatts.serving.client.outcomes import FAILURES

_DONE = b"[DONE]"


class BadAnswer(Exception):
    """An answer that counts as failed: its kind, a key of FAILURES, and a word about it."""

    def __init__(self, kind: str, detail: str) -> None:
        assert kind in FAILURES
        super().__init__(detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counts them."""

    prompt_tokens: int
    output_tokens: int


class Answer:
    """What has come of one answer."""

    def __init__(self) -> None:
        self.chunks: list[tuple[float, int]] = []
        """Arrival of each chunk with tokens, in monotonic seconds, and the tokens known in it."""
        self.tokens = 0
        """Tokens that are known to have come. With `ended` there may be more."""
        self.finish_reason: str | None = None
        self.is_done = False
        """Whether the server said that nothing more comes. Some say nothing and close."""
        self.num_events = 0
        self._num_texts = 0
        """Events with text."""
        self._last_s = 0.0
        self._usage: Usage | None = None
        self._usage_is_final = False
        self._usage_runs_along = True
        """Whether each event with a choice had a usage until now."""

    def take(self, data: bytes, now_s: float) -> None:
        """Take the data of one event, which arrived at `now_s`.

        Where a usage runs along, its increase is the tokens of the event. Else a chunk with text
        is known to have one, and may have more. An early chunk with a role, a usage or a comment
        is no token.

        Raises BadAnswer for an error, for what is no JSON and no chunk, and for counts that
        contradict each other.
        """
        self.num_events += 1
        if data == _DONE:
            self.is_done = True
            return
        event = self._event(data)
        choice = event["choices"][0] if event["choices"] else {}
        if not isinstance(choice, dict):
            raise self._bad_stream("has a choice that is no object")
        text, reason = choice.get("text"), choice.get("finish_reason")
        if text is not None and not isinstance(text, str):
            raise self._bad_stream("has a text that is no string")
        if reason and isinstance(reason, str):  # TGI writes "" while there is none.
            self.finish_reason = reason
        before = self._usage.output_tokens if self._usage else 0
        has_usage = self._count(event)
        if not choice:
            return
        self._last_s = now_s
        self._num_texts += bool(text)
        self._usage_runs_along = self._usage_runs_along and has_usage
        tokens = int(bool(text))
        if self._usage_runs_along and self._usage:
            tokens = self._usage.output_tokens - before
        if tokens:
            self.chunks.append((now_s, tokens))
            self.tokens += tokens

    def so_far(self) -> Usage | None:
        """The counts of an answer that was given up; None where no usage runs along."""
        return self._usage if self._usage_runs_along else None

    def ended(self) -> tuple[Usage, list[tuple[float, int]]]:
        """The final counts of an answer whose stream has ended, and the tokens of each chunk.

        Tokens of a chunk are the increase of a usage that runs along, else an even share of the
        final one. Tokens of an answer without any text came with its end.

        Raises BadAnswer without a finish reason, and for counts that are missing or wrong.
        """
        if not self.finish_reason:
            raise BadAnswer("no_finish", f"{self.num_events} events came, none with its reason")
        if self._usage is None:
            raise _bad_usage("the server sent no usage")
        total, parts = self._usage.output_tokens, len(self.chunks)
        if total < self._num_texts:
            raise _bad_usage(f"{self._num_texts} chunks had text, but usage says {total} tokens")
        if not parts:
            return self._usage, [(self._last_s, total)] if total else []
        if self._usage_runs_along:
            return self._usage, self.chunks
        counts = _spread(total, parts)
        times_s = [arrived_s for arrived_s, _ in self.chunks]
        return self._usage, list(zip(times_s, counts, strict=True))

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            # The library's message may quote the line, and the line the prompt.
            raise self._bad_stream("is no JSON in UTF-8") from None
        if isinstance(event, dict) and (event.get("error") or event.get("object") == "error"):
            raise BadAnswer("error_in_stream", words_of_error(event))
        if not (isinstance(event, dict) and isinstance(event.get("choices"), list)):
            raise self._bad_stream("has no choices")
        return event

    def _count(self, event: dict[str, Any]) -> bool:
        """Take the usage of an event; whether it has one."""
        counts = event.get("usage")
        if counts is None:
            return False
        # True is an int to Python.
        numbers = [
            counts[name]
            for name in ("prompt_tokens", "completion_tokens")
            if isinstance(counts, dict) and type(counts.get(name)) is int and counts[name] >= 0
        ]
        if len(numbers) < 2:
            raise _bad_usage("a usage lacks a count of tokens, or has one that is no number from 0")
        usage = Usage(*numbers)
        before = self._usage
        if before is not None:
            # While text comes the usage may run along. After the end nothing is written.
            grown = usage.output_tokens - before.output_tokens
            has_grown_late = grown > 0 and self._usage_is_final
            if usage.prompt_tokens != before.prompt_tokens or grown < 0 or has_grown_late:
                raise _bad_usage(
                    f"two usages differ: {before.prompt_tokens} and {before.output_tokens} tokens, "
                    f"then {usage.prompt_tokens} and {usage.output_tokens}"
                )
        self._usage_is_final = self.finish_reason is not None
        self._usage = usage
        return True

    def _bad_stream(self, fault: str) -> BadAnswer:
        return BadAnswer("bad_stream", f"event {self.num_events} {fault}")


def words_of_error(answer: object) -> str:
    """The sentence in an error's JSON, in the forms of OpenAI, FastAPI and the servers at hand."""
    if isinstance(answer, dict):
        for name in ("error", "message", "detail", "msg"):
            if answer.get(name):
                return words_of_error(answer[name])
        return ""
    if isinstance(answer, list):
        return "; ".join(words_of_error(one) for one in answer)
    return str(answer)


def _bad_usage(detail: str) -> BadAnswer:
    return BadAnswer("bad_usage", detail)


def _spread(total: int, parts: int) -> list[int]:
    """Whole numbers that add up to `total` and differ by 1 at most, the larger ones spread out."""
    edges = [total * index // parts for index in range(parts + 1)]
    return [after - before for before, after in pairwise(edges)]
