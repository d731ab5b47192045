"""The engines' own counters of tokens, from their /metrics in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdwatts.serving.engines.http_get import get


@dataclass(frozen=True)
class _Names:
    """What an engine calls its counters. All are of tokens since it started."""

    output: str
    prompt: str
    cached: Sequence[str] = ()
    """Prompt tokens that it found in its cache: the first that there is is subtracted."""


_NAMES = {
    # Older ones lack prompt_tokens_cached; hits of the prefix cache are counted in tokens.
    "vllm": _Names(
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        ("vllm:prompt_tokens_cached_total", "vllm:prefix_cache_hits_total"),
    ),
    "sglang": _Names(
        "sglang:generation_tokens_total",
        "sglang:prompt_tokens_total",
        ("sglang:cached_tokens_total",),
    ),
    # Its prompt tokens are those processed: what its cache held is not among them.
    "llamacpp": _Names("llamacpp:tokens_predicted_total", "llamacpp:prompt_tokens_total"),
}
_COMPUTED = "vllm:prompt_tokens_by_source_total"
"""Where vLLM has it, it says itself which prompt tokens it computed."""


def read_counters(url: str, dialect: str) -> dict[str, float] | None:
    """`computed_prompt_tokens` and `output_tokens` since the engine started.

    Computed are the tokens of prompts that were in no cache. Counters of several engines behind one
    address are added. None where the server has no such counters, or does not answer.
    """
    page = get(f"{url}/metrics") if dialect in _NAMES else None
    return tokens_counted(page.text, dialect) if page and page.status == 200 else None


def tokens_counted(text: str, dialect: str) -> dict[str, float] | None:
    """The counters in the text of a /metrics page, as in `read_counters`."""
    from prometheus_client.parser import text_string_to_metric_families

    names = _NAMES[dialect]
    wanted = {names.output, names.prompt, *names.cached, _COMPUTED}
    # Of some thousand lines five matter, and the parser is slow.
    lines = [line for line in text.split("\n") if line.partition("{")[0].split(" ")[0] in wanted]
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            if sample.name != _COMPUTED:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
            elif sample.labels.get("source") == "local_compute":
                totals[_COMPUTED] = totals.get(_COMPUTED, 0.0) + sample.value
    if names.output not in totals or names.prompt not in totals:
        return None
    cached = next((totals[name] for name in names.cached if name in totals), 0.0)
    computed = totals.get(_COMPUTED, totals[names.prompt] - cached)
    return {"computed_prompt_tokens": computed, "output_tokens": totals[names.output]}
