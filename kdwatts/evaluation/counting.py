"""Counts the tokens that a model reads and writes for a harness, which reports none itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdwatts.telemetry.open_window import OpenWindow


class TokenCount:
    """Counts the tokens that pass through an HFLM, without padding, in a window."""

    def __init__(self, served: Any) -> None:
        self._window: OpenWindow | None = None
        self._max_length = served.max_length
        self._groups = served.logits_cache
        self._end_ids = {served.tokenizer.pad_token_id, served.eot_token_id}
        self._read, self._write = served._loglikelihood_tokens, served._model_generate
        served._loglikelihood_tokens, served._model_generate = self._counted_read, self._counted

    def into(self, window: OpenWindow) -> None:
        """Count in this window from now on."""
        self._window = window

    def add(self, tokens: int) -> None:
        """Count tokens that pass by another way than through the HFLM."""
        assert self._window
        self._window.tokens += tokens

    def _counted_read(self, requests: Any, *arguments: Any, **options: Any) -> Any:
        """Answers of one token after the same words are read off one pass, so it counts once."""
        texts = [tuple(context + answer[:-1]) for _, context, answer in requests]
        texts = set(texts) if self._groups else texts
        self.add(sum(min(len(text), self._max_length) for text in texts))
        return self._read(requests, *arguments, **options)

    def _counted(self, context: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """The prompt, and each text up to its end token."""
        texts = self._write(context, *arguments, **options)
        prompt_tokens = int(options["attention_mask"].sum())
        written = texts[:, context.shape[1] :].tolist()
        self.add(prompt_tokens + sum(map(self._length, written)))
        return texts

    def _length(self, ids: list[int]) -> int:
        ends = (place for place, token in enumerate(ids) if token in self._end_ids)
        return next(ends, len(ids) - 1) + 1
