"""Names of what may be served: the model, its numbers, and what else tells candidates apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multirun_analysis.statistics.measured_replicas import Replica
from multirun_analysis.values.rows import Row


def labels(found: Sequence[Replica], runs: Mapping[str, Row]) -> list[str]:
    """A name of its own for each: model and numbers, and what else differs where these are equal.

    `runs` are the runs by name.
    """
    pairs = {replica.model for replica in found if replica.subject == "teacher"}
    names = [_model_name(replica, runs, several_pairs=len(pairs) > 1) for replica in found]
    parts = [_parts(replica) for replica in found]
    for name in {name for name in names if names.count(name) > 1}:
        same = [place for place, other in enumerate(names) if other == name]
        differing = [of for of in range(len(parts[0])) if len({parts[i][of] for i in same}) > 1]
        for place in same:
            names[place] += "".join(parts[place][of] for of in differing)
    for of in (_processor, _length, _runs):
        names = _apart(names, [of(replica) for replica in found])
    # What differs in nothing that can be read, such as the hash of a log, is counted.
    counts = [names[:place].count(name) + 1 for place, name in enumerate(names)]
    return _apart(names, [f" ({number})" for number in counts])


def _apart(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """The names, with `more` behind equal ones among which it differs."""
    differing: dict[str, set[str]] = {}
    for name, words in zip(names, more, strict=True):
        differing.setdefault(name, set()).add(words)
    return [
        name + words if len(differing[name]) > 1 else name
        for name, words in zip(names, more, strict=True)
    ]


def _processor(replica: Replica) -> str:
    return f" with {replica.first['cpu'] or 'an unknown processor'}"


def _length(replica: Replica) -> str:
    return f" of {replica.first['workload_length'] or 'unknown'} length"


def _runs(replica: Replica) -> str:
    return f" ({', '.join(replica.runs)})"


def hardware_words(replica: Replica) -> str:
    """Such as `2 x NVIDIA L4`, or the processor."""
    gpus = replica.gpus
    if not gpus:
        return replica.first["cpu"] or "a CPU"
    counted = ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
    return gpus[0] if len(gpus) == 1 else counted


def engine_name(replica: Replica) -> str:
    """Such as `vllm 0.32.0`."""
    return " ".join(filter(None, (replica.first["engine"], replica.first["engine_version"])))


def _model_name(replica: Replica, runs: Mapping[str, Row], *, several_pairs: bool) -> str:
    quantization = replica.first["quantization"]
    numbers = f" in {quantization}" if quantization else ""
    if replica.subject == "student":
        return runs[replica.runs[0]]["group_label"] + numbers
    if replica.subject == "teacher":
        return (f"teacher of {replica.model}" if several_pairs else "teacher") + numbers
    return f"{replica.subject} {replica.runs[0]}{numbers}"


def _parts(replica: Replica) -> tuple[str, ...]:
    first = replica.first
    limit_w = first["power_limit_w"]
    return (
        f" on {hardware_words(replica)}",
        "" if limit_w is None else f" at {limit_w:g} W",
        f" behind {engine_name(replica)}",
        f" ({first['flags'] or 'no flags'})",
        f" in {first['precision'] or 'unknown numbers'}",
        f" ({first['workload_prompt_tokens']} tokens read, {first['workload_output_tokens']} "
        "written)",
    )
